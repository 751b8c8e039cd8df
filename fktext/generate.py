"""From prompts to weighted populations of texts: the one call behind `fktext generate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fktext import noise as streams
from fktext.errors import FktextError, PopulationError, UsageError
from fktext.ledger import Ledger
from fktext.noise import Noise, population_key
from fktext.rewards import Scorer, Text, Weighted
from fktext.settings import Settings
from fktext.steer import Result, Step, collect, steer_steps

if TYPE_CHECKING:
    from fktext.text_model import TextModel


@dataclass(frozen=True)
class Progress:
    """How far the run is: `done` of `total` units, one unit a population's weighing."""

    done: int
    total: int


@dataclass(frozen=True)
class Population:
    """The weighted particles of one prompt's one repetition, at the end.

    Attributes:
        prompt_index, sample_index: which prompt, which of its populations; `prompt` the prompt itself.
        key: the 64-bit key of its noise.
        texts: N texts.
        names: the P rewards; `values` (N, P) what each gave, `rewards` (N,) their weighted sum.
        log_w: (N,) normalised log-weights.
        log_z: log of the unbiased estimate of E_p[exp(lambda r)].
        roots: (N,) the particle at step 0 each text descends from.
        steps: every weighing of this population: tensors of `fktext.steer.Step` without their population axis.
        ledger: cost of the batch of populations this one was computed in, divided by their number.
    """

    prompt_index: int
    sample_index: int
    prompt: str
    key: int
    texts: list[Text]
    names: tuple[str, ...]
    values: Tensor
    rewards: Tensor
    log_w: Tensor
    log_z: float
    roots: Tensor
    steps: tuple[Step, ...]
    ledger: Ledger

    def best(self) -> int:
        """The particle with the highest reward, the first among equals."""
        return int(self.rewards.argmax()) if self.names else 0

    def draw(self) -> int:
        """A particle drawn in proportion to its weight: a sample whose law tends to the tilted one as N grows."""
        uniform = Noise.of([self.key], 1).uniform(streams.RETURN, 0, 0)
        cumulative = self.log_w.exp().cumsum(0)
        return int(torch.searchsorted(cumulative / cumulative[-1], uniform.cpu())[0])

    def unique_roots(self) -> int:
        """How many particles of step 0 have descendants."""
        return len(self.roots.unique())


def generate(
    model: TextModel,
    terms: Sequence[Weighted],
    prompts: Sequence[str],
    settings: Settings,
    *,
    batch_size: int | None = None,
    skip: Container[tuple[int, int]] = (),
) -> Iterator[Progress | Population]:
    """Generate `settings.samples` weighted populations of texts for each prompt.

    Args:
        model: from `fktext.models.load`.
        terms: weighted rewards; may be empty with method "base".
        prompts: texts to continue; "" for none.
        settings: see `Settings`.
        batch_size: most particles computed at once; default 64 on a CPU, 1024 elsewhere. It does not change the result.
        skip: (prompt index, sample index) of populations that are there already.

    Yields:
        `Progress` after each weighing, and populations in order as their batches finish.

    Raises:
        UsageError: a setting out of range, a prompt that does not fit; before anything is computed.
        RewardError: a reward failed. FktextError: all particles of a population have weight zero; the message names its prompt.
    """
    settings = settings.for_model(model)
    if not terms and settings.method != "base":
        raise UsageError(f"method {settings.method!r} needs a reward")
    assert settings.length is not None
    templates = [model.template(prompt, settings.length) for prompt in prompts]
    seen: Counter[str] = Counter()
    wanted = []
    for index, prompt in enumerate(prompts):
        for sample in range(settings.samples):
            # the n-th occurrence of an equal prompt is a repetition of its own, so keys do not depend on the order of prompts
            key = population_key(settings.seed, prompt, seen[prompt] * settings.samples + sample)
            if (index, sample) not in skip:
                wanted.append((index, sample, key))
        seen[prompt] += 1
    device = torch.device(str(model.denoiser.device))
    rows = batch_size or (64 if device.type == "cpu" else 1024)
    group = max(1, rows // settings.particles)
    scorer, plan = Scorer(terms), settings.plan()
    steps = [model.num_steps(template, settings) for template in templates]
    weighings = {number: len(plan.schedule.weighings(number)) for number in set(steps)}
    done, total = 0, sum(weighings[steps[index]] for index, _, _ in wanted)
    for number, members in _batches(wanted, steps, group):
        mine = [index for index, _, _ in members]
        process = model.process([prompts[index] for index in mine], [templates[index] for index in mine], settings, rows)
        noise = Noise.of([key for _, _, key in members], settings.particles, device)
        kept: list[Step] = []
        try:
            for step in steer_steps(process, scorer, noise, plan):
                kept = [*kept[:-1], *(replace(before, samples=()) for before in kept[-1:]), step]
                yield Progress(done + len(kept) * len(members), total)
        except PopulationError as error:
            index, sample, _ = members[error.population]
            raise FktextError(f"prompt {prompts[index]!r}, sample {sample}: {error.message}") from error
        done += weighings[number] * len(members)
        result = collect(iter(kept))
        for place, (index, sample, key) in enumerate(members):
            yield _population(result, place, len(members), scorer.names, (index, sample, prompts[index], key))


Member = tuple[int, int, int]  # prompt index, sample index, key


def _batches(wanted: Sequence[Member], steps: Sequence[int], size: int) -> Iterator[tuple[int, list[Member]]]:
    """Neighbours that need the same number of steps, at most `size` at a time, with that number."""
    for number, run in groupby(wanted, key=lambda member: steps[member[0]]):
        members = list(run)
        for first in range(0, len(members), size):
            yield number, members[first : first + size]


def _population(result: Result, place: int, populations: int, names: tuple[str, ...], who: tuple[int, int, str, int]) -> Population:
    size = result.log_w.shape[1]
    own: dict[str, Any] = {name: getattr(result, name)[place].cpu() for name in ("values", "log_w", "roots")}
    spread = Ledger(**{name: value / populations for name, value in asdict(result.ledger).items()})
    return Population(
        *who,
        texts=list(result.samples[place * size : (place + 1) * size]),
        names=names,
        rewards=result.reward[place].cpu(),
        log_z=float(result.log_z[place]),
        steps=tuple(step.of(place) for step in result.steps),
        ledger=spread,
        **own,
    )
