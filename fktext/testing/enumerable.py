"""A masked diffusion small enough to list: the exact law of its sampler, and the exact tilted law.

Every state of L positions over V tokens and the mask is known, so the law of the T-step ancestral sampler follows by recursion over
reveal steps, with no sampling at all. It is the oracle that the engine is tested against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from functools import cache, cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fktext.masked.process import MaskedDiffusion
from fktext.text import Text


class TableDenoiser:
    """Read p(x0 | x_t) off a table with a random row for every masked state; hidden states are the logits themselves."""

    time_dependent = False

    def __init__(self, length: int = 3, tokens: int = 2, seed: int = 0, device: str = "cpu") -> None:
        self.max_length, self.mask_id, self.vocab_size = length, tokens, tokens + 1
        states = (tokens + 1) ** length
        table = 1.5 * torch.randn(states, length, tokens + 1, generator=torch.Generator().manual_seed(seed))
        self.table = table.to(device)
        self._radix = (tokens + 1) ** torch.arange(length, device=device)

    @property
    def device(self) -> torch.device:
        """The place of the table."""
        return self.table.device

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        """Map (R, L) ids to (R, L, V) logits."""
        return self.table[(ids * self._radix).sum(-1)]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the hidden states, which are logits already."""
        return hidden


class TableReward:
    """Give every finished text a random reward in nats; texts are digits, one per token."""

    def __init__(self, texts: Sequence[str], seed: int = 1, scale: float = 1.0) -> None:
        values = scale * torch.randn(len(texts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.values = dict(zip(texts, values.tolist(), strict=True))

    def score(self, samples: Sequence[Any]) -> list[float]:
        """Look each text up."""
        return [self.values[sample] for sample in samples]


class Constraint:
    """Put a hard constraint on texts, perhaps beside a soft reward.

    Args:
        met: the texts that meet it: worth their value of `soft`, or 0; the others are worth -inf.
        soft: a value for every text.
    """

    def __init__(self, met: Sequence[str], soft: TableReward | None = None) -> None:
        self.values = {text: soft.values[text] if soft else 0.0 for text in met}

    def score(self, samples: Sequence[Any]) -> list[float]:
        """Look each text up; what is not there fails."""
        return [self.values.get(sample, -math.inf) for sample in samples]


class Enumerable:
    """A listable masked diffusion with its exact laws.

    Attributes:
        denoiser: the table; `reward`: the table of rewards.
        texts: every finished text, V^L of them, in the order of the laws below.
        num_steps: T, reverse steps.
    """

    def __init__(self, length: int = 3, tokens: int = 2, num_steps: int = 4, seed: int = 0, device: str = "cpu") -> None:
        self.denoiser = TableDenoiser(length, tokens, seed, device)
        self.length, self.tokens, self.num_steps = length, tokens, num_steps
        self._finished = list(product(range(tokens), repeat=length))
        self.texts = ["".join(map(str, ids)) for ids in self._finished]
        self.reward: TableReward | Constraint = TableReward(self.texts, seed + 1)

    def constrained(self, share: float, *, soft: bool = False, seed: int = 3) -> Enumerable:
        """Put the same model under a hard constraint that its texts meet with a probability of about `share`.

        Args:
            share: of the base model's mass; the nearest that some of its texts, taken in a random order, add up to from below.
            soft: whether those texts differ in reward, as they do without the constraint.
            seed: of the order.
        """
        met, mass = [], 0.0
        for index in torch.randperm(len(self.texts), generator=torch.Generator().manual_seed(seed)).tolist():
            if mass + self.law[index] <= 1.15 * share:
                met.append(self.texts[index])
                mass += float(self.law[index])
        other = copy(self)
        other.reward = Constraint(met, self.reward if soft and isinstance(self.reward, TableReward) else None)
        return other

    def process(self, populations: int, particles: int, **settings: Any) -> MaskedDiffusion:
        """Make the real sampler over the table, for `populations` unprompted populations."""
        templates = torch.full((populations, self.length), self.denoiser.mask_id, device=self.denoiser.device)
        return MaskedDiffusion(self.denoiser, templates, particles, self.num_steps, self._decode, **settings)

    @cached_property
    def law(self) -> Tensor:
        """(V^L,) float64: the exact law p(x) of the T-step ancestral sampler."""
        mask = self.denoiser.mask_id
        mass: dict[tuple[int, ...], float] = {(mask,) * self.length: 1.0}
        for step in range(self.num_steps):
            revealed = 1 / (self.num_steps - step)  # 1 - s/t on the linear grid
            following: dict[tuple[int, ...], float] = {}
            for state, weight in mass.items():
                for after, probability in self._transitions(state, revealed):
                    following[after] = following.get(after, 0.0) + weight * probability
            mass = following
        return torch.tensor([mass.get(ids, 0.0) for ids in self._finished], dtype=torch.float64)

    @property
    def rewards(self) -> Tensor:
        """(V^L,) float64 rewards in nats."""
        return torch.tensor(self.reward.score(self.texts), dtype=torch.float64)

    def tilted(self, lam: float) -> Tensor:
        """Return (V^L,) float64: p(x) exp(lam r(x)), not normalised; its sum is Z."""
        return self.law * torch.exp(lam * self.rewards)

    def _transitions(self, state: tuple[int, ...], revealed: float) -> list[tuple[tuple[int, ...], float]]:
        """List every next state with its probability: each masked position stays or becomes a token, independently."""
        mask = self.denoiser.mask_id
        logits = self.denoiser.encode(torch.tensor([state], device=self.denoiser.device), torch.ones(1))[0].double().cpu()
        probs = torch.softmax(logits[:, : self.tokens], -1).tolist()
        choices = [
            [(mask, 1 - revealed), *((token, revealed * probs[place][token]) for token in range(self.tokens))]
            if here == mask
            else [(here, 1.0)]
            for place, here in enumerate(state)
        ]
        found = []
        for combination in product(*choices):
            probability = 1.0
            for _, factor in combination:
                probability *= factor
            if probability > 0:
                found.append((tuple(token for token, _ in combination), probability))
        return found

    def _decode(self, ids: Tensor, population: Tensor) -> list[Text]:
        return [_text(row) for row in map(tuple, ids.tolist())]


@cache
def _text(ids: tuple[int, ...]) -> Text:
    """Return the text of all its tokens, made once: there are few."""
    return Text("".join(map(str, ids)))
