"""Call rewards as the engine does: each distinct sample once, every value checked."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from fktext.batches import Batches, out_of_memory
from fktext.errors import RewardError, explain, first_line
from fktext.rewards.reward import column_of, key_of
from fktext.rewards.sums import Weighted
from fktext.smc.ledger import Ledger


class Scorer:
    """Score samples by a weighted sum of rewards; equal samples are scored once, and remembered.

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
        self._batches = [Batches() for _ in self.terms]
        self._reads_tokens = any(getattr(term.reward, "reads_tokens", False) for term in self.terms)

    def __call__(self, samples: Sequence[Any], where: str = "") -> Tensor:
        """Map (M,) samples to (M, P) float64, the value of each of the P rewards; see `total`.

        Raises:
            RewardError: a reward raised, returned NaN, +inf or the wrong number of values, or is +inf by its weight; the message
                names `where`.
        """
        if not self.terms:
            return torch.zeros(len(samples), 0, dtype=torch.float64)
        keys = [key_of(sample, self._reads_tokens) for sample in samples]
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

    def weighted(self, values: Tensor) -> Tensor:
        """Return (..., P) values, each times its reward's weight."""
        return values * torch.tensor([term.weight for term in self.terms], dtype=values.dtype, device=values.device)

    def total(self, values: Tensor) -> Tensor:
        """Map (..., P) values to (...) weighted sums."""
        return self.weighted(values).sum(-1)

    def _compute(self, samples: list[Any], where: str) -> list[tuple[float, ...]]:
        columns = []
        for term, batches in zip(self.terms, self._batches, strict=True):
            values = _values(term, batches, samples, where)
            weighted = values * term.weight
            if (bad := values.isnan() | (values == torch.inf) | (weighted == torch.inf)).any():
                index = int(bad.nonzero()[0, 0])
                wrong = values[index].isnan() or values[index] == torch.inf
                rule = "A reward" if wrong else f"Its weight {term.weight:g} makes that inf, and a weighted reward"
                raise RewardError(
                    f"reward {term.name!r} returned {values[index]:g} for sample {index} of {len(samples)}{where} "
                    f"({str(samples[index])[:40]!r}...). {rule} must be finite or -inf."
                )
            columns.append(values)
        return [tuple(row) for row in torch.stack(columns, -1).tolist()]


def _values(term: Weighted, batches: Batches, samples: list[Any], where: str) -> Tensor:
    """Return (M,) values of one reward, asked for as many samples at a time as it has memory for."""

    def compute(batch: Sequence[Any]) -> Tensor:
        values = column_of(term.reward.score(list(batch)))
        if values.shape != (len(batch),):
            raise RewardError(
                f"reward {term.name!r} returned shape {tuple(values.shape)} for {len(batch)} samples{where}; "
                f"expected ({len(batch)},)"
            )
        return values

    try:
        return batches(compute, samples)
    except RewardError:
        raise
    except (Exception, SystemExit) as error:  # a reward must not end the program with its own exit code and no word
        if out_of_memory(error):
            raise RewardError(f"reward {term.name!r} ran out of memory on a single sample{where}: {first_line(error)}") from error
        raise RewardError(f"reward {term.name!r} failed{where}: {explain(error)}") from error
