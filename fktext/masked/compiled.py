"""Compile a denoiser's network, for a few sizes of batch.

Compiled code is made for one shape. So rows go through the network in pieces of 1, 2, 4 ... LARGEST, the last piece padded with
copies of its last row where at most a quarter more is computed than asked for: with texts of one length at most eight shapes are
compiled, each when it first occurs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fktext.masked.denoiser import Denoiser

LARGEST = 128  # rows that fill any device


class Compiled:
    """Run the same denoiser compiled, equal up to rounding; the vocabulary head, one matrix product, stays as it is.

    Args:
        net: the denoiser. On CUDA its calls are replayed as graphs, which saves the launches that small batches wait for.
    """

    def __init__(self, net: Denoiser) -> None:
        import torch._dynamo

        self.net = net
        self.vocab_size, self.mask_id, self.max_length = net.vocab_size, net.mask_id, net.max_length
        self.time_dependent, self.block = net.time_dependent, getattr(net, "block", None)
        self.device, self.logits = net.device, net.logits
        self._graphs = str(net.device).startswith("cuda")
        # Beyond its limit torch would go back to uncompiled code, with a warning; a run of templates has many lengths.
        torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, 256)
        self._encode = torch.compile(net.encode, dynamic=False, mode="reduce-overhead" if self._graphs else None)

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        """Map (R, L) tokens at times t (R,) to (R, L, D)."""
        hidden, start = [], 0
        for size in pieces(len(ids)):
            rows = torch.arange(start, start + size, device=ids.device).clamp_(max=len(ids) - 1)
            if self._graphs:
                torch.compiler.cudagraph_mark_step_begin()
            piece = self._encode(ids[rows], t[rows])[: len(ids) - start]
            hidden.append(piece.clone() if self._graphs else piece)  # a graph's next replay writes to the same memory
            start += size
        return torch.cat(hidden)


def pieces(rows: int) -> Iterator[int]:
    """Return sizes that together hold so many rows, all but the last one full.

    Example:
        >>> list(pieces(7)), list(pieces(5)), list(pieces(300))
        ([8], [4, 1], [128, 128, 32, 8, 4])
    """
    while rows > 0:
        size = min(LARGEST, 1 << (rows - 1).bit_length())
        size = size if 4 * size <= 5 * rows else size // 2
        yield size
        rows -= size
