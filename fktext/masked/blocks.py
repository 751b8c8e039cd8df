"""Write texts block after block: masked diffusion inside a block, given the finished blocks before it.

The law is p(x) = prod over blocks of p(x_block | blocks before), each factor a masked diffusion of its own with T steps (Arriola
et al. 2025, "Block Diffusion", arXiv 2503.09573). That is a case of `fktext.masked.strides`: a window per block, which begins where
the context does and ends where the block does. So a network never sees a later block, and only the block itself is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fktext.errors import UsageError
from fktext.masked.model import MaskedModel
from fktext.texts.model import Asked, Start, TextModel

if TYPE_CHECKING:
    from fktext.masked.process import MaskedDiffusion
    from fktext.settings import KernelLike, TextRun
    from fktext.text import Text
    from fktext.texts.templates import Template


def blocks(template: Tensor, mask_id: int, block: int, context: int) -> list[Tensor]:
    """Return the columns the network runs on for each block that is to be written.

    Blocks are counted from the beginning of the text, prompt included: a prompt's end shares a block with the first new tokens.

    Args:
        template: (L,) int64, masked where to write, at least at the end; L is a multiple of `block`.
        mask_id: of the network.
        block: tokens of a block.
        context: most tokens the network takes; where a text is longer its beginning is forgotten, by whole blocks.

    Returns:
        int64 columns, from the beginning of the context to the end of the block.

    Example:
        >>> [part.tolist() for part in blocks(torch.tensor([5, 5, 5, 9, 9, 9]), 9, 2, 4)]
        [[0, 1, 2, 3], [2, 3, 4, 5]]
    """
    length = len(template)
    if not 0 < block <= context or length % block:
        raise ValueError(f"blocks of {block} do not fit a text of {length} in a context of {context}")
    room = context - context % block
    first = int((template == mask_id).nonzero()[0, 0]) // block * block
    return [torch.arange(max(0, at + block - room), at + block) for at in range(first, length, block)]


@dataclass(frozen=True)
class BlockModel(MaskedModel):
    """A masked model that writes blocks of `block` tokens from left to right; steps are those of a block.

    Attributes:
        cached: whether keys and values of finished blocks are remembered (see `fktext.masked.cache`) or computed for every row. The
            texts are the same up to floating-point rounding.
    """

    block: int = 1
    cached: bool = True

    def stride(self, length: int, wanted: int | None) -> int | None:
        """Return None: it writes by blocks, and forgets the beginning of what its network does not take.

        Raises:
            UsageError: a stride is wanted, or the length is not a number of whole blocks.
        """
        if wanted is not None:
            raise UsageError(f"model {self.name!r} writes by blocks of {self.block} tokens and takes no stride")
        if over := length % self.block:
            below = f"{length - over} or " if length > self.block else ""
            raise UsageError(
                f"length {length} is not a multiple of the {self.block} tokens that model {self.name!r} writes at a time: "
                f"choose {below}{length - over + self.block}"
            )
        return None

    def guidable(self, kernel: str | KernelLike) -> bool:
        """Return False: guided proposals are for texts of one window."""
        return False

    def decode(self, ids: Tensor, prompt: Asked) -> list[Text]:
        """Turn sequences into texts; where later blocks are still masked, a text is what comes before them."""
        rows, mask = ids.tolist(), self.denoiser.mask_id
        return self._texts([row[: row.index(mask)] if mask in row else row for row in rows], self.start(prompt))

    def _filled(self, template: Template) -> Start:
        """Refuse a template, whose later words a block would not see."""
        return TextModel._filled(self, template)

    def _windows(self, template: Tensor, run: TextRun) -> Sequence[Tensor]:
        """List the columns of each block."""
        return blocks(template, self.denoiser.mask_id, self.block, self.denoiser.max_length)

    def _equip(self, process: MaskedDiffusion) -> bool:
        """See `MaskedModel`: remember finished blocks, where the network can read them."""
        from fktext.masked.cache import Cached, Extending

        if not self.cached or not isinstance(process.denoiser, Extending):
            return False
        process.denoiser = Cached(process.denoiser, self.block, process.ledger)
        return True
