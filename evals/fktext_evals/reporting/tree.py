"""The lineage of a population as SVG: time goes right, a row per particle, no branches cross.

Each dot is a particle at a weighing: its size the weight it had then, its colour its reward, its tooltip both. A particle with a
picture has a frame instead, the thicker the more it weighed. Branches that reach the end are drawn strongly, the one of what is
returned most. Bars above say how many particles were effective.
`templates/page.js` adds zooming, and texts on demand; without it the drawing is all there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from fktext_evals import lineage as lineages
from fktext_evals.lineage import Lineage
from fktext_evals.reporting.charts import number

_TOP, _STRIP, _LEFT, _RIGHT, _BOTTOM = 8, 34, 46, 22, 30


@dataclass(frozen=True)
class _Grid:
    """Places particles, as dots or pictures: time goes right, a row each."""

    weighings: int
    particles: int
    pictures: bool = False

    @property
    def tile(self) -> float:
        """Return the side of a picture."""
        return 36.0 if self.particles <= 8 else 28.0 if self.particles <= 16 else 20.0

    @property
    def across(self) -> float:
        """Return the distance between weighings: wide where there are few."""
        if self.pictures:
            return min(64.0, max(self.tile + 12, 760 / max(self.weighings - 1, 1)))
        return min(64.0, max(26.0, 760 / max(self.weighings - 1, 1)))

    @property
    def down(self) -> float:
        """Return the distance between particles."""
        if self.pictures:
            return self.tile + 7
        return 22.0 if self.particles <= 8 else 17.0 if self.particles <= 24 else 11.0

    @property
    def width(self) -> float:
        return _LEFT + self.across * (self.weighings - 1) + _RIGHT

    @property
    def first(self) -> float:
        """Return the height of the topmost particle."""
        return _TOP + _STRIP + self.down

    @property
    def height(self) -> float:
        return self.first + self.down * (self.particles - 1) + _BOTTOM + self.pictures * self.tile / 2

    def x(self, weighing: int) -> float:
        return round(_LEFT + self.across * weighing, 1)

    def y(self, place: int) -> float:
        return round(self.first + self.down * place, 1)


def tree(lineage: Lineage, title: str) -> Markup:
    """Draw a lineage (see `fktext_evals.lineage`).

    Args:
        lineage: the data.
        title: what it is of, for the label read aloud.
    """
    ancestors = lineage["ancestors"]
    grid = _Grid(len(lineage["k"]), len(ancestors[0]), any(lineage.get("images", ())))
    places = lineages.order(ancestors)
    nodes = [*_pictures(lineage, grid, places), *_nodes(lineage, grid, places)]
    parts = [*_bars(lineage, grid), *_edges(lineage, grid, places), *nodes, *_labels(lineage, grid)]
    form = '<svg class="tree" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}"><g>{3}</g></svg>'
    return Markup(form).format(round(grid.width, 1), round(grid.height, 1), f"{title}. {in_words(lineage)}", Markup("").join(parts))


def in_words(lineage: Lineage) -> str:
    """Say what the drawing shows, in two sentences."""
    particles, weighings = len(lineage["ancestors"][0]), len(lineage["k"])
    times, left = sum(lineage["resampled"]), lineages.roots(lineage["ancestors"])[-1]
    chosen = lineage["chosen"]
    returned = "none is returned" if chosen is None else f"the returned one has reward {_reward(lineage['rewards'][-1][chosen])}"
    return (
        f"{particles} particle{'s' * (particles != 1)}, weighed {weighings} time{'s' * (weighings != 1)}, "
        f"resampled {times} time{'s' * (times != 1)}. "
        f"All final {'images' if 'images' in lineage else 'texts'} descend from {left} of the {particles} at the start; "
        f"{returned}."
    )


def _bars(lineage: Lineage, grid: _Grid) -> Iterator[Markup]:
    """Draw the effective sample size of each weighing as a bar, filled where the population resampled."""
    foot, top = _TOP + _STRIP - 8, _TOP
    form = Markup('<rect class="{}" x="{}" y="{}" width="10" height="{}"><title>{}</title></rect>')
    yield Markup('<text class="label" x="{}" y="{}" text-anchor="end">ESS</text>').format(_LEFT - 14, foot)
    yield Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(_LEFT - 8, foot, grid.width - _RIGHT + 8, foot)
    for weighing, (k, ess, resampled) in enumerate(zip(lineage["k"], lineage["ess"], lineage["resampled"], strict=True)):
        height = round((foot - top) * ess / grid.particles, 1)
        said = f"step {k}: effective sample size {ess:.1f} of {grid.particles}, {'' if resampled else 'not '}resampled"
        yield form.format("bar full" if resampled else "bar", grid.x(weighing) - 5, round(foot - height, 1), height, said)


def _edges(lineage: Lineage, grid: _Grid, places: list[list[int]]) -> Iterator[Markup]:
    """Join each particle with the one it went on from; what ends, what lives and what was returned, in this order."""
    ancestors = lineage["ancestors"]
    living, line = lineages.survivors(ancestors), lineages.line_of(ancestors, lineage["chosen"])
    drawn: dict[str, list[Markup]] = {"edge": [], "edge lives": [], "edge lives chosen": []}
    for weighing in range(1, grid.weighings):
        for particle, parent in enumerate(ancestors[weighing - 1]):
            x1, y1, x2, y2 = (
                *(grid.x(weighing - 1), grid.y(places[weighing - 1][parent])),
                *(grid.x(weighing), grid.y(places[weighing][particle])),
            )
            bend = round((x1 + x2) / 2, 1)
            path = f"M{x1} {y1}H{x2}" if y1 == y2 else f"M{x1} {y1}C{bend} {y1} {bend} {y2} {x2} {y2}"
            kind = "edge lives chosen" if line[weighing] == particle else "edge lives" if living[weighing][particle] else "edge"
            drawn[kind].append(Markup('<path class="{}" data-e="{},{}" d="{}"/>').format(kind, weighing, particle, path))
    for paths in drawn.values():
        yield from paths


def _pictures(lineage: Lineage, grid: _Grid, places: list[list[int]]) -> Iterator[Markup]:
    """Draw what each particle was thought to become, where there is a thumbnail of it."""
    living = lineages.survivors(lineage["ancestors"])
    form = Markup('<image class="{}" data-p="{},{}" x="{}" y="{}" width="{}" height="{}" href="{}"/>')
    for weighing, images in enumerate(lineage.get("images", ())):
        for particle, image in enumerate(images):
            x, y = grid.x(weighing) - grid.tile / 2, grid.y(places[weighing][particle]) - grid.tile / 2
            kind = "seen" + " lives" * living[weighing][particle] + " crisp" * image.startswith("data:image/png")
            yield form.format(kind, weighing, particle, round(x, 1), round(y, 1), grid.tile, grid.tile, image)


def _nodes(lineage: Lineage, grid: _Grid, places: list[list[int]]) -> Iterator[Markup]:
    finite = [value for step in lineage["rewards"] for value in step if value is not None]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    living = lineages.survivors(lineage["ancestors"])
    form = Markup('<circle class="{}" cx="{}" cy="{}" r="{}" style="--r:{}" data-n="{},{}"><title>{}</title></circle>')
    frame = Markup(
        '<rect class="{}" x="{}" y="{}" width="{}" height="{}" style="stroke-width:{};--r:{}" data-n="{},{}">'
        "<title>{}</title></rect>"
    )
    largest = grid.down * 0.46
    for weighing, (rewards, weights) in enumerate(zip(lineage["rewards"], lineage["weights"], strict=True)):
        last = weighing == grid.weighings - 1
        for particle, (reward, weight) in enumerate(zip(rewards, weights, strict=True)):
            kind = "node" + " lives" * living[weighing][particle] + " none" * (reward is None)
            kind += " returned" * (last and particle == lineage["chosen"])
            shade = 0.0 if reward is None or high == low else round((reward - low) / (high - low), 2)
            said = f"step {lineage['k'][weighing]}, particle {particle}: reward {_reward(reward)}, weight {weight:.3f}"
            x, y, about = grid.x(weighing), grid.y(places[weighing][particle]), (shade, weighing, particle, said)
            if grid.pictures and lineage["images"][weighing]:
                line = round(1 + 3 * weight**0.5, 1)
                half = (grid.tile + line) / 2
                corner = (round(x - half, 1), round(y - half, 1))
                yield frame.format(f"{kind} framed", *corner, 2 * half, 2 * half, line, *about)
            else:
                yield form.format(kind, x, y, round(1.6 + (largest - 1.6) * weight**0.5, 1), *about)


def _labels(lineage: Lineage, grid: _Grid) -> Iterator[Markup]:
    """Write steps below, as many as there is room for."""
    foot = grid.height - 10
    every = max(1, round(34 / grid.across + 0.499))
    form = Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>')
    yield Markup('<text class="label" x="{}" y="{}" text-anchor="end">step</text>').format(_LEFT - 14, foot)
    for weighing in range(grid.weighings - 1, -1, -every):
        yield form.format(grid.x(weighing), foot, lineage["k"][weighing])


def reward_range(lineage: Lineage) -> tuple[str, str]:
    """Return the lowest and the highest reward in the drawing, for its legend."""
    finite = [value for step in lineage["rewards"] for value in step if value is not None]
    return (number(min(finite)), number(max(finite))) if finite else ("\u2212∞", "\u2212∞")


def _reward(value: float | None) -> str:
    return "\u2212∞" if value is None else number(value, 4)
