"""From prompts to weighted populations of texts: the one call behind `fktext generate`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fktext.batches import out_of_memory
from fktext.errors import FktextError, PopulationError, UsageError
from fktext.rewards import Scorer, Weighted
from fktext.rewards.sharded import ShardedScorer
from fktext.settings import Settings, TextRun
from fktext.smc import noise as streams
from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise, population_key
from fktext.smc.process import ReverseProcess
from fktext.smc.sharded import ShardedProcess, Shares
from fktext.smc.steer import Result, Step, collect, steer_steps
from fktext.text import Text
from fktext.texts.templates import Template

if TYPE_CHECKING:
    from fktext.texts.model import TextModel


@dataclass(frozen=True)
class Progress:
    """How far the run is: `done` of `total` units, one unit a population's weighing."""

    done: int
    total: int


@dataclass(frozen=True)
class Population:
    """The weighted particles of one prompt's one repetition, at the end.

    Attributes:
        prompt_index, sample_index: which prompt, which of its populations; `prompt` the prompt itself, "" for a template.
        key: the 64-bit key of its noise.
        texts: N texts.
        names: the P rewards; `values` (N, P) what each gave, `rewards` (N,) their weighted sum.
        log_w: (N,) normalised log-weights; all -inf in a dead population.
        log_z: log of the unbiased estimate of E_p[exp(lambda r)]; -inf in a dead population.
        roots: (N,) the particle at step 0 each text descends from.
        steps: every weighing of this population: tensors of `fktext.smc.steer.Step` without their population axis.
        ledger: cost of the batch of populations this one was computed in, divided by their number.
        guesses: at every weighing, the prediction of x0 with the highest reward of each of the N particles; empty unless asked for.
        template: the template that was filled, as it was written, or None.
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
    guesses: tuple[tuple[Text, ...], ...] = ()
    template: str | None = None

    @property
    def dead(self) -> bool:
        """Whether every text has weight zero, its reward being -inf: there is none to return."""
        return self.log_z == -math.inf

    def best(self) -> int:
        """The particle with the highest reward, the first among equals.

        Raises:
            PopulationError: the population is dead.
        """
        self._check_alive()
        return int(self.rewards.argmax()) if self.names else 0

    def draw(self) -> int:
        """A particle drawn in proportion to its weight: a sample whose law tends to the tilted one as N grows.

        Raises:
            PopulationError: the population is dead.
        """
        self._check_alive()
        uniform = Noise.of([self.key], 1).uniform(streams.RETURN, 0, 0)
        cumulative = self.log_w.exp().cumsum(0)
        return int(torch.searchsorted(cumulative / cumulative[-1], uniform.cpu())[0])

    def unique_roots(self) -> int:
        """How many particles of step 0 have descendants."""
        return len(self.roots.unique())

    def obituary(self) -> str:
        """What to say of a dead population, on one line."""
        size = len(self.texts)
        every = f"all {size} texts have" if size > 1 else "the text has"
        named = f"prompt {self.prompt!r}" if self.template is None else f"template {self.template!r}"
        return f"{named}, sample {self.sample_index}: {every} a reward of -inf, so there is none to return"

    def _check_alive(self) -> None:
        if self.dead:
            raise PopulationError(self.sample_index, self.obituary())


def generate(
    model: TextModel,
    terms: Sequence[Weighted],
    prompts: Sequence[str | Template],
    settings: Settings | TextRun,
    *,
    batch_size: int | None = None,
    skip: Container[tuple[int, int]] = (),
    guesses: bool = False,
    spread: bool = False,
) -> Iterator[Progress | Population]:
    """Generate `settings.samples` weighted populations of texts for each prompt.

    Args:
        model: from `fktext.models.load`.
        terms: weighted rewards; may be empty with method "base".
        prompts: texts to continue, "" for none; or templates to fill, `Template("The {5} sat.")`. A filled text has the length of
            its template and no end before it, and rewards see the whole of it: it has no prompt.
        settings: what is asked for, or what `model.resolve` made of it.
        batch_size: most particles computed at once; default 64 on a CPU, 1024 elsewhere. Where memory does not hold them they go
            through the network in halves, and so on. It does not change the result.
        skip: (prompt index, sample index) of populations that are there already.
        guesses: keep what each particle was thought to become: one text per particle and weighing, the best of its predictions.
        spread: each population's particles are spread over the ranks of torch's default process group; every rank calls this with
            the same arguments, its own model and rewards aside, and gets the same populations (see `fktext.smc.sharded`).

    Yields:
        `Progress` after each weighing, and populations in order as their batches finish. One whose finished texts all have reward
        -inf is dead (`Population.dead`): it has no text to return, and the others go on.

    Raises:
        UsageError: a setting out of range, a prompt that does not fit; before anything is computed.
        RewardError: a reward failed. FktextError: a weight is beyond any number, and the message names the prompt; or memory does
            not hold the particles.
    """
    run = settings if isinstance(settings, TextRun) else model.resolve(settings)
    if not terms and run.method != "base":
        raise UsageError(f"method {run.method!r} needs a reward")
    templates = [model.template(prompt, run.length) for prompt in prompts]
    seen: Counter[str | Template] = Counter()
    wanted = []
    for index, prompt in enumerate(prompts):
        name = ("template", prompt.source) if isinstance(prompt, Template) else (prompt,)
        for sample in range(run.samples):
            # the n-th occurrence of an equal prompt is a repetition of its own, so keys do not depend on the order of prompts
            key = population_key(run.seed, *name, seen[prompt] * run.samples + sample)
            if (index, sample) not in skip:
                wanted.append((index, sample, key))
        seen[prompt] += 1
    device = torch.device(str(model.denoiser.device))
    rows = batch_size or (64 if device.type == "cpu" else 1024)
    group = max(1, rows // run.particles)
    plan, shares = run.plan(), Shares.of(run.particles) if spread else None
    scorer: Scorer | ShardedScorer = ShardedScorer(Scorer(terms), shares) if shares else Scorer(terms)
    steps = [model.num_steps(template, run) for template in templates]
    weighings = {number: len(plan.schedule.weighings(number)) for number in set(steps)}
    done, total = 0, sum(weighings[steps[index]] for index, _, _ in wanted)
    alike = [
        (number, isinstance(prompt, Template), len(ids)) for number, prompt, ids in zip(steps, prompts, templates, strict=True)
    ]
    for (number, _, _), members in _batches(wanted, alike, group):
        mine = [index for index, _, _ in members]
        start = [prompts[index] for index in mine], [templates[index] for index in mine]

        def build(particles: int, start: tuple[Any, Any] = start) -> ReverseProcess[Any]:
            return model.process(*start, replace(run, particles=particles), rows)

        process: ReverseProcess[Any] = ShardedProcess(build, shares, len(members)) if shares else build(run.particles)
        noise = Noise.of([key for _, _, key in members], run.particles, device)
        kept: list[Step] = []
        predicted: list[list[Text]] = []
        try:
            for step in steer_steps(process, scorer, noise, plan):
                kept = [*kept[:-1], *(replace(before, samples=()) for before in kept[-1:]), step]
                if guesses:
                    predicted.append(_best_guesses(step, scorer))
                yield Progress(done + len(kept) * len(members), total)
        except PopulationError as error:
            index, sample, _ = members[error.population]
            raise FktextError(f"{_named(prompts[index])}, sample {sample}: {error.message}") from error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise FktextError(
                f"memory does not hold {len(members) * run.particles} particles at once: give a smaller batch size"
                f"{', fewer particles' * (rows <= run.particles)} or a shorter length"
            ) from error
        done += weighings[number] * len(members)
        result = collect(iter(kept))
        for place, (index, sample, key) in enumerate(members):
            own = slice(place * run.particles, (place + 1) * run.particles)
            prompt, template = (prompts[index], None) if isinstance(prompts[index], str) else ("", str(prompts[index]))
            population = population_of(result, place, len(members), scorer.names, (index, sample, str(prompt), key))
            yield replace(population, guesses=tuple(tuple(texts[own]) for texts in predicted), template=template)


def _named(prompt: str | Template) -> str:
    return f"template {prompt.source!r}" if isinstance(prompt, Template) else f"prompt {prompt!r}"


def _best_guesses(step: Step, scorer: Scorer | ShardedScorer) -> list[Text]:
    """Of the S predictions of each of the B * N particles the one with the highest reward."""
    size = step.values.shape[2]
    best = scorer.weighted(step.values).sum(-1).argmax(-1).flatten().tolist()
    return [step.samples[particle * size + choice] for particle, choice in enumerate(best)]


Member = tuple[int, int, int]  # prompt index, sample index, key
Kind = tuple[int, bool, int]  # steps, whether a template, length: what populations of one process have in common


def _batches(wanted: Sequence[Member], kinds: Sequence[Kind], size: int) -> Iterator[tuple[Kind, list[Member]]]:
    """Neighbours whose prompts are of one kind, at most `size` at a time, with that kind."""
    for kind, run in groupby(wanted, key=lambda member: kinds[member[0]]):
        members = list(run)
        for first in range(0, len(members), size):
            yield kind, members[first : first + size]


def population_of(
    result: Result, place: int, populations: int, names: tuple[str, ...], who: tuple[int, int, str, int]
) -> Population:
    """One population of the result of several.

    Args:
        result: of `populations` populations; `place` is this one's.
        names: the rewards.
        who: prompt index, sample index, prompt and key.
    """
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
