"""How many threads a command takes, who decides it, and that it changes no text."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from fktext import threads

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def nobody_has_decided(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("most", "cores", "busy", "expected"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.2, 2),  # a quiet machine is never quite idle
        (2, 2, 0.5, 1),  # a thread on half a core holds up the others half of the time
        (2, 2, 2.0, 1),
        (2, 2, 7.0, 1),  # a load average may be more than there are cores
        (8, 16, 6.0, 8),  # torch's own: two threads of a core share its arithmetic
        (8, 16, 12.0, 4),
        (1, 1, 0.0, 1),
    ],
)
def test_a_thread_for_each_free_core(most: int, cores: int, busy: float, expected: int) -> None:
    assert threads.choose(most, cores, busy).threads == expected


def test_what_cannot_be_told_is_left_alone() -> None:
    assert threads.choose(8, 8, None).threads is None


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOCAL_WORLD_SIZE"])
def test_what_the_user_or_torchrun_set_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    monkeypatch.setenv(name, "2")
    assert threads.settle().threads is None
    assert torch.get_num_threads() == 2


def test_only_the_cores_of_this_process_count() -> None:
    stat = "cpu  500 0 0 500 0 0 0 0\ncpu0 0 0 0 500 0 0 0 0\ncpu1 500 0 0 0 0 0 0 0\nctxt 7\n"
    assert threads.busy_seconds(stat, [0]) == 0
    assert threads.busy_seconds(stat, [0, 1]) == 500 / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc here")
def test_others_are_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            time.sleep(0.2)
            before = threads.read()
            assert before is not None
            time.sleep(0.5)
            found = threads._busy_since(before)
        finally:
            other.kill()
    assert found is not None
    assert found > 0.3


def test_what_this_process_does_itself_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "read", lambda: threads.Reading(clock=12.0, busy=107.0, own=4.0))
    assert threads._busy_since(threads.Reading(clock=10.0, busy=104.0, own=3.0)) == 1.0


def test_the_command_line_settles_it_and_says_why(call: Call, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("generate", "the", "--model", tiny, "--method", "base", "-v")
    monkeypatch.setattr(threads, "_busy_since", lambda before: 99.0)
    torch.set_num_threads(2)
    beside = call(*command)
    assert "threads: 1 (others keep 99.0 of" in beside.stderr, beside.stderr
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    assert "threads: 1 (--threads)" in call(*command, "--threads", 1).stderr
    assert "threads" not in call(*command[:-1]).stderr
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "(OMP_NUM_THREADS is 1)" in call(*command).stderr


@pytest.mark.parametrize("command", ["generate", "score", "image generate", "bench", "eval run"])
def test_every_command_that_runs_models_has_the_option(call: Call, command: str) -> None:
    text = call(*command.split(), "--help").stdout
    assert "--threads " in text
    assert "--verbose" in text


def test_more_threads_than_cores_is_refused(call: Call, tiny: Path) -> None:
    wrong = call("generate", "the", "--model", tiny, "--method", "base", "--threads", 100_000)
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("error: --threads 100000 is out of range: this machine has ")
    assert wrong.stderr.count("\n") == 1


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_texts_do_not_depend_on_the_number(call: Call, tiny: Path) -> None:
    command = ("generate", "the", "he", "--model", tiny, "-r", "letters", "-n", 8, "--samples", 4, "--return", "all")
    one, two = (call(*command, "--threads", number, "-v") for number in (1, 2))
    assert one.exit_code == 0, one.stderr
    assert "threads: 2" in two.stderr
    assert one.stdout == two.stdout
