"""What masked diffusion asks of a network: an encoder, and a vocabulary head that runs only where a token is drawn."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Network(Protocol):
    """What is known of every network that a text process runs.

    Attributes:
        vocab_size: V, the width of its head.
        mask_id: what marks a place of a sequence that is to be written.
        max_length: most positions the network takes.
    """

    vocab_size: int
    mask_id: int
    max_length: int

    @property
    def device(self) -> object:
        """Where its tensors live."""
        ...


class Denoiser(Network, Protocol):
    """A network that predicts p(x0 | x_t) at every position, split in two; its `mask_id` is the token "not yet revealed".

    Attributes:
        time_dependent: whether `encode` depends on t; if not, what it returned stays true until the tokens change.
    """

    time_dependent: bool

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        """Hidden states.

        Args:
            ids: (R, L) int64 tokens, masked positions holding `mask_id`.
            t: (R,) float32 noise time of each row in (0, 1].

        Returns:
            (R, L, D) hidden states; position i predicts token i.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, D) hidden states of any positions -> (R, V) raw float logits."""
        ...
