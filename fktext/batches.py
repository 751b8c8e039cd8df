"""How models are run: in batches, smaller where memory ends; judges in those of like length, in half precision where it is fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


class Batches:
    """Runs a function on a list, a batch at a time.

    Where a batch does not fit the device's memory it is halved, and what comes after it stays as small.

    Args:
        size: most items at a time; None for all of a list at once.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def __call__(self, compute: Callable[[Sequence[Item]], Tensor], items: Sequence[Item]) -> Tensor:
        """(R, ...) what `compute` says of R items, (R', ...) for R' of them, joined in their order; on the CPU in float64.

        Raises:
            torch.OutOfMemoryError: memory does not hold a single one.
        """
        parts, start = [torch.empty(0, dtype=torch.float64)] * (not items), 0
        while start < len(items):
            batch = items[start : start + (self.size or len(items))]
            if (part := fits(lambda: compute(batch), len(batch))) is None:  # noqa: B023  called at once
                self.size = len(batch) // 2
                continue
            parts.append(part.cpu().double())
            start += len(batch)
        return torch.cat(parts)

    def by_length(self, compute: Callable[[Sequence[Sequence[int]]], Tensor], rows: Sequence[Sequence[int]]) -> Tensor:
        """The same for rows of token ids, of which those of like length share a batch, so that little work is lost on padding.

        Ties are broken by content: a value may depend, in its last digits, on the other rows of a call, but not on their order.

        Returns:
            (R, ...) float64 on the CPU, in the order of `rows`.
        """
        order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), rows[index]))
        found = self(compute, [rows[index] for index in order])
        values = torch.empty_like(found)
        values[order] = found
        return values


def fits(compute: Callable[[], Tensor], rows: int) -> Tensor | None:
    """What is computed of a batch, or None where memory does not hold it but may hold half of it.

    Raises:
        torch.OutOfMemoryError: memory does not hold a single row.
    """
    try:
        return compute()
    except torch.OutOfMemoryError:
        if rows < 2:
            raise
    # Only here are the frames of the failed call, and their tensors, gone.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


@contextmanager
def judging(device: str | torch.device) -> Iterator[None]:
    """No gradients; and on a GPU that computes in bfloat16, matrix products in it, which keep three digits of a logit.

    Weights, softmax and norms stay in float32, and elsewhere everything does.
    """
    half = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()
    with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16) if half else nullcontext():
        yield
