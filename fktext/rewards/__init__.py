"""Rewards: what they are, which part of a text they see, how they are combined, and how the engine calls them.

What needs torch is imported when it is first used, so that the module of a reward's factory may import from here and stay cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fktext.rewards.judged import Judge, Judged, LogProbability, load_network, loading, locate
from fktext.rewards.reward import Reward, RewardContext, TokenGradient

if TYPE_CHECKING:
    from fktext.rewards.scorer import Scorer
    from fktext.rewards.sums import Sum, Weighted
    from fktext.rewards.window import LONGEST_TRIM, Window, Windowed

_LATER = {"Scorer": "scorer", "Sum": "sums", "Weighted": "sums", "LONGEST_TRIM": "window", "Window": "window", "Windowed": "window"}

__all__ = [
    "LONGEST_TRIM",
    "Judge",
    "Judged",
    "LogProbability",
    "Reward",
    "RewardContext",
    "Scorer",
    "Sum",
    "TokenGradient",
    "Weighted",
    "Window",
    "Windowed",
    "load_network",
    "loading",
    "locate",
]


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(importlib.import_module(f"fktext.rewards.{_LATER[name]}"), name)
    raise AttributeError(f"module 'fktext.rewards' has no attribute {name!r}")
