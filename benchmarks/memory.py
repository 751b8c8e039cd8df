"""Peak memory of a weighing, the moment that needs most, against the formula of docs/speed.md.

    python benchmarks/memory.py                     # MDLM-OWT's size with random weights; minutes on a CPU
    python benchmarks/memory.py --size small

All rows are different and half masked, go through the network in one batch, and four predictions of each are drawn.
"""

from __future__ import annotations

import argparse

import torch

from fktext.masked.process import HEAD_ELEMENTS, MaskedDiffusion
from fktext.smc.noise import Noise
from fktext.testing.speed import decode, peak_memory
from setting import SIZES, hardware, network


def formula(rows: int, length: int, width: int) -> float:
    """Bytes beside the weights, in float32."""
    kept = 4 * rows * length * width * 4  # hidden states: old, fresh, fresh in place, new
    inside = 16 * rows * length * width * 4  # the network's own
    head = 5 * HEAD_ELEMENTS * 4
    return kept + inside + head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="owt")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    net = network(args.size, args.length, args.device)
    print(f"{args.size} size, L={args.length}; {hardware(args.device)}")
    for rows in [2, *args.rows]:  # the first makes libraries take what they keep
        generator = torch.Generator().manual_seed(rows)
        ids = torch.randint(net.vocab_size - 1, (rows, args.length), generator=generator)
        ids[torch.rand(ids.shape, generator=generator) < 0.5] = net.mask_id
        process = MaskedDiffusion(net, ids[:1].to(args.device), rows, 1000, decode, batch_size=rows)
        state = process.start(ids.to(args.device))
        before = peak_memory(args.device, reset=True)
        _, state = process.predict(state, 500, Noise.of([0], rows, args.device), 4)
        state.known = torch.zeros_like(state.known)  # as if all had changed
        _, state = process.predict(state, 500, Noise.of([0], rows, args.device), 4)
        after, expected = peak_memory(args.device), formula(rows, args.length, SIZES[args.size]["hidden_dim"])
        if before is None or after is None:
            raise SystemExit("peak memory is known on Linux and on CUDA only")
        if rows in args.rows:
            print(f"{rows:>5} rows: {(after - before) / 2**20:>7.0f} MiB, by the formula {expected / 2**20:>7.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
