"""Define what a reward is, and what its factory is told."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # not before it is needed
    from torch import Tensor


@runtime_checkable
class Reward(Protocol):
    """Anything with a `score`. Larger is better; where it is a probability, use its natural logarithm."""

    def score(self, samples: Sequence[Any]) -> Tensor | Sequence[float]:
        """Return a value per sample: finite or -inf, never NaN; of no sample, no value."""
        ...


@dataclass(frozen=True)
class TokenGradient:
    """Let a reward be differentiated by its judge's tokens: what a reward's attribute `gradient` is, where it has one.

    No reward needs one. With one, the proposal "straight-through" can draw tokens that the reward likes
    (`fktext.masked.straight_through`).

    Attributes:
        vocabulary: how the judge's tokens are spelt, and their ids.
        embeddings: (V, D) of its tokens.
        value: maps texts as embeddings (R, L, D), and which of them there are (R, L), bool, to their values (R,), differentiably.
            What the judge puts around a text is added by it.
    """

    vocabulary: Mapping[str, int]
    embeddings: Tensor
    value: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RewardContext:
    """Tell a reward's factory what it may want to know about the run.

    Attributes:
        device: where to put models, such as "cpu" or "cuda:0".
        offline: when true, never touch a network.
        batch_size: most samples per forward pass.
    """

    device: str = "cpu"
    offline: bool = False
    batch_size: int = 64


def key_of(sample: Any, reads_tokens: bool) -> Hashable:
    """Return what equal samples share; for a reward that reads tokens, the same text in other tokens is another sample."""
    if isinstance(sample, str):
        return str(sample), getattr(sample, "prompt", ""), getattr(sample, "tokens", None) if reads_tokens else None
    return getattr(sample, "key", None) or object()  # what has no key equals nothing else


def column_of(found: Any) -> Tensor:
    """Return what a reward returned as a dense tensor."""
    import torch
    from torch import Tensor

    return found.to_dense() if isinstance(found, Tensor) else torch.as_tensor(found, dtype=torch.float64)
