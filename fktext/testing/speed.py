"""Measure what lazy denoising saves: the same steered run against two dense samplers, on any denoiser and machine.

(a) dense: every row through the network at every step, with float32 Gumbel draws over the whole vocabulary for the state and for
each prediction of x0, scored or not, as published steering code samples. (b) cache: the same, but p(x0) is kept through steps in
which no token of the whole batch changes, as in MDLM's `ddpm_cache`. Steps of one kind cost the same, so a few of each are timed
and scaled to T; where memory does not hold their logits they are left out. Lazy runs in full. The reward costs nothing, so that
samplers are what is timed. On a CPU with one thread seconds are those of the processor, so that what else runs on the machine does
not count.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fktext.masked.process import MaskedDiffusion
from fktext.rewards import Scorer, Weighted
from fktext.smc.ledger import Ledger
from fktext.smc.lookahead import Predictions, Values
from fktext.smc.noise import Noise, population_key
from fktext.smc.process import Features, ReverseProcess
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, steer
from fktext.testing.dense import DenseAncestral
from fktext.text import Text
from fktext.values.head import Head

DENSE_COPIES = 6  # of (rows, L, V) float32 that a dense sampler holds at once, noise and all; a little more than was seen


@dataclass(frozen=True)
class Speed:
    """Hold what a comparison measured.

    Attributes:
        rows: denoiser rows per particle; `lone` the distinct states expected of a particle without clones.
        ledger: of the lazy run.
        lazy: its seconds; `outside` the share of them outside network and reward.
        peak: most bytes in use during it, the network's included; None where that cannot be told.
        dense, cache: seconds that T steps of the dense samplers take, from a few of them; None where their `logits` do not fit.
        logits: bytes that a dense sampler's logits and draws take.
        forward: share of the cached sampler's steps that need a forward.
        populations, steps: how many, and T.
    """

    rows: float
    lone: float
    ledger: Ledger
    lazy: float
    outside: float
    peak: int | None
    dense: float | None
    cache: float | None
    logits: int
    forward: float
    populations: int
    steps: int

    def lines(self) -> list[str]:
        """Spell it for people."""
        peak = "unknown" if self.peak is None else f"{self.peak / 2**30:.2f} GiB"
        lazy = [
            f"lazy:  {self.rows:.1f} denoiser rows per particle (dense {self.steps}; distinct states of a lone one "
            f"{self.lone:.1f}), {self.ledger.head_positions} head positions, {self.ledger.reward_requests} rewards asked, "
            f"{self.ledger.reward_calls} computed, {self.lazy:.1f} s, {self.outside:.1%} of them outside network and reward",
            f"       {3600 * self.populations / self.lazy:.0f} populations an hour, peak memory {peak}",
        ]
        if self.dense is None or self.cache is None:
            return [
                *lazy,
                f"dense: not run: its logits and draws take {self.logits / 2**30:.1f} GiB, more than is free",
            ]
        return [
            *lazy,
            f"dense: {self.dense / self.steps:.3f} s a step, {self.dense:.1f} s for {self.steps}",
            f"cache: {self.forward:.0%} of its steps need a forward, {self.cache:.1f} s for {self.steps}",
            f"ratio: {self.dense / self.lazy:.1f}x faster than dense, {self.cache / self.lazy:.1f}x than cache, "
            f"{self.steps / self.rows:.1f}x fewer rows",
        ]


class Free:
    """A reward that costs nothing."""

    def score(self, samples: Sequence[str]) -> list[float]:
        """Return any cheap function of the text."""
        return [-(sum(map(ord, sample)) % 101) / 50 for sample in samples]


class Timed:
    """Time a denoiser: `seconds` in the network and its head."""

    def __init__(self, net: Any) -> None:
        self.net, self.seconds = net, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.net, name)

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        """Run the network's, timed."""
        return self._time(self.net.encode, ids, t)

    def logits(self, hidden: Tensor) -> Tensor:
        """Run the network's, timed."""
        return self._time(self.net.logits, hidden)

    def _time(self, call: Any, *arguments: Tensor) -> Tensor:
        started = clock(self.net.device)
        out: Tensor = call(*arguments)
        self.seconds += clock(self.net.device) - started
        return out


def decode(ids: Tensor, population: Tensor) -> list[Text]:
    """Write token ids as words, so that no tokenizer is needed or timed."""
    return [Text(" ".join(map(str, row))) for row in ids.tolist()]


def run(process: ReverseProcess[Any], plan: Plan, populations: int, device: str) -> tuple[float, Ledger]:
    """Return the seconds and the cost of one steered run."""
    keys = [population_key(0, "speed", index) for index in range(populations)]
    noise, scorer = Noise.of(keys, plan.particles, device), Scorer([Weighted("free", Free())])
    started = clock(device)
    ledger = steer(process, scorer, noise, plan).ledger
    return clock(device) - started, ledger


def compare(net: Any, plan: Plan, *, populations: int = 1, steps: int = 1000, length: int = 128, dense_steps: int = 5) -> Speed:
    """Time the lazy sampler and both dense ones.

    Args:
        net: a denoiser (`fktext.masked.denoiser.Denoiser`).
        plan: how to steer.
        populations: prompts, none of them with a text.
        steps: T.
        length: L.
        dense_steps: of each kind, to time.
    """
    device = str(net.device)
    rows, templates = populations * plan.particles, torch.full((populations, length), net.mask_id, device=device)
    unsteered = replace(plan, schedule=At([]))
    run(MaskedDiffusion(net, templates, plan.particles, 4, decode), unsteered, populations, device)  # warm up
    timed = Timed(net)
    peak_memory(device, reset=True)
    lazy, ledger = run(MaskedDiffusion(timed, templates, plan.particles, steps, decode), plan, populations, device)
    peak = peak_memory(device)
    logits = DENSE_COPIES * rows * length * net.vocab_size * 4
    forward = 1 - (1 - 1 / steps) ** (rows * length)  # share of steps in which some token of the batch is revealed
    full, kept = _dense(net, templates, plan, dense_steps) if logits < free_memory(device) else (None, None)
    return Speed(
        rows=ledger.denoiser_rows / rows,
        lone=steps * (1 - (1 - 1 / steps) ** length),
        ledger=ledger,
        lazy=lazy,
        outside=(lazy - timed.seconds - ledger.reward_seconds) / lazy,
        peak=peak,
        dense=None if full is None else full * steps,
        cache=None if full is None or kept is None else (forward * full + (1 - forward) * kept) * steps,
        logits=logits,
        forward=forward,
        populations=populations,
        steps=steps,
    )


@dataclass(frozen=True)
class Overhead:
    """Tell what a learned value costs beside the network.

    Attributes:
        network: seconds in the network and its vocabulary head.
        value: seconds in the value's head.
        rows: denoiser rows; `asked` particles that the value was asked about.
    """

    network: float
    value: float
    rows: int
    asked: int


def overhead(net: Any, *, particles: int = 8, steps: int = 20, length: int = 128) -> Overhead:
    """Time a value's head of random weights in a steered run that is weighed after each step, when it is asked most often.

    Args:
        net: a denoiser (`fktext.masked.denoiser.Denoiser`).
        particles: N.
        steps: T.
        length: L.
    """
    device, seconds, asked = str(net.device), 0.0, 0
    templates = torch.full((1, length), net.mask_id, device=device)
    net.encode(templates, torch.ones(1, device=device))  # warm up
    head = Head(net.encode(templates, torch.ones(1, device=device)).shape[-1], "logistic").requires_grad_(False).to(device)

    def value(features: Features) -> Tensor:
        nonlocal seconds, asked
        started = clock(device)
        told: Tensor = head(features)
        seconds, asked = seconds + clock(device) - started, asked + len(told)
        return told

    timed = Timed(net)
    plan = Plan(particles, Every(1), look_ahead=Values([value]))
    _, ledger = run(MaskedDiffusion(timed, templates, particles, steps, decode), plan, 1, device)
    return Overhead(timed.seconds, seconds, ledger.denoiser_rows, asked)


def _dense(net: Any, templates: Tensor, plan: Plan, steps: int) -> tuple[float, float]:
    """Return the seconds of a dense step, and of one that needs no forward; both from so many."""
    device, populations = str(net.device), len(templates)
    generator = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {
        "generator": generator,
        "wasteful_x0": plan.look_ahead.samples if isinstance(plan.look_ahead, Predictions) else 0,
        "dtype": torch.float32,
    }
    dense = DenseAncestral(net, templates, plan.particles, steps, decode, **options)
    full = run(dense, replace(plan, schedule=At([])), populations, device)[0] / steps
    still = DenseAncestral(net, templates, plan.particles, 10**7, decode, cache=True, **options)
    state = still.init(Noise.of([0], 1))  # a ten-millionth of the way a step: hardly anything is ever revealed
    seconds = []
    for count in (1, steps + 1):  # one forward each; the difference is cached steps alone
        started = clock(device)
        still.advance(state, 1, 1 + count, Noise.of([0], 1))
        seconds.append(clock(device) - started)
    return full, max(0.0, seconds[1] - seconds[0]) / steps


def clock(device: object) -> float:
    """Return the time in seconds, all work of a GPU done; on a CPU with one thread that of the processor."""
    if str(device).startswith("cuda"):
        torch.cuda.synchronize()
    return time.process_time() if str(device) == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def peak_memory(device: str, reset: bool = False) -> int | None:
    """Return the most bytes in use since the last reset: of the GPU, or on Linux of the process; None where unknown."""
    if device.startswith("cuda"):
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def free_memory(device: str) -> float:
    """Return the bytes that are free: of the GPU, or on Linux of the machine; infinite where unknown."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return float("inf")
    return 1024 * int(found[1]) if found else float("inf")
