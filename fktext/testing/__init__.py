"""Test contracts: an enumerable model, exact checks, a dense sampler, and the tests that every reward passes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fktext.testing.parts import check_kernel, check_look_ahead, check_potential, check_resampler, check_schedule
    from fktext.testing.rewards import RewardConformance

__all__ = [
    "RewardConformance",
    "check_kernel",
    "check_look_ahead",
    "check_potential",
    "check_resampler",
    "check_schedule",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'fktext.testing' has no attribute {name!r}")
    # the first needs pytest, which `fktext selftest` does not
    module = "rewards" if name == "RewardConformance" else "parts"
    return getattr(importlib.import_module(f"fktext.testing.{module}"), name)
