"""Show on stderr how far a run is, what it has made, and what that cost."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:  # these import torch
    from fktext.population import Population
    from fktext.smc.ledger import Ledger
    from fktext.smc.steer import Step
    from fktext.trace import Event


@dataclass
class Tally:
    """Count the populations of a run, those that are dead, and what they cost."""

    ledger: Ledger
    done: int = 0
    dead: int = 0
    hard: tuple[str, ...] = ()  # the rewards that were -inf in a dead one
    _started: float = field(default_factory=time.perf_counter)

    def add(self, population: Population) -> None:
        """Count one more."""
        self.done, self.dead, self.ledger = self.done + 1, self.dead + population.dead, self.ledger + population.ledger
        if population.dead:
            never = population.values.isneginf().all(0).tolist()
            self.hard = (*self.hard, *(name for name, each in zip(population.names, never, strict=True) if each))

    def size(self, particles: int) -> str:
        """Say how many populations there are, of so many particles each."""
        return f"{self.done} population{'s' * (self.done != 1)} of {particles} particle{'s' * (particles != 1)}"

    def cost(self, particles: int, decimals: int) -> str:
        """Say what a particle cost the denoiser, and what all of them cost the rewards."""
        return (
            f"{self.ledger.denoiser_rows / max(self.done * particles, 1):.{decimals}f} denoiser rows per particle, "
            f"{self.ledger.reward_requests:.0f} reward calls requested, {self.ledger.reward_calls:.0f} computed, "
            f"{time.perf_counter() - self._started:.1f} s"
        )


def follow(
    found: Iterable[Any],
    take: Callable[[Any], Population],
    wanted: int,
    verb: str,
    name: str = "generating",
    see: Callable[[Sequence[Event]], None] | None = None,
    view: Bar | None = None,
) -> Tally:
    """Take the populations of a run as they come, and show how far it is.

    Args:
        found: what the `generate` of texts or of images yields.
        take: writes or keeps one, and returns it to be counted.
        wanted: how many there will be.
        verb: what was done to those taken, for the line that is printed when the run is stopped.
        name: of the run, on a terminal.
        see: is told the events of the populations, as they happen.
        view: shows how far it is; a bar, if none is given.
    """
    from fktext.runs import Progress
    from fktext.smc.ledger import Ledger

    tally = Tally(Ledger())
    try:
        with view or Bar(name) as bar:
            for item in found:
                if isinstance(item, Progress):
                    if see:
                        see(item.events)
                    bar.see(item.events)
                    bar.show(item.done, item.total, _state(item.step) if bar.live and item.step else "")
                    continue
                with bar.away():
                    tally.add(take(item))
    except BrokenPipeError:
        raise
    except BaseException:
        print(f"stopped: {tally.done} of {wanted} populations were {verb}", file=sys.stderr)
        raise
    return tally


def _state(step: Step) -> str:
    """Say how populations are after a weighing: the highest reward, or what a value takes for it, and the smallest ESS."""
    best, size = float(step.reward.max()), float(step.ess.min())
    return f"best reward {best:.3g}, ESS {size:.3g}/{step.log_w.shape[-1]}"


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Show on a terminal what is being done, such as loading; what is printed meanwhile appears above it."""
    with Bar(name, printing=True):
        yield


class Bar:
    """Show how far a run is: by a bar on a terminal, elsewhere by a line now and then, or not at all.

    Args:
        name: of what runs.
        lines: whether to print lines where there is no terminal.
        printing: whether others print meanwhile.
    """

    def __init__(self, name: str, *, lines: bool = False, printing: bool = False) -> None:
        self._name, self._lines = name, lines
        self._started = self._shown = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            # results stay as they are: rich would send them to the bar's console
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=printing,
                redirect_stderr=printing,
            )
            self._task = self._bar.add_task(name, total=None)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def live(self) -> bool:
        """Whether there is a terminal."""
        return self._bar is not None

    def show(self, done: float, total: int, state: str = "") -> None:
        """Say how far it is, and on a terminal how it goes."""
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=done, total=total, description=f"{self._name}{': ' * bool(state)}{state}")
        elif self._lines and done and now - self._shown >= 30:
            self._shown, left = now, (now - self._started) * (total - done) / done
            print(
                f"{self._name}: {done / total:.0%}, {self.spent()} so far, about {_clock(left)} left", file=sys.stderr, flush=True
            )

    def see(self, events: Sequence[Event]) -> None:
        """Take what has happened to the particles, which a bar does not show."""

    def spent(self) -> str:
        """Return hours, minutes and seconds since the start."""
        return _clock(time.monotonic() - self._started)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Take the bar off the terminal while something else is printed."""
        self.__exit__()
        yield
        self.__enter__()


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
