"""The event log of a run: what happened to every particle, one JSON object per line, readable while it is being written.

    import fktext.trace

    for event in fktext.trace.read("run.jsonl"):
        if isinstance(event, fktext.trace.Weighing):
            print(event.population, event.k, event.ess)

A `Run` begins the log. Every population then has a `Start`, a `Weighing` for each time it was weighed, and an `End`; those
that are made together take turns, and each record names its own. `fktext.stream(..., watch=True)` yields the same events as
objects. The terminal's view, the page and `Population.show` are made of nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from fktext.errors import UsageError, shorten
from fktext.files.writing import from_json, to_json

if TYPE_CHECKING:  # this imports torch
    from fktext.smc.steer import Step

__all__ = ["End", "Particle", "Particles", "Run", "Start", "Weighing", "parse", "read", "to_line"]

VERSION = 1
Who = tuple[int, int]
Board = Sequence[str | None]
"""What each position of a particle says: its piece of the text, None where it is masked, "" where it is no part of the text."""


@dataclass(frozen=True)
class Run:
    """Begin a log.

    Attributes:
        run: what all populations have in common, as in every row of `--format jsonl`: seed, model, settings, reward models.
        populations: how many there will be.
        version: of the format.
    """

    run: Mapping[str, Any]
    populations: int
    version: int = VERSION


@dataclass(frozen=True)
class Start:
    """Begin a population.

    Attributes:
        population: (prompt index, sample index).
        prompt, template: what was asked for; one of them.
        modality: what the particles become: "text" or "image".
        names: of the P rewards.
        particles: N.
        steps: reverse steps from noise to a sample.
        weighings: how many there will be, those of all sweeps.
        board: what is given: the prompt or the template, None where it is to be written; () of an image.
    """

    population: Who
    prompt: str
    template: str | None
    modality: Literal["text", "image"]
    names: tuple[str, ...]
    particles: int
    steps: int
    weighings: int
    board: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Weighing:
    """Tell what a population is when it is weighed.

    Attributes:
        population: (prompt index, sample index).
        sweep: 0, but for later sweeps of particle Gibbs, which begin anew.
        k: reverse steps taken.
        revealed: of each particle the positions that have changed, and what they say now; since the last weighing, in which it was
            the particle of `ancestors` there, or since `Start.board`. () where it is not known.
        guesses: of each particle what it was thought to become, the best of its predictions: the text after its prompt, or an
            image as a `data:` address; at the last weighing the sample itself. () where nothing was predicted.
        values: (N, P) what each reward gave that guess, or a learned value the particle; () where nobody was asked.
        rewards: (N,) their weighted sum; where there are several predictions their mean.
        log_weights: (N,) before resampling, in nats, not normalised.
        ess: effective sample size before resampling.
        log_z: log of the normalising constant up to here, in nats; NaN where the method estimates none.
        lam: lambda, as far as it is in the weights by now: all of it but for tempering.
        resampled: whether the population resampled then.
        ancestors: (N,) the particle that each one goes on from; the identity where it did not resample.
        ledger: this population's share of what the run has cost so far (`fktext.smc.ledger.Ledger`).
    """

    population: Who
    sweep: int
    k: int
    revealed: tuple[tuple[tuple[int, str | None], ...], ...]
    guesses: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    rewards: tuple[float, ...]
    log_weights: tuple[float, ...]
    ess: float
    log_z: float
    lam: float
    resampled: bool
    ancestors: tuple[int, ...]
    ledger: Mapping[str, float]

    @property
    def weights(self) -> list[float]:
        """(N,) normalised; all 0 where every log-weight is -inf."""
        most = max(self.log_weights)
        if most == -math.inf:
            return [0.0] * len(self.log_weights)
        shares = [math.exp(value - most) for value in self.log_weights]
        return [share / sum(shares) for share in shares]


@dataclass(frozen=True)
class Particle:
    """Hold a finished sample.

    Attributes:
        text, continuation: the text, and without its prompt; of an image its name.
        reward: the weighted sum of `values`.
        values: (P,) what each reward gave.
        log_weight: normalised, in nats.
        ancestor: the particle of the start that it descends from.
    """

    text: str
    continuation: str
    reward: float
    values: tuple[float, ...]
    log_weight: float
    ancestor: int


@dataclass(frozen=True)
class End:
    """End a population.

    Attributes:
        population: (prompt index, sample index).
        particles: N finished samples.
        chosen: the particle that is returned, None of a dead population.
        log_z: see `fktext.Population`.
        ledger: what the population has cost.
    """

    population: Who
    particles: tuple[Particle, ...]
    chosen: int | None
    log_z: float
    ledger: Mapping[str, float]


Event = Start | Weighing | End
Record = Run | Event
_KINDS: dict[str, type[Record]] = {"run": Run, "start": Start, "weighing": Weighing, "end": End}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class Particles:
    """Follow the particles of a population from event to event.

    Args:
        start: its beginning.

    Attributes:
        boards: of each of the N particles what its positions say.
        ages: of each how many weighings ago its positions came to say so; 0 is new, -1 was given.
        slots: which particle each one was at the last weighing.
    """

    def __init__(self, start: Start) -> None:
        self.start = start
        self._sweep, self._ancestors = -1, cast(Sequence[int], range(start.particles))
        self._begin()

    def _begin(self) -> None:
        board, size = list(self.start.board), self.start.particles
        self.boards: list[list[str | None]] = [board[:] for _ in range(size)]
        self.ages = [[0 if piece is None else -1 for piece in board] for _ in range(size)]
        self._ancestors, self.slots = range(size), list(range(size))

    def parents(self, sweep: int) -> list[list[str | None]]:
        """Return the boards that the particles of the next weighing have come from."""
        if sweep != self._sweep:
            self._begin()
        return [self.boards[parent] for parent in self._ancestors]

    def add(self, weighing: Weighing) -> None:
        """Go on to the next weighing: the particles as they are before they are resampled there."""
        boards = [board[:] for board in self.parents(weighing.sweep)]
        ages = [[age + (age >= 0) for age in self.ages[parent]] for parent in self._ancestors]
        for board, age, changes in zip(boards, ages, weighing.revealed or [()] * len(boards), strict=True):
            for position, piece in changes:
                board[position], age[position] = piece, 0
        self.slots, self.boards, self.ages = list(self._ancestors), boards, ages
        self._sweep, self._ancestors = weighing.sweep, weighing.ancestors


class Watch:
    """Make the events of populations that are weighed together.

    Args:
        starts: of each population.
        lam: lambda.
    """

    def __init__(self, starts: Sequence[Start], lam: float) -> None:
        self.starts, self._lam = tuple(starts), lam
        self._particles = [Particles(start) for start in starts]
        self._sweep = 0

    def weigh(
        self, step: Step, boards: Sequence[Board], guesses: Sequence[str], values: Sequence[Sequence[float]]
    ) -> tuple[Weighing, ...]:
        """Return the events of a weighing.

        Args:
            step: the weighing of all B populations.
            boards: of the B * N particles; () where they are not known.
            guesses, values: of each particle, see `Weighing`; or ().
        """
        found = []
        share = {item.name: getattr(step.ledger, item.name) / len(self.starts) for item in fields(step.ledger)}
        for place, (start, particles) in enumerate(zip(self.starts, self._particles, strict=True)):
            own, one = slice(place * start.particles, (place + 1) * start.particles), step.of(place)
            parents = particles.parents(self._sweep)
            event = weighing(
                start.population,
                one,
                self._sweep,
                tuple(_changes(*pair) for pair in zip(parents, boards[own], strict=True)) if boards else (),
                guesses[own],
                values[own],
                self._lam,
                share,
            )
            particles.add(event)
            found.append(event)
        if step.k == self.starts[0].steps:
            self._sweep += 1
        return tuple(found)


def weighing(
    population: Who,
    step: Step,
    sweep: int = 0,
    revealed: tuple[tuple[tuple[int, str | None], ...], ...] = (),
    guesses: Sequence[str] = (),
    values: Sequence[Sequence[float]] = (),
    lam: float = math.nan,
    ledger: Mapping[str, float] | None = None,
) -> Weighing:
    """Make the event of a weighing from the step of one population; see `Weighing`."""
    return Weighing(
        population=population,
        sweep=sweep,
        k=step.k,
        revealed=revealed,
        guesses=tuple(guesses),
        values=tuple(tuple(row) for row in values),
        rewards=tuple(step.reward.tolist()),
        log_weights=tuple(step.log_w.tolist()),
        ess=float(step.ess),
        log_z=float(step.log_z),
        lam=float(step.tau) * lam,
        resampled=bool(step.resampled),
        ancestors=tuple(step.ancestors.tolist()),
        ledger=ledger or {},
    )


def _changes(before: Board, now: Board) -> tuple[tuple[int, str | None], ...]:
    if before == now:
        return ()
    return tuple((at, new) for at, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)


def to_line(record: Record) -> str:
    """Write a record as a line of ASCII JSON; -inf is null, as JSON has no infinities, and so is a log Z that nobody estimates."""
    return json.dumps(plain(record), allow_nan=False, separators=(",", ":")) + "\n"


def plain(record: Record) -> dict[str, Any]:
    """Return a record as the object of its line."""
    return {"event": _NAMES[type(record)], **_plain(record)}


def _plain(value: Any) -> Any:
    """Return what JSON makes of a value."""
    if isinstance(value, float):
        return to_json(value)
    if isinstance(value, str | int) or value is None:
        return value
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}


def read(path: str | Path) -> Iterator[Record]:
    """Read a log, also one that is still being written, or was cut off: up to its last whole line.

    Yields:
        A `Run`, then the events of its populations in the order in which they happened. Attributes that this version does not know
        are passed over.

    Raises:
        UsageError: it cannot be read, or a line is no record of this version.
    """
    try:
        with Path(path).open(encoding="utf-8") as lines:
            yield from parse(lines, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the log {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error


def parse(lines: Iterable[str], name: str) -> Iterator[Record]:
    """Read the lines of a log as they come, see `read`; `name` is for messages of errors."""
    number, starts = 0, dict[Who, Start]()
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            number -= 1
            break
        try:
            said = json.loads(line)
            if number == 1 and (said["event"] != "run" or said["version"] != VERSION):
                raise ValueError(f"expected event 'run' of version {VERSION}")
            record = _record(said)
            _check(record, starts)
            yield record
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UsageError(f"{name}:{number} is no line of an event log: {error!r}, in {shorten(line.strip(), 80)}") from error
    if not number:
        raise UsageError(f"{name} is no event log: it has no whole line")


def _record(said: Mapping[str, Any]) -> Record:
    """Return the record that a line holds."""
    kind = said["event"]
    if kind == "run":
        return Run(said["run"], said["populations"], said["version"])
    who = int(said["population"][0]), int(said["population"][1])
    if kind == "start":
        same = {name: said[name] for name in ("prompt", "template", "modality", "particles", "steps", "weighings")}
        return Start(who, names=tuple(said["names"]), board=tuple(said["board"]), **same)
    if kind == "weighing":
        log_weights = _numbers(said["log_weights"])
        return Weighing(
            population=who,
            revealed=tuple(tuple((at, piece) for at, piece in changes) for changes in said["revealed"]),
            guesses=tuple(said["guesses"]),
            values=tuple(_numbers(row) for row in said["values"]),
            rewards=_numbers(said["rewards"]),
            log_weights=log_weights,
            log_z=_log_z(said["log_z"], max(log_weights)),
            ancestors=tuple(said["ancestors"]),
            **{name: said[name] for name in ("sweep", "k", "ess", "lam", "resampled", "ledger")},
        )
    if kind == "end":
        particles = tuple(
            Particle(
                item["text"],
                item["continuation"],
                from_json(item["reward"]),
                _numbers(item["values"]),
                from_json(item["log_weight"]),
                item["ancestor"],
            )
            for item in said["particles"]
        )
        log_z = _log_z(said["log_z"], max(particle.log_weight for particle in particles))
        return End(who, particles, said["chosen"], log_z, said["ledger"])
    raise ValueError(f"there is no event {kind!r}")


def _check(record: Record, starts: dict[Who, Start]) -> None:
    """Hold an event against the beginning of its population.

    Raises:
        ValueError: they do not go together.
    """
    if isinstance(record, Run):
        return
    if isinstance(record, Start):
        if not (isinstance(record.particles, int) and record.particles > 0):
            raise ValueError(f"particles is {record.particles!r}")
        starts[record.population] = record
        return
    if (start := starts.get(record.population)) is None:
        raise ValueError(f"population {record.population} has no beginning")
    size, board = start.particles, len(start.board)
    if isinstance(record, End):
        lengths, places = {len(record.particles)}, [0 if record.chosen is None else record.chosen]
    else:
        each = (record.rewards, record.log_weights, record.ancestors)
        some = (record.revealed, record.guesses, record.values)
        lengths, places = {*map(len, each), *(len(part) or size for part in some)}, list(record.ancestors)
    if lengths != {size} or not all(isinstance(place, int) and 0 <= place < size for place in places):
        raise ValueError(f"it does not fit a population of {size} particles")
    changed = [] if isinstance(record, End) else [at for changes in record.revealed for at, _ in changes]
    if not all(isinstance(at, int) and 0 <= at < board for at in changed):
        raise ValueError(f"it does not fit texts of {board} positions")


def _numbers(values: Iterable[float | None]) -> tuple[float, ...]:
    found = tuple(from_json(value) for value in values)
    if not all(isinstance(value, int | float) for value in found):
        raise ValueError(f"expected numbers, not {found!r}")
    return found


def _log_z(value: float | None, most: float) -> float:
    """Return a log Z: where it is null it is -inf if all weights are zero, else nobody estimated it."""
    return from_json(value) if value is not None or most == -math.inf else math.nan
