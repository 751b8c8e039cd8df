"""Batches: in order, of like length, and half as large where memory ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fktext.batches import Batches, judging


class Device:
    """A function on a device whose memory holds `room` tokens, padding included."""

    def __init__(self, room: int) -> None:
        self.room, self.seen = room, []  # type: tuple[int, list[list[int]]]

    def __call__(self, rows: Sequence[Sequence[int]]) -> Tensor:
        if len(rows) * max(map(len, rows)) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")
        self.seen.append([len(row) for row in rows])
        return torch.tensor([float(sum(row)) for row in rows])


ROWS = [[1] * length for length in (5, 1, 4, 1, 3, 2)]


def test_order_is_kept() -> None:
    device = Device(100)
    found = Batches(4)(device, ROWS)
    assert found.tolist() == [5, 1, 4, 1, 3, 2]
    assert found.dtype == torch.float64
    assert [len(batch) for batch in device.seen] == [4, 2]
    assert Batches()(device, ROWS).tolist() == found.tolist()
    assert device.seen[-1] == [5, 1, 4, 1, 3, 2]  # all at once


def test_rows_of_like_length_share_a_batch() -> None:
    device = Device(100)
    assert Batches(2).by_length(device, ROWS).tolist() == [5, 1, 4, 1, 3, 2]
    assert device.seen == [[1, 1], [2, 3], [4, 5]]


def test_batches_are_halved_until_they_fit_and_stay_so() -> None:
    device, batches = Device(6), Batches(6)
    assert batches.by_length(device, ROWS).tolist() == [5, 1, 4, 1, 3, 2]
    assert device.seen == [[1, 1, 2], [3], [4], [5]]
    assert batches.size == 1
    assert batches(device, [[7], [8]]).tolist() == [7, 8]
    assert device.seen[-2:] == [[1], [1]]


def test_one_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        Batches(4)(Device(3), ROWS)


def test_other_errors_pass() -> None:
    def wrong(rows: Sequence[Sequence[int]]) -> Tensor:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Batches(4)(wrong, ROWS)


def test_nothing_is_never_computed() -> None:
    def never(rows: Sequence[Sequence[int]]) -> Tensor:
        raise AssertionError

    for found in (Batches(4)(never, []), Batches(4).by_length(never, [])):
        assert found.shape == (0,)


def test_judging_keeps_float32_on_a_cpu() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    with judging("cpu"):
        product = weight @ weight
    assert product.dtype == torch.float32
    assert not product.requires_grad


@pytest.mark.gpu
def test_judging_is_bfloat16_on_a_gpu() -> None:
    weight = torch.ones(2, 2, device="cuda")
    with judging("cuda"):
        assert (weight @ weight).dtype == torch.bfloat16
    assert (weight @ weight).dtype == torch.float32
