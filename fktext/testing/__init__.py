"""Test contracts: an enumerable model, exact checks, a dense sampler, and the tests that every reward passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fktext.testing.rewards import RewardConformance

__all__ = ["RewardConformance"]


def __getattr__(name: str) -> object:
    if name == "RewardConformance":  # needs pytest, which `fktext selftest` does not
        from fktext.testing.rewards import RewardConformance

        return RewardConformance
    raise AttributeError(f"module 'fktext.testing' has no attribute {name!r}")
