"""What a returned text costs by each method: network, judge, and the rest, with random weights at the size that is asked for.

    OMP_NUM_THREADS=1 python benchmarks/methods.py      # MDLM-OWT's size, a judge of RoBERTa's: half an hour on one core
    python benchmarks/methods.py --size embedded --judge small

Prints one table in Markdown. It tells nothing of the texts: random weights write noise, and a random judge likes none better.
Seconds are those of the processor where there is one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from fktext.masked.process import MaskedDiffusion
from fktext.rewards import Scorer, Weighted
from fktext.smc import At, Every, LookAhead, Nothing, Predictions, Values
from fktext.smc.noise import Noise, population_key
from fktext.smc.steer import Plan, steer
from fktext.testing.speed import Timed, clock, decode
from fktext.values.head import Head
from setting import SIZES, hardware, network

JUDGES = {
    "roberta": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "small": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
}
WEIGHINGS = 20


class Judge:
    """A classifier of random weights, log p of its first class, that reads texts of token numbers."""

    def __init__(self, size: str, length: int, device: str) -> None:
        from transformers import RobertaConfig, RobertaForSequenceClassification

        torch.manual_seed(1)
        config = RobertaConfig(vocab_size=50_265, max_position_embeddings=length + 4, **JUDGES[size])
        self.model = RobertaForSequenceClassification(config).eval().requires_grad_(False).to(device)
        self.seconds = 0.0

    @torch.inference_mode()
    def score(self, samples: Sequence[str]) -> torch.Tensor:
        """Map texts of equal length to log-probabilities."""
        started = clock(self.model.device)
        ids = torch.tensor([[int(word) % 50_000 + 10 for word in sample.split()] for sample in samples])
        rows = ids.to(self.model.device).split(16)
        logits = torch.cat([self.model(part).logits for part in rows])
        values = torch.log_softmax(logits.float(), -1)[:, 0].cpu()
        self.seconds += clock(self.model.device) - started
        return values


def methods(hidden: int, device: str) -> dict[str, tuple[bool, LookAhead]]:
    """Whether each is weighed on the way, and what by."""
    head = Head(hidden, "logistic").requires_grad_(False).to(device)
    return {
        "best-of-n": (False, Nothing()),
        "fk, learned value": (True, Values([head])),
        "fk, 1 prediction": (True, Predictions(1)),
        "fk, 4 predictions": (True, Predictions(4)),
    }


def main() -> None:
    """Time each method once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="owt")
    parser.add_argument("--judge", choices=JUDGES, default="roberta")
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    net, judge = network(args.size, args.length, args.device), Judge(args.judge, args.length, args.device)
    templates = torch.full((1, args.length), net.mask_id, device=args.device)
    hidden = net.encode(templates, torch.ones(1, device=args.device)).shape[-1]
    print(
        f"N={args.particles}, T={args.steps}, L={args.length}, {WEIGHINGS} weighings, judge {args.judge}; {hardware(args.device)}\n"
    )
    header = [
        "method",
        "denoiser rows",
        "head positions",
        "reward calls",
        "network s",
        "judge s",
        "other s",
        "seconds",
        "of best-of-n's",
    ]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    first: float | None = None
    for name, (weighed, ahead) in methods(hidden, args.device).items():
        total, timed, ledger = once(net, judge, weighed, ahead, args)
        first = first or total
        shown = [ledger.denoiser_rows, ledger.head_positions, ledger.reward_calls]
        seconds = [f"{each:.1f}" for each in (timed, judge.seconds, total - timed - judge.seconds, total)]
        print(f"| {' | '.join(map(str, [name, *shown, *seconds, f'{total / first:.2f}']))} |", flush=True)


def once(net: Any, judge: Judge, weighed: bool, ahead: LookAhead, args: argparse.Namespace) -> tuple[float, float, Any]:
    """Return seconds of one population, those of its network, and its ledger."""
    judge.seconds = 0.0
    timed, templates = Timed(net), torch.full((1, args.length), net.mask_id, device=args.device)
    process = MaskedDiffusion(timed, templates, args.particles, args.steps, decode)
    schedule = Every(args.steps // WEIGHINGS) if weighed else At(())
    noise = Noise.of([population_key(0, "methods", 0)], args.particles, args.device)
    started = clock(args.device)
    ledger = steer(
        process, Scorer([Weighted("judge", judge)]), noise, Plan(args.particles, schedule, lam=10.0, look_ahead=ahead)
    ).ledger
    return clock(args.device) - started, timed.seconds, ledger


if __name__ == "__main__":
    main()
