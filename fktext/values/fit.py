"""Fit a head to finished sequences whose rewards are known.

What a sequence was on its way is had in closed form (`Noising`): masks over a random part of it, or a block under normal noise. So
one judgement of a text serves at all noise levels, and the network runs only on what it would have seen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fktext.errors import UsageError
from fktext.smc.process import Features
from fktext.values.files import Level
from fktext.values.head import Head

Encode = Callable[[Tensor, Tensor], Tensor]
LEAST = 50  # texts; fewer say nothing
BATCH, RATE, DECAY = 256, 1e-3, 0.05
EPOCHS, PATIENCE = 24, 4  # at most so many passes; stop after so many without a better held-out loss
LEVELS = 5


@runtime_checkable
class Noising(Protocol):
    """How finished sequences are put back to where they might have been on their way, and what the network makes of them there."""

    def noised(self, ids: Tensor, free: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Draw a noise level for each sequence, and what follows from it.

        Args:
            ids: (n, L) int64 finished sequences, on the CPU.
            free: (n, L) bool, the positions that a run would generate.
            rng: of the draws.

        Returns:
            Tensors that lead with axis n.
        """
        ...

    def seen(self, *noised: Tensor) -> Features:
        """Run the network on rows of what `noised` returned; each row's features depend on its own alone."""
        ...


@dataclass(frozen=True)
class Masks:
    """Mask texts, each at a time of its own.

    Attributes:
        encode: the network, (R, L) ids and (R,) noise times -> (R, L, D) hidden states.
        mask_id: what stands for an unknown token.
    """

    encode: Encode
    mask_id: int

    def noised(self, ids: Tensor, free: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mask each free position of a row with a probability of its own, stratified over (0, 1): ids and noise times."""
        t = (torch.randperm(len(ids), generator=rng) + torch.rand(len(ids), generator=rng)) / len(ids)
        hit = torch.rand(ids.shape, generator=rng) < t[:, None]
        return torch.where(hit & free, self.mask_id, ids), t

    def seen(self, *noised: Tensor) -> Features:
        """Run the network on masked ids at their noise times."""
        ids, t = noised
        return Features(self.encode(ids, t), (ids == self.mask_id).float().mean(1))


@dataclass(frozen=True)
class Seen:
    """Hold what the network computed of texts under noise, for any number of rewards.

    Attributes:
        train, test: of texts to fit to, and of the tenth that is held out.
        trained, tested: which text each row is of.
    """

    train: Features
    test: Features
    trained: Tensor
    tested: Tensor


@dataclass(frozen=True)
class Fitted:
    """Hold a head and how good it is on texts that it was not fitted to.

    Attributes:
        head: the one of the pass with the lowest held-out loss.
        loss: that loss; `chance` is the best constant's.
        levels: by share of unknown positions.
    """

    head: Head
    loss: float
    chance: float
    levels: list[Level]


def look(noising: Noising, ids: Tensor, free: Tensor, *, copies: int = 2, seed: int = 0) -> Iterator[tuple[int, int] | Seen]:
    """Put texts under noise at random times and run the network on them.

    Args:
        noising: how.
        ids: (n, L) finished sequences.
        free: (n, L) bool, the positions that a run would generate.
        copies: how often each text is noised anew.
        seed: of what is held out, and of the noise.

    Yields:
        How many rows of how many are done, and at the end what was seen.

    Raises:
        UsageError: too few texts.
    """
    if len(ids) < LEAST:
        raise UsageError(f"a value is fitted to at least {LEAST} texts, got {len(ids)}")
    rng = torch.Generator().manual_seed(seed)
    tested, trained = torch.randperm(len(ids), generator=rng).tensor_split([len(ids) // 10])
    rows = torch.cat([trained.repeat(copies), tested])
    parts = [noising.noised(ids[part], free[part], rng) for part in (*[trained] * copies, tested)]
    noised = [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
    found: list[Features] = []
    for batch in zip(*(tensor.split(BATCH) for tensor in noised), strict=True):
        with torch.inference_mode():
            features = noising.seen(*batch)
        found.append(Features(features.hidden.half().cpu(), features.unknown.cpu()))  # nothing else of it is kept
        yield min(len(found) * BATCH, len(rows)), len(rows)
    seen, size = Features(*(torch.cat(tensors) for tensors in zip(*found, strict=True))), copies * len(trained)
    yield Seen(Features(*(part[:size] for part in seen)), Features(*(part[size:] for part in seen)), rows[:size], rows[size:])


def fit(seen: Seen, rewards: Tensor, *, seed: int = 0, probabilities: bool = True) -> Fitted:
    """Fit a head to the rewards of the texts; it stops when the held-out loss does not fall any more.

    Args:
        seen: see `look`.
        rewards: (n,) of the texts, finite or -inf.
        seed: of the head and of the order of texts.
        probabilities: whether rewards that are at most 0 are log-probabilities.

    Raises:
        UsageError: rewards that do not differ, or that no link takes.
    """
    rewards = rewards.float()
    if not rewards.exp().std() > 0:
        raise UsageError("the rewards of all texts are equal: there is nothing to fit")
    test = rewards[seen.tested]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = _new(seen.train.hidden.shape[-1], rewards, probabilities=probabilities)
        best, lowest, since = head, math.inf, 0
        for _ in _passes(head, seen.train, rewards[seen.trained]):
            loss = float(head.loss(head.logit(seen.test), test).detach())
            since += 1
            if loss < lowest:
                best, lowest, since = copy.deepcopy(head), loss, 0
            if since == PATIENCE:
                break
    best = best.requires_grad_(False).eval()
    return Fitted(best, lowest, chance(best, test), levels(best(seen.test), test, seen.test.unknown))


def levels(said: Tensor, rewards: Tensor, unknown: Tensor) -> list[Level]:
    """Compare values with the rewards of the finished texts, in equal bins of the share of unknown positions.

    Args:
        said, rewards, unknown: (n,).
    """
    found = []
    for low, high in ((place / LEVELS, (place + 1) / LEVELS) for place in range(LEVELS)):
        here = (unknown >= low) & ((unknown < high) | (high == 1))
        value, reward = said[here].double(), rewards[here].double()
        kept = reward.isfinite()
        both = torch.stack([value[kept], reward[kept]])
        correlation = float(torch.corrcoef(both)[0, 1]) if kept.sum() > 2 else 0.0
        found.append(
            Level(
                low=low,
                high=high,
                texts=int(here.sum()),
                correlation=round(correlation if math.isfinite(correlation) else 0.0, 4),
                said=round(float(value.exp().mean()) if len(value) else 0.0, 6),
                was=round(float(reward.exp().mean()) if len(value) else 0.0, 6),
            )
        )
    return found


def _new(size: int, rewards: Tensor, *, probabilities: bool) -> Head:
    """Make a head with the link that goes with the rewards: "logistic" where they can be log-probabilities, else "mean"."""
    if float(rewards.max()) <= 0 and (probabilities or not rewards.isfinite().all()):
        return Head(size, "logistic")
    if not rewards.isfinite().all():
        raise UsageError("rewards of -inf beside rewards above 0: there is no link that a value of them could have")
    return Head(size, "mean", float(rewards.mean()), float(rewards.std()))


def _passes(head: Head, features: Features, rewards: Tensor) -> Iterator[int]:
    """Train a head, yielding after each pass over the texts; the rate falls along a cosine over all passes."""
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=DECAY)
    parts = len(torch.arange(len(rewards)).split(BATCH))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * parts)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(rewards)).split(BATCH):
            loss = head.loss(head.logit(Features(features.hidden[rows], features.unknown[rows])), rewards[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield epoch


def chance(head: Head, rewards: Tensor) -> float:
    """Return the loss of the best constant."""
    if head.link == "logistic":
        share = rewards.exp().mean()
        return float(head.loss((share / (1 - share)).log().expand(len(rewards)), rewards))
    return float(head.loss(((rewards.mean() - head.center) / head.scale).expand(len(rewards)), rewards))
