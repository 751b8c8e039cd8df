"""Rewards: what they are, and how the engine calls them (each distinct sample once, every value checked)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fktext.errors import RewardError
from fktext.ledger import Ledger


class Text(str):
    """A generated text: a `str` that also knows the prompt it continues ("" where there is none or it was a template)."""

    prompt: str

    def __new__(cls, text: str, prompt: str = "") -> Text:
        """A string with its prompt."""
        self = super().__new__(cls, text)
        self.prompt = prompt
        return self

    @property
    def continuation(self) -> str:
        """The text after its prompt."""
        return self.removeprefix(self.prompt)


@runtime_checkable
class Reward(Protocol):
    """Anything with a `score`. Larger is better; where it is a probability, use its natural logarithm."""

    def score(self, samples: Sequence[Any]) -> Tensor | Sequence[float]:
        """A value per sample: finite or -inf, never NaN. Called with at least one sample."""
        ...


@dataclass(frozen=True)
class RewardContext:
    """What a reward factory may want to know about the run.

    Attributes:
        device: where to put models, such as "cpu" or "cuda:0".
        offline: when true, never touch a network.
        batch_size: most samples per forward pass.
    """

    device: str = "cpu"
    offline: bool = False
    batch_size: int = 64


@dataclass(frozen=True)
class Weighted:
    """One term of the total reward: weight * reward.score(sample)."""

    name: str
    reward: Reward
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (self.weight == self.weight and abs(self.weight) not in (0.0, float("inf"))):
            raise RewardError(f"reward {self.name!r} has weight {self.weight}: a weight must be finite and not zero")


class Scorer:
    """Scores samples by a weighted sum of rewards; equal samples are scored once, and remembered.

    Args:
        terms: the weighted rewards.
        memo: how many samples to remember, least recently used forgotten first.
    """

    def __init__(self, terms: Sequence[Weighted], memo: int = 65_536) -> None:
        self.terms = tuple(terms)
        self.names = tuple(term.name for term in self.terms)
        self.ledger = Ledger()
        self._memo: OrderedDict[Hashable, tuple[float, ...]] = OrderedDict()
        self._size = memo

    def __call__(self, samples: Sequence[Any], where: str = "") -> Tensor:
        """(M,) samples -> (M, P) float64, the value of each of the P rewards; see `total`.

        Raises:
            RewardError: a reward raised, or returned NaN, +inf or the wrong number of values; the message names `where`.
        """
        if not self.terms:
            return torch.zeros(len(samples), 0, dtype=torch.float64)
        keys = [self._key(sample) for sample in samples]
        fresh: dict[Hashable, int] = {}
        for index, key in enumerate(keys):
            if key not in self._memo:
                fresh.setdefault(key, index)
        found = {key: self._memo[key] for key in keys if key in self._memo}
        if fresh:
            started = time.perf_counter()
            values = self._compute([samples[index] for index in fresh.values()], where)
            found.update(zip(fresh, values, strict=True))
            self.ledger.reward_seconds += time.perf_counter() - started
        self.ledger.reward_requests += len(keys)
        self.ledger.reward_calls += len(fresh)
        for key, value in found.items():
            self._memo[key] = value
            self._memo.move_to_end(key)
        while len(self._memo) > self._size:
            self._memo.popitem(last=False)
        return torch.tensor([found[key] for key in keys], dtype=torch.float64).reshape(len(keys), len(self.terms))

    def total(self, values: Tensor) -> Tensor:
        """(M, P) values -> (M,) weighted sums."""
        weights = torch.tensor([term.weight for term in self.terms], dtype=values.dtype, device=values.device)
        return (values * weights).sum(-1)

    @staticmethod
    def _key(sample: Any) -> Hashable:
        if isinstance(sample, str):
            return str(sample), getattr(sample, "prompt", "")
        return object()  # images and the like: not compared

    def _compute(self, samples: list[Any], where: str) -> list[tuple[float, ...]]:
        columns = []
        for term in self.terms:
            try:
                values = torch.as_tensor(term.reward.score(samples), dtype=torch.float64).cpu()
            except RewardError:
                raise
            except Exception as error:
                raise RewardError(f"reward {term.name!r} failed{where}: {type(error).__name__}: {error}") from error
            if values.shape != (len(samples),):
                raise RewardError(
                    f"reward {term.name!r} returned shape {tuple(values.shape)} for {len(samples)} samples{where}; "
                    f"expected ({len(samples)},)"
                )
            if (bad := values.isnan() | (values == torch.inf)).any():
                index = int(bad.nonzero()[0, 0])
                raise RewardError(
                    f"reward {term.name!r} returned {values[index]:g} for sample {index} of {len(samples)}{where} "
                    f"({str(samples[index])[:40]!r}...). A reward must be finite or -inf."
                )
            columns.append(values)
        return [tuple(row) for row in torch.stack(columns, -1).tolist()]
