"""Look-aheads that know nothing or worse: they leave the law as it is. And an end that trusts a head, which does not."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor

from fktext.smc.lookahead import LookAhead, Nothing, Predictions, Sight, Values
from fktext.smc.noise import Noise
from fktext.smc.process import Features, ReverseProcess, Scorer
from fktext.testing.enumerable import Enumerable, TableReward


def random_head(features: Features) -> Tensor:
    """Say (M,) numbers that have to do with the particle and nothing with its reward; see `fktext.smc.lookahead.Values`."""
    return (features.hidden.flatten(1) * 37.7).sin().sum(1) / 2 + features.unknown


def adversary(
    process: ReverseProcess[Any], scorer: Scorer, state: Any, k: int, noise: Noise, lam: float, particles: int
) -> tuple[Sight, Any]:
    """Say the opposite of what the particle will earn, as one guess of it has it; see `LookAhead`."""
    sight, state = Predictions()(process, scorer, state, k, noise, lam, particles)
    return Sight(sight.samples, sight.values, sight.reward, -sight.log_tilt, sight.told), state


LOOK_AHEADS: dict[str, LookAhead] = {"random head": Values([random_head]), "adversary": adversary, "nothing": Nothing()}


def trusting(model: Enumerable, head: Callable[[Features], Tensor] = random_head) -> Enumerable:
    """Put what a head says of a finished text in the place of its reward, as one would have who trusts it to the end.

    Steered, it aims at another law than `model.tilted`: a mistake that must be caught.
    """
    finished = torch.tensor([[int(token) for token in text] for text in model.texts], device=model.denoiser.device)
    hidden = model.denoiser.encode(finished, torch.zeros(len(finished)))
    told = head(Features(hidden, hidden.new_zeros(len(finished))))
    other = copy(model)
    other.reward = TableReward(model.texts)
    other.reward.values = dict(zip(model.texts, told.double().tolist(), strict=True))
    return other
