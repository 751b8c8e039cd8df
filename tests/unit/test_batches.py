"""Batches: in order, of like length, and half as large where memory ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fktext.batches import Batches, check_memory, judging, memory, out_of_memory, usable_device
from fktext.errors import UsageError
from fktext.models import load
from fktext.settings import Settings
from fktext.smc.noise import Noise


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


# In a process of its own, which may have so much more memory than it has, from little to plenty: the least that is enough.
LIMITED = """
import json, resource, torch
from fktext.batches import Batches, memory, out_of_memory
from fktext.masked.dit import DiT
from fktext.masked.process import MaskedDiffusion
from fktext.smc.noise import Noise
from fktext.text import Text

torch.manual_seed(0)
net, sizes = DiT(50, 32, 1, 2, 8).eval(), []
encode = net.encode
net.encode = lambda ids, t: sizes.append(len(ids)) or encode(ids, t)
start = torch.randint(48, (512, 64))
start[:, :2] = net.mask_id

def masked():
    sizes.clear()
    process = MaskedDiffusion(net, start[:1], 512, 1, None, batch_size=512)
    return process.advance(process.start(start), 0, 1, Noise.of([1], 512)).ids.tolist()

def wide():
    sizes.clear()
    compute = lambda rows: sizes.append(len(rows)) or torch.ones(len(rows), 2**24)[:, 0] * torch.tensor(rows)  # 64 MiB a row
    return Batches()(compute, [3.0, 1.0, 2.0, 5.0]).tolist()

def least(run):
    expected = run()
    used = 4096 * int(open("/proc/self/statm").read().split()[0])
    errors = []
    for room in range(0, 600, 4):
        limit = used + room * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            return {"same": run() == expected, "sizes": list(sizes), "errors": errors, "memory": memory("cpu") <= limit}
        except (RuntimeError, MemoryError) as error:
            errors.append(out_of_memory(error))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)

print(json.dumps([least(wide), least(masked)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the size of a process")
def test_half_a_batch_fits_into_memory_that_is_really_short() -> None:
    halved = False
    for _ in range(4):  # what the allocator still holds of an attempt that failed may be just enough for the next
        done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        wide, masked = json.loads(done.stdout)
        for found in (wide, masked):
            assert found["same"]
            assert found["memory"]
            assert all(found["errors"])
        assert wide["errors"], "or there was room for a single row from the beginning"
        if halved := wide["sizes"][:2] == [4, 2] and masked["sizes"][:2] == [512, 256]:
            break
    assert halved


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ..."), True),
        (RuntimeError("Storage size calculation overflowed with sizes=[9223372036854775807]"), True),
        (RuntimeError("a bug"), False),
        (ValueError("DefaultCPUAllocator"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_which_errors_mean_that_memory_ended(error: BaseException, ended: bool) -> None:
    assert out_of_memory(error) is ended


def test_more_than_the_whole_memory_is_refused_before_it_is_asked_for() -> None:
    there = int(memory("cpu"))
    check_memory(there // 2, "cpu")
    with pytest.raises(torch.OutOfMemoryError, match=r"^[\d,.]+ GiB are needed at least, and there are [\d,.]+$"):
        check_memory(there + 1, "cpu")


@pytest.mark.parametrize("absurd", [{"particles": 10**20}, {"x0_samples": 10**11}, {"steps": 10**12}])
def test_absurd_numbers_are_wrong_requests(absurd: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(absurd))} must be at most"):
        Settings(**absurd)


def test_a_run_beyond_all_memory_is_a_wrong_request(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("tiny-mdlm", length=8)
    settings = model.resolve(Settings(particles=1000, steps=4))
    monkeypatch.setattr("fktext.batches.memory", lambda device: 8 * 1000 * 8 * 9)
    template = model.template("the", 8)
    message = r"memory does not hold \d+ particles of 8 tokens at once, with \d+ predictions .*: [\d,.]+ GiB are needed at least"
    with pytest.raises(UsageError, match=message):
        model.process(["the"], [template], settings, 64)


def test_hidden_states_beyond_all_memory_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("tiny-mdlm", length=8)
    process = model.process(["the"], [model.template("the", 8)], model.resolve(Settings(particles=50, steps=4)), 64)
    monkeypatch.setattr("fktext.batches.memory", lambda device: 50 * 8 * 32 * 4)
    noise = Noise.of([0], 50)
    with pytest.raises(torch.OutOfMemoryError, match="GiB are needed at least"):
        process.advance(process.init(noise), 0, 4, noise)


def test_devices() -> None:
    assert usable_device("cpu") == torch.device("cpu")
    for name, reason in (("meta", "shapes and no numbers$"), ("warp:0", "warp"), ("", "")):
        with pytest.raises(UsageError, match=rf"^device '{name}' cannot be used here: .*{reason}"):
            usable_device(name)


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
