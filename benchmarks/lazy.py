"""fktext's sampler against two dense ones: rows, seconds, memory, ratios (see `fktext.testing.speed` for how).

    python benchmarks/lazy.py                       # MDLM-OWT's size with random weights; minutes on a CPU
    python benchmarks/lazy.py --size small          # seconds
    python benchmarks/lazy.py --size small --particles 1 4 16 --length 32 128
    python benchmarks/lazy.py --grid                # N 1 to 64, 1 and 16 prompts, T 128 and 1000, L 128 and 1024; days on a CPU

With several values of something every combination is run, and at the end there is, for each of what was varied, the exponent of a
least-squares fit of log seconds (and log rows) against its log, the others held: 1 is linear.
"""

from __future__ import annotations

import argparse
from itertools import product

import torch

from fktext.smc.lookahead import Predictions
from fktext.smc.schedules import Every
from fktext.smc.steer import Plan
from fktext.testing.speed import compare
from setting import SIZES, exponent, hardware, network

PAPER = {"prompts": [1], "particles": [8], "steps": [1000], "length": [128]}
GRID = {"prompts": [1, 16], "particles": [1, 4, 8, 16, 64], "steps": [128, 1000], "length": [128, 1024]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="owt")
    for name, values in PAPER.items():
        parser.add_argument(f"--{name}", type=int, nargs="+", help=f"default {values[0]}")
    parser.add_argument("--grid", action="store_true", help="all of those, where they are not given")
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--x0-samples", type=int, default=4)
    parser.add_argument("--dense-steps", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    axes = {name: sorted(set(getattr(args, name) or values)) for name, values in (GRID if args.grid else PAPER).items()}
    net = network(args.size, max(axes["length"]), args.device, getattr(torch, args.dtype))
    parameters = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    print(
        f"{parameters:.0f} M parameters, {args.dtype}, V={net.vocab_size}, weighing every {args.every} steps, "
        f"{args.x0_samples} x0 draws; {hardware(args.device)}"
    )
    found = {}
    for setting in product(*axes.values()):
        prompts, particles, steps, length = setting
        print(f"{prompts} prompts x N={particles}, T={steps}, L={length}", flush=True)
        found[setting] = compare(
            net,
            Plan(particles, Every(args.every), lam=10.0, look_ahead=Predictions(args.x0_samples)),
            populations=prompts,
            steps=steps,
            length=length,
            dense_steps=args.dense_steps,
        )
        print("\n".join(found[setting].lines()), flush=True)
    for place, (name, values) in enumerate(axes.items()):
        others = [(key, each) for key, each in axes.items() if key != name]
        for held in product(*(each for _, each in others)) if len(values) > 1 else ():
            runs = [found[(*held[:place], value, *held[place:])] for value in values]
            at = ", ".join(f"{key} {value}" for (key, _), value in zip(others, held, strict=True))
            seconds = exponent(values, [run.lazy for run in runs])
            rows = exponent(values, [run.ledger.denoiser_rows for run in runs])
            print(f"{name} at {at}: seconds grow with exponent {seconds:.2f}, rows with {rows:.2f}")


if __name__ == "__main__":
    main()
