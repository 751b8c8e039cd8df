"""What masked diffusion asks of a network: an encoder, and a vocabulary head that runs only where a token is drawn."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

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
            (R, L, D) hidden states; position i predicts token i.
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
