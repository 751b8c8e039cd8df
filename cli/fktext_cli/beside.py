"""Show a person whether steering worked: each steered text beside the one that the model writes unsteered, with their rewards."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer

from fktext.settings import Settings
from fktext_cli.output import Return, chosen
from fktext_cli.streams import visible

if TYPE_CHECKING:  # these import torch
    from fktext.population import Population
    from fktext.rewards import Weighted

MOST = 64  # populations; beyond, the unsteered texts would keep a person waiting


def unsteered(asked: Settings) -> Settings:
    """Return the settings by which the model writes alone: those of the run that say what a text is, and its seed."""
    kept = ("samples", "length", "stride", "steps", "kernel", "temperature", "top_p", "seed")
    return Settings(method="base", **{name: getattr(asked, name) for name in kept})


@dataclass
class Beside:
    """Show populations on a terminal, and say at the end whether the steered texts are worth more.

    Attributes:
        terms: the rewards that steer.
        base: the population of one unsteered text, by (prompt index, sample index).
        which: the particles that are shown.
    """

    terms: Sequence[Weighted]
    base: Mapping[tuple[int, int], Population]
    which: Return
    _pairs: list[tuple[float, float]] = field(default_factory=list)

    def render(self, population: Population) -> str:
        """Return the lines to show for a population: the unsteered text, then the steered ones, each after what it is worth."""
        if population.dead:
            return ""
        plain = self.base[population.prompt_index, population.sample_index]
        before = float(plain.rewards[0])
        lines = [self._line("unsteered", str(plain.samples[0]), before)]
        for index in chosen(population, self.which):
            after = float(population.rewards[index])
            self._pairs.append((before, after))
            lines.append(self._line("steered", str(population.samples[index]), after))
        return "\n".join(lines) + "\n\n"

    def verdict(self) -> str:
        """Say in a line how many of the steered texts are worth more, and how much."""
        if not self._pairs:
            return "no text to compare"
        better, size = sum(after > before for before, after in self._pairs), len(self._pairs)
        finite = [pair for pair in self._pairs if all(map(math.isfinite, pair))]
        means = [sum(side) / len(finite) for side in zip(*finite, strict=True)] if finite else []
        told = f"; reward {means[0]:.3g} unsteered, {means[1]:.3g} steered{', on average' * (size > 1)}" if means else ""
        if size == 1:
            return f"the steered text is worth {'more' if better else 'no more'}{told}"
        return f"{better} of {size} steered texts are worth more{told}"

    def _line(self, name: str, text: str, reward: float) -> str:
        steered = name == "steered"
        head, shown = f"{name:>9}  {worth(self.terms, reward):>9}", visible(text)
        if "NO_COLOR" in os.environ:
            return f"{head}  {shown}"
        return f"{typer.style(head, bold=True)}  {shown}" if steered else typer.style(f"{head}  {shown}", dim=True)


def worth(terms: Sequence[Weighted], reward: float) -> str:
    """Return a reward as it is read most easily: one log-probability as the probability."""
    from fktext.rewards import LogProbability

    alone = terms[0] if len(terms) == 1 else None
    if alone and alone.weight == 1 and (isinstance(alone.bare, LogProbability) or getattr(alone.bare, "log_probability", False)):
        return f"p = {math.exp(reward):.3f}"
    return f"{reward:.3g}"
