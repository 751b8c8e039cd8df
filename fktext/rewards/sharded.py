"""Score over several processes: each sample on one rank, and every rank gets all values."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from fktext.errors import FktextError
from fktext.rewards import Scorer
from fktext.smc.ledger import Ledger
from fktext.smc.sharded import Shares, all_objects


class ShardedScorer:
    """Score each sample on one rank, and give every rank all values.

    A sample belongs to the rank that its hash names, so each rank's memory of what it has scored stays useful.

    Args:
        scorer: this rank's scorer of the same rewards.
        shares: who computes.
    """

    def __init__(self, scorer: Scorer, shares: Shares) -> None:
        self._scorer, self._shares = scorer, shares
        self.names = scorer.names
        self.ledger = Ledger()

    def __call__(self, samples: Sequence[Any], where: str = "") -> Tensor:
        """Map (M,) samples, the same on every rank, to (M, P) float64 values; an error of one rank is raised on all."""
        owner = [int.from_bytes(blake2b(repr(sample).encode(), digest_size=4).digest()) % self._shares.size for sample in samples]
        mine = [index for index, rank in enumerate(owner) if rank == self._shares.rank]
        outcome: Tensor | FktextError
        try:
            outcome = self._scorer([samples[index] for index in mine], where)
        except FktextError as error:
            outcome = error
        parts = all_objects((mine, outcome, self._scorer.ledger), self._shares.size)
        values = torch.empty(len(samples), len(self.names), dtype=torch.float64)
        for indices, found, _ in parts:
            if isinstance(found, FktextError):
                raise found
            values[indices] = found
        self.ledger = sum((ledger for _, _, ledger in parts), Ledger())
        return values

    def weighted(self, values: Tensor) -> Tensor:
        """Return (..., P) values, each times its reward's weight."""
        return self._scorer.weighted(values)
