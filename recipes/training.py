"""Train a network so that a run may end at any time: what the recipes of both language models share.

Muon moves the matrices of the encoder's layers, AdamW all else; what is judged and written is a moving average of the weights. The
learning rate is constant, then decays linearly to zero over the last `--cooldown` steps, so a run may be resumed and lengthened
before its cool-down. The same command goes on from the checkpoint in `--work`, to the same weights, bit for bit, as if it had never
stopped (on the same machine with the same `--threads`). `--export-only` writes the average as it stands, with the log.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from muon import Muon

HEADS = ("cls", "lm_head", "word_embeddings", "timestep")  # parts of the names of what learns at `head_rate`
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Settings:
    """What must not change while a run goes on."""

    optimizer: str  # "muon" or "adamw"
    batch_tokens: int
    rate: float
    head_rate: float
    warmup: int
    average: float  # decay of the weights' moving average, a step
    seed: int


class Run:
    """A training run as it stands: all that goes into a checkpoint, so that a resumed run is the run that never stopped."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average))
        self.optimizers = optimizers(model, settings)
        self.noise = torch.Generator().manual_seed(settings.seed)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.log: list[dict[str, float]] = []

    def save(self, path: Path) -> None:
        """Write the checkpoint; a run that is killed meanwhile leaves the one before."""
        state = {
            "settings": vars(self.settings),
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "noise": self.noise.get_state(),
            "counts": (self.step, self.tokens, self.seconds),
            "log": self.log,
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same settings."""
        state = torch.load(path, weights_only=True)
        if state["settings"] != vars(self.settings):
            raise SystemExit(
                f"{path} is of a run with {state['settings']}, not {vars(self.settings)}: ask for those, or give another --work"
            )
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.noise.set_state(state["noise"])
        self.step, self.tokens, self.seconds = state["counts"]
        self.log = state["log"]

    def train(
        self,
        batches: Iterable[Batch],
        loss: Callable[[Batch, torch.Generator], tuple[Tensor, Tensor]],
        steps: int,
        cooldown: int,
    ) -> Iterator[float]:
        """Train up to step `steps`, yielding the loss after each step, in nats per token.

        `batches` are those of the whole run, from its first step on; `loss` gives a batch's nats, and the tokens they are of.
        """
        bfloat16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
        for batch in islice(batches, self.step, steps):
            started = time.process_time()
            factor = min(1.0, (self.step + 1) / self.settings.warmup, (steps - self.step) / max(1, cooldown))
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                total, size = loss(batch, self.noise)
                (total / size).backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                for optimizer in self.optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = group["peak"] * factor
                    optimizer.step()
                    optimizer.zero_grad()
            self.averaged.update_parameters(self.model)
            self.step, self.tokens = self.step + 1, self.tokens + int(size)
            self.seconds += time.process_time() - started
            yield (total / size).item()

    def write_log(self, folder: Path) -> None:
        """Write a line of JSON for every check."""
        lines = [json.dumps(line) + "\n" for line in self.log]
        (folder / "training.jsonl").write_text("".join(lines), encoding="utf-8")


def optimizers(model: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """AdamW for the embeddings, head, norms and biases; Muon, or AdamW too, for the matrices of the encoder's layers."""
    matrices, head, rest = [], [], []
    for name, parameter in model.named_parameters():
        if any(part in name for part in HEADS):
            head.append(parameter)
        elif "encoder.layer" in name and parameter.ndim == 2:
            matrices.append(parameter)
        else:
            rest.append(parameter)
    groups = [{"params": rest, "peak": settings.rate}, {"params": head, "peak": settings.head_rate}]
    inner = {"params": matrices, "peak": settings.rate}
    if settings.optimizer == "muon":
        return [Muon([inner], lr=settings.rate), adamw(groups)]
    return [adamw([inner, *groups])]


def adamw(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """AdamW as all recipes use it; the rates are set step by step."""
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01, fused=True)


def parser(doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The options of a recipe that trains."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", type=Path, required=True, help="directory holding lm_mix/train.txt.gz and valid.txt.gz")
    found.add_argument("--out", type=Path, required=True)
    found.add_argument("--work", type=Path, help="tokenised texts and checkpoint")
    found.add_argument("--start", type=Path, help="a folder to train on from")
    found.add_argument("--steps", type=int)
    found.add_argument("--cooldown", type=int)
    found.add_argument("--warmup", type=int)
    found.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    found.add_argument("--batch-tokens", type=int)
    found.add_argument("--rate", type=float)
    found.add_argument("--head-rate", type=float)
    found.add_argument("--average", type=float, default=0.99, help="decay, a step, of the weights' moving average")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--minutes", type=float, default=math.inf, help="stop after this time; the same command goes on later")
    found.add_argument("--check", type=int, default=20, help="steps between checkpoints, each a line of the log")
    found.add_argument("--judge", type=int, default=100, help="steps between held-out figures; a multiple of --check")
    found.add_argument("--export-only", action="store_true", help="write the checkpoint's averaged weights and its log, and stop")
    found.set_defaults(**defaults)
    return found


def settings_of(args: argparse.Namespace) -> Settings:
    """What of the options must not change."""
    return Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})


def go_on(run: Run, args: argparse.Namespace) -> bool:
    """Load the checkpoint, if there is one; whether the run is only to be exported."""
    checkpoint = args.work / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    elif args.export_only:
        raise SystemExit(f"nothing to export: {checkpoint} does not exist")
    return bool(args.export_only)


def finish(
    run: Run,
    args: argparse.Namespace,
    batches: Iterable[Batch],
    loss: Callable[[Batch, torch.Generator], tuple[Tensor, Tensor]],
    held_out: Callable[[nn.Module], dict[str, Any]],
) -> bool:
    """Train with checkpoints and a log until the last step, or until the time is over; whether it is finished."""
    checkpoint = args.work / "checkpoint.pt"

    def note(**figures: Any) -> None:
        run.log.append({"step": run.step, "tokens": run.tokens, "seconds": round(run.seconds), **figures})
        run.write_log(args.work)
        print(run.log[-1], flush=True)

    if not run.log:
        note(**held_out(run.averaged.module))
    until, losses = time.monotonic() + 60 * args.minutes, []
    for value in run.train(batches, loss, args.steps, args.cooldown):
        if not math.isfinite(value):
            raise SystemExit(f"the loss is {value} at step {run.step}")
        losses.append(value)
        if run.step % args.check == 0:
            judged = held_out(run.averaged.module) if run.step % args.judge == 0 else {}
            note(loss=round(sum(losses) / len(losses), 4), **judged)
            run.save(checkpoint)
            losses = []
            if time.monotonic() > until:
                print(f"stopped at step {run.step} of {args.steps}; the same command goes on from there", flush=True)
                return False
    if run.log[-1]["step"] < run.step or "held_out" not in run.log[-1]:
        note(**held_out(run.averaged.module))
        run.save(checkpoint)
    return True
