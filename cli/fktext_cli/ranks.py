"""Share one run between the processes that torchrun started; the first of them speaks for all (`--spread`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TypeVar

from fktext.errors import UsageError

Value = TypeVar("Value")


def leads(spread: bool) -> bool:
    """Tell whether this process prints and writes: it is the only one, or the first of those that share a run.

    Raises:
        UsageError: a run is to be shared, but torchrun has not started it.
    """
    if not spread:
        return True
    if missing := [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if not os.environ.get(name, "").isdecimal()]:
        raise UsageError(
            f"--spread shares a run between the processes of torchrun, but {missing[0]} is not in the environment: start it with "
            "`torchrun --nproc-per-node 2 -m fktext_cli generate --spread ...`"
        )
    return os.environ["RANK"] == "0"


@contextlib.contextmanager
def together(spread: bool, device: str) -> Iterator[str]:
    """Join the other processes for as long as this lasts; all are there when it begins.

    Args:
        spread: whether there are others.
        device: "cpu", or "cuda" for this process's own GPU.

    Yields:
        The device to use.

    Raises:
        UsageError: the device is one that all would have to share.
    """
    if not spread:
        yield device
        return
    import torch
    import torch.distributed as dist

    if device not in ("cpu", "cuda"):
        raise UsageError(f"--spread gives each process a GPU of its own: with it --device is auto, cpu or cuda, not {device}")
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    dist.barrier()
    with contextlib.ExitStack() as stack:
        if dist.get_rank():
            stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
        yield device
    dist.destroy_process_group()  # not after an error: others may wait in a collective for what will never come


def agree(spread: bool, value: Value) -> Value:
    """Return the first process's value in all of them."""
    if not spread:
        return value
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held)
    return held[0]
