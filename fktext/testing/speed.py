"""What lazy denoising saves: the same steered run against two dense samplers, on any masked denoiser and any machine.

(a) dense: every row through the network at every step, with float32 Gumbel draws over the whole vocabulary for the state and for
each prediction of x0, scored or not, as published steering code samples. (b) cache: the same, but p(x0) is kept through steps in
which no token of the whole batch changes, as in MDLM's `ddpm_cache`. Steps of one kind cost the same, so a few of each are timed
and scaled to T. Lazy runs in full. The reward costs nothing, so that samplers are what is timed. On a CPU with one thread seconds
are those of the processor, so that what else runs on the machine does not count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fktext.ledger import Ledger
from fktext.masked.process import MaskedDiffusion
from fktext.noise import Noise, population_key
from fktext.process import ReverseProcess
from fktext.rewards import Scorer, Text, Weighted
from fktext.schedules import At
from fktext.steer import Plan, steer
from fktext.testing.dense import DenseAncestral


@dataclass(frozen=True)
class Speed:
    """What a comparison measured.

    Attributes:
        rows: denoiser rows per particle; `lone` the distinct states expected of a particle without clones.
        head_positions, reward_requests: of the lazy run.
        lazy: its seconds; `outside` the share of them outside network and reward.
        dense, cache: seconds that T steps of the dense samplers take, from a few of them.
        forward: share of the cached sampler's steps that need a forward.
        steps: T.
    """

    rows: float
    lone: float
    head_positions: int
    reward_requests: int
    lazy: float
    outside: float
    dense: float
    cache: float
    forward: float
    steps: int

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"lazy:  {self.rows:.1f} denoiser rows per particle (dense {self.steps}; distinct states of a lone one "
            f"{self.lone:.1f}), {self.head_positions} head positions, {self.reward_requests} rewards asked, {self.lazy:.1f} s, "
            f"{self.outside:.1%} of them outside network and reward",
            f"dense: {self.dense / self.steps:.3f} s a step, {self.dense:.1f} s for {self.steps}",
            f"cache: {self.forward:.0%} of its steps need a forward, {self.cache:.1f} s for {self.steps}",
            f"ratio: {self.dense / self.lazy:.1f}x faster than dense, {self.cache / self.lazy:.1f}x than cache, "
            f"{self.steps / self.rows:.1f}x fewer rows",
        ]


class Free:
    """A reward that costs nothing."""

    def score(self, samples: Sequence[str]) -> list[float]:
        """Any cheap function of the text."""
        return [-(sum(map(ord, sample)) % 101) / 50 for sample in samples]


class Timed:
    """A denoiser with a stopwatch: `seconds` in the network and its head."""

    def __init__(self, net: Any) -> None:
        self.net, self.seconds = net, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.net, name)

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        """The network's."""
        return self._time(self.net.encode, ids, t)

    def logits(self, hidden: Tensor) -> Tensor:
        """The network's."""
        return self._time(self.net.logits, hidden)

    def _time(self, call: Any, *arguments: Tensor) -> Tensor:
        started = clock(self.net.device)
        out: Tensor = call(*arguments)
        self.seconds += clock(self.net.device) - started
        return out


def decode(ids: Tensor, population: Tensor) -> list[Text]:
    """Token ids as words, so that no tokenizer is needed or timed."""
    return [Text(" ".join(map(str, row))) for row in ids.tolist()]


def run(process: ReverseProcess[Any], plan: Plan, populations: int, device: str) -> tuple[float, Ledger]:
    """Seconds and cost of one steered run."""
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
    lazy, ledger = run(MaskedDiffusion(timed, templates, plan.particles, steps, decode), plan, populations, device)

    generator = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "wasteful_x0": plan.x0_samples, "dtype": torch.float32}
    dense = DenseAncestral(net, templates, plan.particles, dense_steps, decode, **options)
    full = run(dense, unsteered, populations, device)[0] / dense_steps
    still = DenseAncestral(net, templates, plan.particles, 10**7, decode, cache=True, **options)
    state = still.init(Noise.of([0], 1))  # a ten-millionth of the way a step: hardly anything is ever revealed
    seconds = []
    for count in (1, dense_steps + 1):  # one forward each; the difference is cached steps alone
        started = clock(device)
        still.advance(state, 1, 1 + count, Noise.of([0], 1))
        seconds.append(clock(device) - started)
    kept = max(0.0, seconds[1] - seconds[0]) / dense_steps
    forward = 1 - (1 - 1 / steps) ** (rows * length)  # share of steps in which some token of the batch is revealed
    return Speed(
        rows=ledger.denoiser_rows / rows,
        lone=steps * (1 - (1 - 1 / steps) ** length),
        head_positions=ledger.head_positions,
        reward_requests=ledger.reward_requests,
        lazy=lazy,
        outside=(lazy - timed.seconds - ledger.reward_seconds) / lazy,
        dense=full * steps,
        cache=(forward * full + (1 - forward) * kept) * steps,
        forward=forward,
        steps=steps,
    )


def clock(device: object) -> float:
    """Seconds, all work of a GPU done; on a CPU with one thread those of the processor."""
    if str(device).startswith("cuda"):
        torch.cuda.synchronize()
    return time.process_time() if str(device) == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()
