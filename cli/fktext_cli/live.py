"""Show a population on a terminal while it is written: a line per particle, whose masks become words."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fktext.trace import End, Event, Particles, Start, Weighing
from fktext_cli.progress import Bar
from fktext_cli.streams import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

SHARE = 150  # times as long as a picture took to draw does the next one wait, so drawing takes less than a hundredth of the time
PAUSE = 0.1  # seconds from one frame to the next, at least
_BAR, _MASK = 6, "░"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_STYLES = {-1: "dim", 0: "bold bright_green", 1: "green", 2: "cyan"}  # by age; what is older is plain


class Scene:
    """Draw the population that is being written: of those that are made together the first.

    Args:
        total: populations in all.
    """

    def __init__(self, total: int = 1) -> None:
        self.total = total
        self._focus: Particles | None = None
        self._last: Weighing | None = None
        self._chosen: int | None = None

    @property
    def drawable(self) -> bool:
        """Whether there is something to see."""
        return self._last is not None

    @property
    def finished(self) -> bool:
        """Whether the population is written to the end."""
        return bool(self._focus and self._last and self._last.k == self._focus.start.steps)

    def add(self, event: Event) -> bool:
        """Take an event; return whether it is of the population that is shown."""
        if isinstance(event, Start) and (self._focus is None or self.finished):
            self._focus, self._last, self._chosen = Particles(event), None, None
        mine = self.shows(event)
        if mine and self._focus and isinstance(event, Weighing):
            self._focus.add(event)
            self._last = event
        elif mine and isinstance(event, End):
            self._chosen = event.chosen
        return mine

    def shows(self, event: Event) -> bool:
        """Tell whether an event is of the population that is shown."""
        return self._focus is not None and event.population == self._focus.start.population

    @property
    def moves(self) -> bool:
        """Whether the population has just resampled."""
        return bool(self._last and self._last.resampled)

    def frame(self, width: int, height: int, *, moved: bool = False) -> Text:
        """Return the population as lines of a terminal, none longer than its width.

        Args:
            width, height: of the terminal.
            moved: show it as it is after resampling, copies in the place of those that died.
        """
        from rich.text import Text

        focus, last = self._focus, self._last
        if focus is None or last is None:
            return Text("")
        size, weights, offspring = focus.start.particles, last.weights, Counter(last.ancestors)
        most = max(weights) or 1.0
        rows = []
        for place in range(size):
            source = last.ancestors[place] if moved else place
            came = source if moved else focus.slots[place]
            row = _Row(place, came, 1.0 if moved else weights[place] / most, last.rewards[source], *_text(focus, last, source))
            rows.append(row if moved or not last.resampled else replace(row, offspring=offspring[place]))
        room = max(1, height - 3)
        if size > room:
            heaviest = sorted(range(size), key=lambda place: -weights[place])[: room - 1]
            rows = [rows[place] for place in sorted(heaviest)]
        lines = [self._head(focus.start, last, width)]
        lines += [row.line(width, returned=row.place == self._chosen, image=focus.start.modality == "image") for row in rows]
        if len(rows) < size:
            more = Text(f"{size - len(rows)} more, which weigh less", "dim")
            more.truncate(width, overflow="ellipsis")
            lines.append(more)
        return Text("\n").join(lines)

    def _head(self, start: Start, last: Weighing, width: int) -> Text:
        from rich.text import Text

        parts = [
            f"step {last.k}/{start.steps}",
            *([f"sweep {last.sweep + 1}"] if last.sweep else []),
            f"ESS {last.ess:.1f}/{start.particles}",
            *([f"log Z {number(last.log_z)}"] if not math.isnan(last.log_z) else []),
            *([f"best {number(max(last.rewards))}", f"λ {number(last.lam)}"] if start.names else []),
            *(["resampled"] if last.resampled else []),
        ]
        if self.total > 1:
            parts.insert(0, f"prompt {start.population[0] + 1}, sample {start.population[1] + 1}")
        head = Text("  ".join(parts), "bold", no_wrap=True)
        head.truncate(width, overflow="ellipsis")
        return head


def _text(focus: Particles, last: Weighing, place: int) -> tuple[Sequence[str | None], Sequence[int]]:
    """Return a particle's board and ages; where nobody knows its tokens, what is given and what it was thought to become."""
    if last.revealed or not last.guesses:
        return focus.boards[place], focus.ages[place]
    given = [piece for piece in focus.start.board if piece]
    return [*given, last.guesses[place]], [*[-1] * len(given), len(_STYLES)]


@dataclass(frozen=True)
class _Row:
    """Hold what a line shows of a particle: its slot, whence it came, its weight, its reward, what becomes of it, and its text."""

    place: int
    came: int
    share: float
    reward: float
    board: Sequence[str | None]
    ages: Sequence[int]
    offspring: int = 1

    def line(self, width: int, *, returned: bool, image: bool) -> Text:
        from rich.text import Text

        dies = not self.offspring
        fate = "✕" if dies else f"x{self.offspring}" if self.offspring > 1 else ""
        came = f"←{self.came}" if self.came != self.place else ""
        line = Text(no_wrap=True)
        line.append("▶" if returned else " ", "bold")
        line.append(f"{self.place:>2} ", "dim" if dies else "bold")
        line.append(f"{bar(self.share)} ", "dim" if dies else "blue")
        line.append(f"{number(self.reward):>7} ", "dim" if dies else "")
        line.append(f"{fate or came:<4}", "red" if dies else "magenta")
        if not image:
            line.append_text(written(self.board, self.ages, width - line.cell_len, faint=dies))
        line.truncate(width, overflow="ellipsis")
        return line


def written(board: Sequence[str | None], ages: Sequence[int], room: int, *, faint: bool = False) -> Text:
    """Return a particle's text as it stands, masks as blocks, tokens coloured by age, in so much room.

    A long prompt is cut from its beginning, and the text from its end.
    """
    from rich.text import Text

    found = Text(no_wrap=True)
    given = next((at for at, age in enumerate(ages) if age >= 0), len(ages))
    prompt = visible("".join(piece or "" for piece in board[:given])).lstrip()
    if len(prompt) > room // 3:
        prompt = "…" + prompt[-(room // 3) :]
    found.append(prompt, _STYLES[-1])
    for piece, age in zip(board[given:], ages[given:], strict=True):
        style = "dim" if piece is None or faint else _STYLES.get(age, "")
        text = _MASK if piece is None else visible(piece)
        found.append(text if found or piece is None else text.lstrip(), style)
    return found


def bar(share: float) -> str:
    """Return a share from 0 to 1 as a bar of blocks.

    Example:
        >>> bar(1.0), bar(0.5), bar(0.0)
        ('██████', '███   ', '      ')
    """
    eighths = round(share * _BAR * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(_BAR)


def number(value: float) -> str:
    """Return a number in three digits.

    Example:
        >>> number(-0.04629), number(-12.7), number(float("-inf"))
        ('-0.0463', '-12.7', '-∞')
    """
    return "-∞" if value == -math.inf else f"{value:.3g}"


class View(Bar):
    """Show the particles in the place of a bar; where there is no terminal it is the bar.

    Drawing is held back, so that it takes less than a hundredth of the time.

    Args:
        name: of what runs.
        total: populations in all.
        calm: how many times as long as a picture took to draw the next one waits; 0 draws every event.
    """

    def __init__(self, name: str, total: int = 1, *, calm: float = SHARE) -> None:
        super().__init__(name)
        self.scene, self._calm = Scene(total), calm
        self._next, self._keep = 0.0, False
        self._live: Live | None = None
        if self._bar:
            from rich.console import Console

            self._console: Console = Console(stderr=True)

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.transient = not self._keep
            self._live.stop()
            self._live, self._keep = None, False
        super().__exit__()

    def see(self, events: Sequence[Event]) -> None:
        """Take events, and draw what they tell if it is time to."""
        mine = [self.scene.add(event) for event in events]
        if self._bar and any(mine) and self.scene.drawable and (time.perf_counter() >= self._next or self.scene.finished):
            self.draw()

    def shows(self, event: Event) -> bool:
        """Tell whether a terminal shows the population of an event."""
        return self._bar is not None and self.scene.shows(event)

    def rest(self, seconds: float) -> None:
        """Let a person look at what is shown, and let copies take the place of what has died."""
        time.sleep(seconds / 2)
        if self.scene.moves:
            self.draw(moved=True)
        time.sleep(seconds / 2)

    def draw(self, *, moved: bool = False) -> None:
        """Draw the population as it is now; see `Scene.frame`."""
        from rich.live import Live

        started = time.perf_counter()
        width, height = self._console.size
        frame = self.scene.frame(width, height, moved=moved)
        if self._live is None:
            super().__exit__()
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        self._live.update(frame, refresh=True)
        self._keep = self.scene.finished
        ended = time.perf_counter()
        self._next = ended + max(PAUSE, self._calm * (ended - started))

    def show(self, done: float, total: int, state: str = "") -> None:
        """See `Bar`; where particles are shown they say themselves how far they are."""
        if not self._live:
            super().show(done, total, state)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Take the view off the terminal while something else is printed; a population that is finished stays above it."""
        self.__exit__()
        yield
        self.__enter__()
