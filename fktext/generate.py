"""From prompts to weighted populations of texts: the one call behind `fktext generate`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from fktext import noise as streams
from fktext.errors import UsageError, unknown_name
from fktext.ledger import Ledger
from fktext.noise import Noise, population_key
from fktext.potentials import POTENTIALS
from fktext.rewards import Scorer, Text, Weighted
from fktext.schedules import At, Every, Schedule
from fktext.smc import RESAMPLERS
from fktext.steer import Plan, Result, Step, collect, steer_steps

if TYPE_CHECKING:
    from fktext.models import TextModel

Method = Literal["fk", "best-of-n", "base"]
WEIGHINGS = 20  # how often a run is weighed unless it says otherwise


@dataclass(frozen=True)
class Settings:
    """Everything beside model, rewards and prompts that decides what is generated.

    Attributes:
        particles: N, particles per population.
        samples: populations per prompt.
        length: tokens of the whole sequence, prompt included; None takes the model's own.
        steps: T, reverse steps (of each block, where a model writes block by block); None takes the model's own.
        kernel: which reverse process, one of the model's `kernels`; None takes the first of them.
        potential: "difference", "max", "sum" or "terminal".
        lam: lambda of the target p(x) exp(lambda r(x)).
        resample_every: steps between weighings; None weighs WEIGHINGS times.
        ess_threshold: a population resamples when its effective sample size is below this share of N.
        resampler: a name of `fktext.smc.RESAMPLERS`.
        x0_samples: predictions of x0 per particle and weighing.
        x0_average: "tilt" averages exp(lambda r) over the predictions, "reward" averages exp(r).
        method: "fk"; "best-of-n" weighs finished samples only; "base" is best-of-n with one particle.
        temperature: divides the logits of p(x0); None takes the model's own (1 but for the embedded models).
        top_p: nucleus of p(x0); None takes the model's own (1 but for SSD-LM).
        seed: of everything random.
    """

    particles: int = 16
    samples: int = 1
    length: int | None = None
    steps: int | None = None
    kernel: str | None = None
    potential: str = "difference"
    lam: float = 10.0
    resample_every: int | None = None
    ess_threshold: float = 0.5
    resampler: str = "systematic"
    x0_samples: int = 4
    x0_average: Literal["tilt", "reward"] = "tilt"
    method: Method = "fk"
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("particles", "samples", "x0_samples", "length", "steps", "resample_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        for name, value, fine in (
            ("lam", self.lam, math.isfinite(self.lam)),
            ("ess_threshold", self.ess_threshold, self.ess_threshold >= 0),
            ("temperature", self.temperature, self.temperature is None or 0 < self.temperature < math.inf),
            ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1),
        ):
            if not fine:
                raise UsageError(f"{name} is {value}, out of range")
        for kind, value, known in (
            ("potential", self.potential, POTENTIALS),
            ("resampler", self.resampler, RESAMPLERS),
            ("method", self.method, get_args(Method)),
            ("x0 average", self.x0_average, ("tilt", "reward")),
        ):
            if value not in known:
                raise unknown_name(kind, value, known)

    def for_model(self, model: TextModel) -> Settings:
        """These settings with the model's own values in the place of None, the cadence and the particles spelled out.

        Raises:
            UsageError: the model has no such kernel.
        """
        steps, kernel = self.steps or model.default_steps, self.kernel or model.kernels[0]
        if kernel not in model.kernels:
            raise unknown_name(f"kernel of model {model.name!r}:", kernel, model.kernels)
        spelled = {
            "length": self.length or model.default_length,
            "steps": steps,
            "kernel": kernel,
            "top_p": self.top_p or model.default_top_p,
            "resample_every": min(self.resample_every or max(1, round(steps / WEIGHINGS)), steps),
            "temperature": model.default_temperature if self.temperature is None else self.temperature,
            "particles": 1 if self.method == "base" else self.particles,
        }
        return Settings(**{**asdict(self), **spelled})

    def plan(self) -> Plan:
        """What the engine is told; settings that name every number (see `for_model`)."""
        steered = self.method == "fk"
        schedule: Schedule = Every(self.resample_every or 1) if steered else At(())
        return Plan(
            particles=self.particles,
            schedule=schedule,
            potential=POTENTIALS[self.potential if steered else "terminal"],
            resampler=RESAMPLERS[self.resampler],
            lam=self.lam,
            ess_threshold=self.ess_threshold,
            x0_samples=self.x0_samples,
            x0_average=self.x0_average,
        )


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
        RewardError, PopulationError: see `fktext.steer.steer_steps`.
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
        kept = []
        for step in steer_steps(process, scorer, noise, plan):
            kept.append(step)
            yield Progress(done + len(kept) * len(members), total)
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
