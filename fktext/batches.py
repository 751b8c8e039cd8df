"""Run models in batches, smaller where memory ends; judges in those of like length, in half precision where it is fast."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from fktext.errors import UsageError

__all__ = ["Batches", "judging"]  # what a reward's author needs; the rest is the engine's

Item = TypeVar("Item")
# What torch says where its CPU allocator, the C++ library, cuBLAS or its arithmetic of sizes gives up
_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED", "Storage size calculation overflowed")


class Batches:
    """Run a function on a list, a batch at a time.

    Where a batch does not fit the device's memory it is halved, and what comes after it stays as small.

    Args:
        size: most items at a time; None for all of a list at once.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def __call__(self, compute: Callable[[Sequence[Item]], Tensor], items: Sequence[Item]) -> Tensor:
        """Return (R, ...) what `compute` says of R items, (R', ...) for R' of them, joined in order; on the CPU in float64.

        Raises:
            torch.OutOfMemoryError: memory does not hold a single one; or another error of `out_of_memory`.
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
        """Do the same for rows of token ids, of which those of like length share a batch, so that little is lost on padding.

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
    """Compute a batch; return None where memory does not hold it but may hold half of it.

    Raises:
        torch.OutOfMemoryError: memory does not hold a single row; or another error of `out_of_memory`.
    """
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if rows < 2 or not out_of_memory(error):
            raise
    # Only here are the frames of the failed call, and their tensors, gone.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ends: GPUs have a class for it, a CPU's allocator has words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY)
    )


def best_device() -> str:
    """Return what "auto" means: "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(name: str) -> torch.device:
    """Return the device of a name, or of "auto", after trying that tensors can be put and read there.

    Raises:
        UsageError: torch does not know it or was not built for it, it is not there, or it is "meta", which holds no numbers.
    """
    try:
        device = torch.zeros(1, device=best_device() if name == "auto" else name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch asserts that it was compiled with CUDA
        absent = isinstance(error, NotImplementedError)  # torch lists every kernel there is
        reason = "this build of torch has no such device" if absent else (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"device {name!r} cannot be used here: {reason}") from error
    if device.type == "meta":
        raise UsageError(f"device {name!r} cannot be used here: its tensors have shapes and no numbers")
    return device


def check_memory(needed: int, device: str | torch.device) -> None:
    """Refuse what the whole memory would not hold: a system that promises more than it has would kill the process, without a word.

    Args:
        needed: bytes, at least.
        device: where.

    Raises:
        torch.OutOfMemoryError: there are fewer, free or not.
    """
    if needed > (there := memory(device)):
        raise torch.OutOfMemoryError(f"{needed / 2**30:,.1f} GiB are needed at least, and there are {there / 2**30:,.1f}")


def memory(device: str | torch.device) -> float:
    """Return the bytes that a process can have at most: of the GPU, or of the computer and its limits; infinite where unknown."""
    if (place := torch.device(device)).type == "cuda":
        return float(torch.cuda.mem_get_info(place)[1])
    if not hasattr(os, "sysconf"):
        return math.inf
    import resource

    bounds = [float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))]
    if (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        bounds.append(most)
    with suppress(OSError, ValueError):  # "max", or no control group
        bounds.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(bounds)


@contextmanager
def judging(device: str | torch.device) -> Iterator[None]:
    """Run without gradients; on a GPU that has bfloat16, with matrix products in it, which keep three digits of a logit.

    Weights, softmax and norms stay in float32, and elsewhere everything does.
    """
    half = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()
    with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16) if half else nullcontext():
        yield
