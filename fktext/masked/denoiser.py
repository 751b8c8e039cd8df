"""What masked diffusion asks of a network: an encoder, and a vocabulary head that runs only where a token is drawn."""

from __future__ import annotations

from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fktext.batches import fits
from fktext.texts.model import Network


class Denoiser(Network, Protocol):
    """A network that predicts p(x0 | x_t) at every position, split in two; its `mask_id` is the token "not yet revealed".

    Attributes:
        time_dependent: whether `encode` depends on t; if not, what it returned stays true until the tokens change.
    """

    time_dependent: bool

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        """Run the encoder.

        Args:
            ids: (R, L) int64 tokens, masked positions holding `mask_id`.
            t: (R,) float32 noise time of each row in (0, 1].

        Returns:
            (R, L, D) hidden states; position i predicts token i. Or those of the last positions only, where no other is masked.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Map (R, D) hidden states of any positions to (R, V) raw float logits."""
        ...


@runtime_checkable
class Embedding(Denoiser, Protocol):
    """A denoiser that takes embeddings in the place of tokens, so that a gradient can say which other tokens would do better."""

    def embeddings(self) -> Tensor:
        """Return (V, D) the embedding of each token."""
        ...

    def encode_embedded(self, embedded: Tensor, t: Tensor) -> Tensor:
        """Encode as `encode` does, from (R, L, D) embeddings."""
        ...


def encode(denoiser: Denoiser, ids: Tensor, t: Tensor, batch_size: int) -> tuple[Tensor, int]:
    """Run the encoder on rows of any number, in halves where memory does not hold them.

    Args:
        denoiser: the network.
        ids, t: see `Denoiser.encode`.
        batch_size: most rows per call.

    Returns:
        (R, L, D) hidden states, and the batch size that memory holds: what did not fit once will not fit again.
    """
    parts, start = [], 0
    while start < len(ids):
        part = slice(start, start + batch_size)
        size = len(ids[part])
        if (hidden := fits(partial(denoiser.encode, ids[part], t[part]), size)) is None:
            batch_size = size // 2
            continue
        parts.append(hidden)
        start += size
    return torch.cat(parts), batch_size
