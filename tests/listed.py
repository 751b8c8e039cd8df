"""What the tests of several listable models share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fktext.rewards import Scorer, Weighted
from fktext.smc.conditional import particle_gibbs
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.schedules import Every
from fktext.smc.steer import Plan
from fktext.text import Text


def written(ids: Tensor, spell: Callable[[tuple[int, ...]], str]) -> list[Text]:
    """Texts of rows, of which few differ: each is made once."""
    rows = [tuple(row) for row in ids.tolist()]
    made = {row: Text(spell(row)) for row in set(rows)}
    return [made[row] for row in rows]


def after_gibbs(model: Any) -> tuple[float, float]:
    """How far particle Gibbs, and the model alone, are from the tilted law in total variation.

    A kept path comes without what the network said of it, and every other sweep starts in the middle: its bias dies out.
    """
    populations, particles, lam = 800, 4, 0.8
    noise = Noise.of([population_key(0, "gibbs", index) for index in range(populations)], particles)
    plan = Plan(particles, Every(1), lam=lam, ess_threshold=0.9, look_ahead=Predictions(1))
    scorer = Scorer([Weighted("table", model.reward)])
    sweeps = particle_gibbs(model.process(populations, particles), scorer, noise, plan, 8, (0, 2))[4:]
    exact = model.tilted(lam) / model.tilted(lam).sum()
    found, places = torch.zeros_like(exact), {text: index for index, text in enumerate(model.texts)}
    for sweep in sweeps:
        place = torch.tensor([places[text] for text in sweep.samples])
        found.scatter_add_(0, place, sweep.log_w.exp().flatten() / populations / len(sweeps))
    return float((found - exact).abs().sum()) / 2, float((model.law - exact).abs().sum()) / 2
