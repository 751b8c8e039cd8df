"""Rewards: what they are, which part of a text they see, how they are combined, and how the engine calls them."""

from fktext.rewards.reward import Reward, RewardContext
from fktext.rewards.scorer import Scorer
from fktext.rewards.sums import Sum, Weighted
from fktext.rewards.window import LONGEST_TRIM, Window, Windowed

__all__ = ["LONGEST_TRIM", "Reward", "RewardContext", "Scorer", "Sum", "Weighted", "Window", "Windowed"]
