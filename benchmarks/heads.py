"""What a learned value costs beside the network: its head's seconds as a share of the network's.

    OMP_NUM_THREADS=1 python benchmarks/heads.py                       # minutes on one core
    python benchmarks/heads.py --sizes embedded --lengths 24 128

Prints one table in Markdown. Networks and heads have random weights. Runs are weighed after each of their few steps, so the head is
asked as often as the network runs, and more often than by default: at 20 weighings of 1000 steps the share is smaller.

- rows: of particles that went through the network; asked: of those that the head was asked about.
- network, head: seconds; the network's include its vocabulary head.
- share: of the head's in the network's; per row: the same for one row of each.
"""

from __future__ import annotations

import argparse

import torch

from fktext.testing.speed import overhead
from setting import SIZES, hardware, network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["owt", "embedded"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[128], help="tokens; of each size")
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    print(f"N={args.particles}, weighed after each of {args.steps} steps; {hardware(args.device)}\n")
    header = ["size", "L", "rows", "asked", "network s", "head s", "share", "per row"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for size in args.sizes:
        for length in args.lengths:
            net = network(size, length, args.device)
            cost = overhead(net, particles=args.particles, steps=args.steps, length=length)
            each = (cost.value / cost.asked) / (cost.network / cost.rows)
            shown = [
                cost.rows,
                cost.asked,
                f"{cost.network:.2f}",
                f"{cost.value:.3f}",
                f"{cost.value / cost.network:.2%}",
                f"{each:.2%}",
            ]
            print(f"| {' | '.join(map(str, [size, length, *shown]))} |", flush=True)


if __name__ == "__main__":
    main()
