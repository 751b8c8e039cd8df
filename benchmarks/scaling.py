"""How the time of a steered run grows: with particles, prompts, steps and length, each alone.

    python benchmarks/scaling.py                    # an embedded model's size and length; minutes on a CPU
    python benchmarks/scaling.py --length 128 --sweep particles steps
    python benchmarks/scaling.py --size small --quick

Prints a row per run and, for each sweep, the exponent of a least-squares fit of log seconds (and log rows) against the log of what
was varied: 1 is linear. On a device that small batches do not fill, seconds grow more slowly than rows.
"""

from __future__ import annotations

import argparse

import torch

from fktext.masked.process import MaskedDiffusion
from fktext.smc.lookahead import Predictions
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan
from fktext.testing.speed import Timed, decode, run
from setting import SIZES, exponent, hardware, network

FIXED = {"particles": 8, "prompts": 1, "steps": 128}
SWEEPS = {"particles": [1, 4, 8, 16, 64], "prompts": [1, 4, 16], "steps": [128, 256, 512, 1000], "length": [1, 2, 4, 8]}
QUICK = {"particles": [4, 8, 16], "prompts": [1, 4], "steps": [64, 256], "length": [1, 2]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="embedded")
    parser.add_argument("--length", type=int, default=32, help="L where it is not varied; where it is, up to 8 times that")
    parser.add_argument("--sweep", nargs="+", choices=SWEEPS, default=list(SWEEPS), help="what to vary")
    parser.add_argument("--x0-samples", type=int, default=4)
    parser.add_argument("--weighings", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller runs")
    args = parser.parse_args()
    sweeps = {name: values for name, values in (QUICK if args.quick else SWEEPS).items() if name in args.sweep}
    if "length" in sweeps:
        sweeps["length"] = [factor * args.length for factor in sweeps["length"]]
    net = Timed(network(args.size, max([args.length, *sweeps.get("length", [])]), args.device))
    print(f"{args.size} size, {args.weighings} weighings, {args.x0_samples} x0 draws; {hardware(args.device)}")
    print("particles prompts steps length     rows     head  seconds outside  texts/h")

    def measure(particles: int, prompts: int, steps: int, length: int) -> tuple[float, float]:
        templates = torch.full((prompts, length), net.mask_id, device=args.device)
        plan = Plan(particles, Every(max(1, round(steps / args.weighings))), lam=10.0, look_ahead=Predictions(args.x0_samples))
        net.seconds = 0.0
        process = MaskedDiffusion(net, templates, particles, steps, decode, batch_size=args.batch_size)
        seconds, ledger = run(process, plan, prompts, args.device)
        outside = (seconds - net.seconds - ledger.reward_seconds) / seconds
        print(
            f"{particles:>9} {prompts:>7} {steps:>5} {length:>6} {ledger.denoiser_rows:>8} {ledger.head_positions:>8} "
            f"{seconds:>8.2f} {outside:>7.1%} {3600 * prompts / seconds:>8.0f}",
            flush=True,
        )
        return seconds, ledger.denoiser_rows

    run(MaskedDiffusion(net, torch.full((1, 32), net.mask_id, device=args.device), 2, 4, decode), Plan(2, At([])), 1, args.device)
    for name, values in sweeps.items():
        results = [measure(**{"length": args.length, **FIXED, name: value}) for value in values]
        seconds, rows = ([result[index] for result in results] for index in (0, 1))
        print(f"{name}: seconds grow with exponent {exponent(values, seconds):.2f}, rows with {exponent(values, rows):.2f}")


if __name__ == "__main__":
    main()
