"""Weigh rewards and add them up.

Rewards add where experts multiply: exp(lambda (a r1 + b r2)) = exp(lambda r1)^a exp(lambda r2)^b. So a product of experts is
written `a * fluent + b * kind` with `Weighted` rewards; the result is a `Sum`, what `generate` takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from fktext.errors import RewardError, first_line
from fktext.rewards.reward import Reward
from fktext.rewards.window import Windowed


@dataclass(frozen=True)
class Weighted:
    """One term of the total reward: weight * reward.score(sample). `2 * term`, `term / 2`, `-term`, `term + term` and `-` work.

    Attributes:
        name: under which its values are kept.
        reward: any reward.
        weight: finite, not 0.
        plugin: distribution and version that brought it, "" where it was made by hand.
    """

    name: str
    reward: Reward
    weight: float = 1.0
    plugin: str = ""

    def __post_init__(self) -> None:
        if not (self.weight == self.weight and abs(self.weight) not in (0.0, float("inf"))):
            raise RewardError(f"reward {self.name!r} has weight {self.weight}: a weight must be finite and not zero")

    @property
    def bare(self) -> Reward:
        """The reward itself, without the window that it may be seen through."""
        return self.reward.reward if isinstance(self.reward, Windowed) else self.reward

    @property
    def goal(self) -> Any:
        """The way the reward steers, a line of text; None where it does not say.

        Raises:
            RewardError: its own property raised.
        """
        return self._told(self.reward, "goal")

    def _told(self, reward: Any, name: str) -> Any:
        try:
            return getattr(reward, name, None)
        except (Exception, SystemExit) as error:
            raise RewardError(f"reward {self.name!r}: its {name} raised {type(error).__name__}: {first_line(error)}") from error

    def provenance(self) -> dict[str, str]:
        """Tell where its values come from: `plugin`, and as far as the reward says, `model`, `revision` and `digest`.

        Raises:
            RewardError: one of them is a property that raised.
        """
        told = {name: self._told(self.bare, name) for name in ("model", "revision", "digest")}
        return {"plugin": self.plugin} | {name: value for name, value in told.items() if isinstance(value, str)}

    def __mul__(self, factor: float) -> Weighted:
        return replace(self, weight=self.weight * factor) if isinstance(factor, int | float) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> Weighted:
        return self * (1 / factor)

    def __neg__(self) -> Weighted:
        return self * -1

    def __add__(self, other: Weighted | Sum) -> Sum:
        return Sum([self]) + other

    def __radd__(self, other: int) -> Sum:
        return other + Sum([self])

    def __sub__(self, other: Weighted | Sum) -> Sum:
        return self + -other


class Sum(Sequence[Weighted]):
    """A sum of weighted rewards, which is a product of experts; each keeps its name, and its own values in every trace.

    Args:
        terms: the same reward under the same name may come twice: its weights are added.

    Raises:
        RewardError: two different rewards have one name, or the weights of one cancel.
    """

    def __init__(self, terms: Iterable[Weighted] = ()) -> None:
        found: dict[str, Weighted] = {}
        for term in terms:
            if (same := found.get(term.name)) is None:
                found[term.name] = term
            elif same.reward is term.reward:
                found[term.name] = replace(same, weight=same.weight + term.weight)
            else:
                raise RewardError(f"two rewards of a sum are named {term.name!r}: give one another name")
        self._terms = tuple(found.values())

    @overload
    def __getitem__(self, index: int) -> Weighted: ...
    @overload
    def __getitem__(self, index: slice) -> Sum: ...
    def __getitem__(self, index: int | slice) -> Weighted | Sum:
        return Sum(self._terms[index]) if isinstance(index, slice) else self._terms[index]

    def __len__(self) -> int:
        return len(self._terms)

    def __repr__(self) -> str:
        return " + ".join(f"{term.weight:g} * {term.name}" for term in self) or "Sum()"

    def __add__(self, other: Weighted | Sum) -> Sum:
        return Sum([*self, *([other] if isinstance(other, Weighted) else other)])

    def __radd__(self, other: int) -> Sum:
        return self if other == 0 else NotImplemented  # the 0 that sum() begins with

    def __sub__(self, other: Weighted | Sum) -> Sum:
        return self + -other

    def __neg__(self) -> Sum:
        return self * -1

    def __mul__(self, factor: float) -> Sum:
        return Sum(term * factor for term in self)

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> Sum:
        return self * (1 / factor)
