"""Spread one population over several processes: every rank moves some of its particles, all ranks weigh them alike.

Launched by `torchrun`, each rank builds the same prompts, seeds and plan, wraps its process in `ShardedProcess` and its scorer in
`fktext.rewards.sharded.ShardedScorer`, and runs the ordinary `steer`. Rewards are gathered, so every rank computes weights and
ancestors from the same numbers with the same counter-based noise; only the particles that change rank travel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fktext.errors import UsageError
from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise
from fktext.smc.process import ReverseProcess, map_tensors

State = TypeVar("State")


@dataclass(frozen=True)
class Shares:
    """Tell who holds which of M = B * N particles: rank r the slots r * N // size up to (r + 1) * N // size of each population.

    Attributes:
        particles: N.
        rank, size: this process among all.
    """

    particles: int
    rank: int
    size: int

    def __post_init__(self) -> None:
        if self.particles < self.size:
            raise UsageError(f"{self.particles} particles cannot be shared by {self.size} processes")

    @classmethod
    def of(cls, particles: int) -> Shares:
        """Return the shares within the default process group, one of it all where there is none."""
        ready = dist.is_available() and dist.is_initialized()
        return cls(particles, dist.get_rank() if ready else 0, dist.get_world_size() if ready else 1)

    def slots(self, rank: int | None = None) -> range:
        """Return the slots of a rank, by default this one's."""
        rank = self.rank if rank is None else rank
        return range(rank * self.particles // self.size, (rank + 1) * self.particles // self.size)

    def rows(self, populations: int, rank: int | None = None) -> Tensor:
        """Return (M of a rank,) int64 places of its particles among all M, in the order in which it holds them."""
        return (torch.arange(populations)[:, None] * self.particles + torch.tensor(self.slots(rank))).flatten()


@dataclass
class Sharded(Generic[State]):
    """Hold this rank's particles, and get others'."""

    local: State
    shares: Shares

    def gather(self, ancestors: Tensor) -> Sharded[State]:
        """Copy particles across ranks (see `fktext.smc.process.gather`): rows that stay are copied in place, movers are sent.

        Args:
            ancestors: (M,) int64, the same on every rank.
        """
        populations = len(ancestors) // self.shares.particles
        chosen = ancestors.cpu()
        holder = torch.empty_like(chosen)  # which rank holds each particle, and where
        place = torch.empty_like(chosen)
        for rank in range(self.shares.size):
            rows = self.shares.rows(populations, rank)
            holder[rows], place[rows] = rank, torch.arange(len(rows))
        wanted = [chosen[self.shares.rows(populations, rank)] for rank in range(self.shares.size)]
        mine = wanted[self.shares.rank]
        source = holder[mine]
        send, receive = {}, {}
        for rank in range(self.shares.size):
            if rank == self.shares.rank:
                continue
            asked = wanted[rank][holder[wanted[rank]] == self.shares.rank].unique()
            needed = mine[source == rank].unique()
            if len(asked):
                send[rank] = place[asked]
            if len(needed):
                receive[rank] = needed
        # Rows that arrive are appended to the own ones; `index` says where each new row comes from.
        index, end = place[mine].clone(), len(mine)
        for rank, needed in receive.items():
            here = source == rank
            index[here] = end + torch.searchsorted(needed, mine[here])
            end += len(needed)

        def exchange(tensor: Tensor) -> Tensor:
            arriving = {rank: tensor.new_empty((len(needed), *tensor.shape[1:])) for rank, needed in receive.items()}
            leaving = {rank: tensor[rows.to(tensor.device)].contiguous() for rank, rows in send.items()}
            operations = [dist.P2POp(dist.isend, part, rank) for rank, part in leaving.items() if part.numel()]
            operations += [dist.P2POp(dist.irecv, part, rank) for rank, part in arriving.items() if part.numel()]
            for request in dist.batch_isend_irecv(operations) if operations else ():
                request.wait()
            return torch.cat([tensor, *arriving.values()])[index.to(tensor.device)]

        return replace(self, local=map_tensors(self.local, exchange))


class ShardedProcess(Generic[State]):
    """Spread the particles of a reverse process over ranks.

    Args:
        build: the process of this rank's particles, given how many of each population it holds.
        shares: who holds what.
        populations: B.
    """

    def __init__(self, build: Callable[[int], ReverseProcess[State]], shares: Shares, populations: int) -> None:
        self._process = build(len(shares.slots()))
        self._shares, self._populations = shares, populations
        self.num_steps = self._process.num_steps
        self.ledger = Ledger()  # what all ranks have cost, as of the last `decode`

    def init(self, noise: Noise) -> Sharded[State]:
        """Return this rank's particles at step 0."""
        return Sharded(self._process.init(self._mine(noise)), self._shares)

    def advance(self, state: Sharded[State], k: int, k_next: int, noise: Noise) -> Sharded[State]:
        """Move this rank's particles."""
        return replace(state, local=self._process.advance(state.local, k, k_next, self._mine(noise)))

    def predict(self, state: Sharded[State], k: int, noise: Noise, samples: int) -> tuple[Any, Sharded[State]]:
        """Guess this rank's x0."""
        x0, local = self._process.predict(state.local, k, self._mine(noise), samples)
        return x0, replace(state, local=local)

    def decode(self, x0: Any) -> Sequence[Any]:
        """Return what the reward sees of all ranks' guesses, in the order of one process."""
        parts = all_objects((list(self._process.decode(x0)), self._process.ledger), self._shares.size)
        self.ledger = sum((ledger for _, ledger in parts), Ledger())
        whole: list[Any] = [None] * sum(len(samples) for samples, _ in parts)
        draws = len(whole) // (self._populations * self._shares.particles)
        for rank, (samples, _) in enumerate(parts):
            for index, row in enumerate(self._shares.rows(self._populations, rank).tolist()):
                whole[row * draws : (row + 1) * draws] = samples[index * draws : (index + 1) * draws]
        return whole

    def _mine(self, noise: Noise) -> Noise:
        rows = self._shares.rows(self._populations).to(noise.key.device)
        return Noise(noise.key[rows], noise.slot[rows])


def all_objects(value: Any, size: int) -> list[Any]:
    """Exchange values: return that of every rank."""
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values
