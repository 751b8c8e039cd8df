"""Drive texts and images alike: from members to weighted populations, batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

import torch

from fktext.batches import out_of_memory
from fktext.errors import FktextError, PopulationError
from fktext.population import Member, Population
from fktext.settings import Run
from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise, population_key
from fktext.smc.process import ReverseProcess, Scorer
from fktext.smc.steer import Plan, Result, Step, collect
from fktext.trace import Board, Event, Start, Watch


@dataclass(frozen=True)
class Progress:
    """Tell how far the run is: `done` of `total` units, one unit a population's weighing.

    Attributes:
        done, total: of this.
        step: the weighing itself, of the populations that are made together; None while a value is fitted before the run.
        events: what happened to each of them, if it is asked for: `fktext.trace.Start` before the first weighing, and
            `fktext.trace.Weighing`.
    """

    done: int
    total: int
    step: Step | None = field(default=None, repr=False, compare=False)
    events: tuple[Event, ...] = field(default=(), repr=False, compare=False)


class View(Protocol):
    """Show the particles of a batch, for the log of events."""

    @property
    def modality(self) -> Literal["text", "image"]:
        """What they become."""
        ...

    @property
    def given(self) -> Sequence[Board]:
        """Of each member what is given."""
        ...

    def boards(self, state: Any) -> Sequence[Board]:
        """Return what the positions of each particle say; () where that is not known."""
        ...

    def show(self, sample: Any, *, last: bool) -> str:
        """Return a predicted or, at the last weighing, a finished sample: a text, or an image as a `data:` address."""
        ...


@dataclass(frozen=True)
class Batch:
    """Hold populations that one process makes.

    Attributes:
        members: which ones.
        num_steps: of the process.
        process: makes it, for all particles of these members.
        view: shows its particles; None where nobody can.
    """

    members: Sequence[Member]
    num_steps: int
    process: Callable[[], AbstractContextManager[ReverseProcess[Any]]]
    view: View | None = None


def members(
    seed: int,
    names: Sequence[tuple[str, ...]],
    asked: Sequence[tuple[str, str | None]],
    samples: int,
    skip: Container[tuple[int, int]],
) -> list[Member]:
    """Return the populations of a run, each with its own key.

    Args:
        seed: of the run.
        names: of each prompt, what its noise depends on.
        asked: of each prompt, `Member.prompt` and `Member.template`.
        samples: populations per prompt.
        skip: (prompt index, sample index) of populations that are there already.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    found = []
    for index, (name, what) in enumerate(zip(names, asked, strict=True)):
        for sample in range(samples):
            # the n-th occurrence of an equal prompt is its own repetition, so keys do not depend on the order of prompts
            key = population_key(seed, *name, seen[name] * samples + sample)
            if (index, sample) not in skip:
                found.append(Member(index, sample, key, *what))
        seen[name] += 1
    return found


def populations(
    batches: Sequence[Batch],
    run: Run,
    scorer: Scorer,
    plan: Plan,
    device: torch.device | str,
    *,
    guesses: bool,
    watch: bool = False,
    small: Callable[[Any], Any] | None = None,
    too_large: Callable[[int], str],
) -> Iterator[Progress | Population]:
    """Steer one batch after the other.

    Args:
        batches: in the order in which their populations are wanted.
        run: says what runs the plan, and in how many rounds: populations are those of the last, with the cost of all.
        scorer, plan: see `fktext.smc.steer`.
        device: of the noise.
        guesses: keep the best prediction of every particle at every weighing.
        watch: yield and keep the events of every population.
        small: makes of each what is kept; None keeps it as it is.
        too_large: what to say where memory does not hold a batch of so many members.

    Yields:
        `Progress` after each weighing, and populations in order as their batches finish.

    Raises:
        RewardError: a reward failed. FktextError: a weight is beyond any number, and the message names the member; or memory does
            not hold the particles.
    """
    weighings = [run.rounds * len(plan.schedule.weighings(batch.num_steps)) for batch in batches]
    done, total = 0, sum(number * len(batch.members) for number, batch in zip(weighings, batches, strict=True))
    for batch, number in zip(batches, weighings, strict=True):
        noise = Noise.of([member.key for member in batch.members], plan.particles, device)
        kept: list[Step] = []
        predicted: list[list[Any]] = []
        watcher = _Watcher(batch, scorer, plan, number) if watch else None
        try:
            with batch.process() as process:
                for count, step in enumerate(run.stepper()(process, scorer, noise, plan), 1):
                    if kept and kept[-1].k == batch.num_steps:  # a new round
                        kept, predicted = [], []
                    kept = [*kept[:-1], *(before.bare for before in kept[-1:]), replace(step, state=None)]
                    if guesses:
                        best = _best_guesses(step, scorer)
                        predicted.append([small(guess) for guess in best] if small else best)
                    yield Progress(done + count * len(batch.members), total, step, watcher.add(step) if watcher else ())
        except PopulationError as error:
            raise FktextError(f"{batch.members[error.population]}: {error.message}") from error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise FktextError(too_large(len(batch.members))) from error
        done += number * len(batch.members)
        yield from _each(batch.members, collect(iter(kept)), scorer.names, predicted, watcher)


class _Watcher:
    """Make the events of a batch."""

    def __init__(self, batch: Batch, scorer: Scorer, plan: Plan, weighings: int) -> None:
        self._scorer, self._last, self._view = scorer, batch.num_steps, batch.view
        about = [
            Start(
                (member.prompt_index, member.sample_index),
                member.prompt,
                member.template,
                batch.view.modality if batch.view else "text",
                scorer.names,
                plan.particles,
                batch.num_steps,
                weighings,
                tuple(batch.view.given[place]) if batch.view else (),
            )
            for place, member in enumerate(batch.members)
        ]
        self._watch = Watch(about, plan.lam)
        self.events: list[Event] = []

    def add(self, step: Step) -> tuple[Event, ...]:
        """Return what a weighing tells."""
        boards = self._view.boards(step.state) if self._view else ()
        last = step.k == self._last
        show = self._view.show if self._view else lambda guess, last: getattr(guess, "continuation", str(guess))
        guesses = [show(guess, last=last) for guess in _best_guesses(step, self._scorer)]
        rows = step.values.flatten(0, 1)
        values = rows[torch.arange(len(rows)), _best(step, self._scorer)].tolist() if rows.shape[1] else []
        begun: tuple[Event, ...] = self._watch.starts if not self.events else ()
        new = (*begun, *self._watch.weigh(step, boards, guesses, values))
        self.events += new
        return new

    def of(self, member: Member) -> tuple[Event, ...]:
        """Return what has happened to one population."""
        return tuple(each for each in self.events if each.population == (member.prompt_index, member.sample_index))


def _best(step: Step, scorer: Scorer) -> list[int]:
    """Return which of its S predictions has the highest reward, of each of the B * N particles."""
    best: list[int] = scorer.weighted(step.values).sum(-1).argmax(-1).flatten().tolist()
    return best


def _best_guesses(step: Step, scorer: Scorer) -> list[Any]:
    """Return the one with the highest reward of each particle's S predictions; nothing where none were drawn."""
    if not step.samples:
        return []
    size = step.values.shape[2]
    return [step.samples[particle * size + choice] for particle, choice in enumerate(_best(step, scorer))]


def _each(
    batch: Sequence[Member],
    result: Result,
    names: tuple[str, ...],
    predicted: Sequence[Sequence[Any]],
    watcher: _Watcher | None,
) -> Iterator[Population]:
    """Return the populations of a result."""
    size = result.log_w.shape[1]
    cost = Ledger(**{name: value / len(batch) for name, value in asdict(result.ledger).items()})
    for place, member in enumerate(batch):
        own = slice(place * size, (place + 1) * size)
        yield Population(
            member,
            samples=list(result.samples[own]),
            names=names,
            values=result.values[place].cpu(),
            rewards=result.reward[place].cpu(),
            log_w=result.log_w[place].cpu(),
            log_z=float(result.log_z[place]),
            roots=result.roots[place].cpu(),
            steps=tuple(step.of(place) for step in result.steps),
            ledger=cost,
            guesses=tuple(tuple(samples[own]) for samples in predicted),
            events=watcher.of(member) if watcher else (),
        )
