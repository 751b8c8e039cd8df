"""fktext's sampler against two dense ones at one setting: rows, seconds, memory (see `fktext.testing.speed` for how).

python benchmarks/lazy.py                       # MDLM-OWT's size with random weights; minutes on a CPU
python benchmarks/lazy.py --size small          # seconds
"""

from __future__ import annotations

import argparse

import torch

from fktext.schedules import Every
from fktext.steer import Plan
from fktext.testing.speed import compare
from setting import SIZES, hardware, network, peak_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="owt")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--x0-samples", type=int, default=4)
    parser.add_argument("--dense-steps", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    net = network(args.size, args.length, args.device, getattr(torch, args.dtype))
    parameters = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    print(
        f"{parameters:.0f} M parameters, {args.dtype}, V={net.vocab_size}, L={args.length}, T={args.steps}, {args.prompts} prompts "
        f"x N={args.particles}, weighing every {args.every} steps, {args.x0_samples} x0 draws; {hardware(args.device)}",
        flush=True,
    )
    speed = compare(
        net,
        Plan(args.particles, Every(args.every), lam=10.0, x0_samples=args.x0_samples),
        populations=args.prompts,
        steps=args.steps,
        length=args.length,
        dense_steps=args.dense_steps,
    )
    print("\n".join(speed.lines()))
    print(f"       {3600 * args.prompts / speed.lazy:.0f} prompts an hour, peak {peak_memory(args.device)}, dense included")


if __name__ == "__main__":
    main()
