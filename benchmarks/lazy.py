"""Lazy against dense denoising: rows per particle, and wall-clock time for the same steered run.

    python benchmarks/lazy.py                       # MDLM-OWT's size with random weights; minutes on a CPU
    python benchmarks/lazy.py --size small          # seconds

Dense is how published code samples: every row through the network at every step, with float32 Gumbel draws over the whole
vocabulary for the state and for each prediction of x0, scored or not. Its steps all cost the same, so `--dense-steps` of them
are timed and scaled to T; lazy runs in full. Both steer with the same rewards, weighings and weights, in one process.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from fktext.ledger import Ledger
from fktext.masked.dit import DiT
from fktext.masked.process import MaskedDiffusion
from fktext.noise import Noise, population_key
from fktext.rewards import Scorer, Text, Weighted
from fktext.schedules import At, Every
from fktext.steer import Plan, steer
from fktext.testing.dense import DenseAncestral

SIZES = {
    "owt": {"vocab_size": 50_258, "hidden_dim": 768, "n_blocks": 12, "n_heads": 12, "cond_dim": 128},
    "small": {"vocab_size": 2_000, "hidden_dim": 128, "n_blocks": 2, "n_heads": 4, "cond_dim": 32},
}


class Vowels:
    """A reward that costs nothing, so that the sampler is what is timed."""

    def score(self, samples: Sequence[str]) -> list[float]:
        """Any cheap function of the text."""
        return [-(sum(map(ord, sample)) % 101) / 50 for sample in samples]


def cpu_name() -> str:
    """The processor as the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def decode(ids: torch.Tensor, population: torch.Tensor) -> list[Text]:
    return [Text(" ".join(map(str, row))) for row in ids.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="owt")
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--x0-samples", type=int, default=4)
    parser.add_argument("--dense-steps", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    size = SIZES[args.size]
    net = DiT(**size, model_length=args.length).eval().requires_grad_(False)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    net = net.to(args.device)
    hardware = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{cpu_name()}, {os.cpu_count()} cores"
    parameters = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    print(
        f"{parameters:.0f} M parameters, V={size['vocab_size']}, L={args.length}, T={args.steps}, N={args.particles}, "
        f"weighing every {args.every} steps, {args.x0_samples} x0 draws; {hardware}, torch {torch.__version__}"
    )

    noise = Noise.of([population_key(0, "benchmark")], args.particles, args.device)
    templates = torch.full((1, args.length), net.mask_id, device=args.device)
    scorer = Scorer([Weighted("vowels", Vowels())])

    def timed(process: object, plan: Plan) -> tuple[float, Ledger]:
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        started = time.perf_counter()
        ledger = steer(process, scorer, noise, plan).ledger  # type: ignore[arg-type]
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - started, ledger

    warm = MaskedDiffusion(net, templates, args.particles, 4, decode)
    timed(warm, Plan(args.particles, At([])))
    plan = Plan(args.particles, Every(args.every), lam=10.0, x0_samples=args.x0_samples)
    lazy_seconds, ledger = timed(MaskedDiffusion(net, templates, args.particles, args.steps, decode), plan)
    rows = ledger.denoiser_rows / args.particles
    print(
        f"lazy:  {rows:.1f} denoiser rows per particle (dense: {args.steps}), {ledger.head_positions} head positions, "
        f"{ledger.reward_requests} rewards asked, {lazy_seconds:.1f} s, of which {ledger.denoiser_seconds:.1f} s in the sampler"
    )
    dense = DenseAncestral(
        net,
        templates,
        args.particles,
        args.dense_steps,
        decode,
        generator=torch.Generator(args.device).manual_seed(0),
        wasteful_x0=args.x0_samples,
        dtype=torch.float32,
    )
    seconds, _ = timed(dense, Plan(args.particles, At([]), lam=10.0))
    dense_seconds = seconds / args.dense_steps * args.steps
    print(
        f"dense: {seconds / args.dense_steps:.2f} s per step over {args.dense_steps} steps, {dense_seconds:.1f} s for {args.steps}"
    )
    print(f"ratio: {dense_seconds / lazy_seconds:.1f}x faster, {args.steps / rows:.1f}x fewer rows")


if __name__ == "__main__":
    main()
