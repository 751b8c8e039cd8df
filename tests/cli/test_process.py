"""The command line as a process: interrupts, full disks, closed pipes, and what stdout holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Start = Callable[..., "subprocess.Popen[str]"]
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")

SLOW = ("generate", "the", "--samples", 500, "-n", 2, "--batch-size", 2, "-r", "fails:seconds=0.02", "-f", "jsonl")


def arguments(tiny: Path) -> list[object]:
    return [*SLOW, "--model", tiny]


def interrupt_after_a_row(process: subprocess.Popen[str], written: Callable[[], bool]) -> tuple[str, str]:
    deadline = time.monotonic() + 300
    while not written():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=120)


def test_interrupt_keeps_what_was_written_and_resume_goes_on(start: Start, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    process = start(*arguments(tiny), "-o", path)
    out, err = interrupt_after_a_row(process, lambda: path.exists() and path.stat().st_size > 0)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    written = path.read_text()
    rows = [json.loads(line) for line in written.splitlines()]
    assert f"stopped: {len(rows)} of 500 populations were written" in err
    assert [row["sample"] for row in rows] == list(range(len(rows)))
    again = start(*arguments(tiny), "-o", path, "--resume")
    out, err = interrupt_after_a_row(again, lambda: path.stat().st_size > len(written))
    assert again.returncode == 130, err
    assert f"resuming: {len(rows)} {'population is' if len(rows) == 1 else 'populations are'} in" in err
    assert path.read_text().startswith(written)


def test_interrupt_keeps_what_was_printed(start: Start, tiny: Path, tmp_path: Path) -> None:
    with (tmp_path / "stdout").open("w") as stdout:
        process = start(*arguments(tiny), stdout=stdout)
        _, err = interrupt_after_a_row(process, lambda: os.fstat(stdout.fileno()).st_size > 0)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    for line in (tmp_path / "stdout").read_text().splitlines():
        assert json.loads(line)["prompt"] == "the"


def test_a_reader_that_leaves_is_no_traceback(start: Start, tiny: Path) -> None:
    process = start(*arguments(tiny))
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["prompt"] == "the"
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=300) == 1
    assert "Traceback" not in err
    assert "Error" not in err
    assert "error" not in err


@needs_full
def test_a_full_disk_is_one_clear_line(start: Start, tiny: Path) -> None:
    with Path("/dev/full").open("w") as full:
        printing = start(*arguments(tiny), stdout=full)
        writing = start(*arguments(tiny), "-o", "/dev/full")
        listing = start("rewards", stdout=full)
        for process, name in ((printing, "standard output"), (writing, "'/dev/full'"), (listing, None)):
            _, err = process.communicate(timeout=300)
            assert process.returncode == 1, err
            errors = [line for line in err.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, err
            assert "No space left on device" in errors[0]
            assert name is None or f"cannot write {'to ' if name[0] == 's' else ''}{name}" in errors[0]
            assert "Traceback" not in err
            assert "Exception ignored" not in err


def test_stdout_is_clean_and_utf8_in_any_locale(start: Start, tiny: Path) -> None:
    process = start("generate", "the", "he", "--model", tiny, "-n", 2, "-r", "letters", "-f", "jsonl", encoding="utf-8")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["the", "he"]
    assert "a plugin may print" in err
    assert "a reward may print" in err


@pytest.mark.parametrize("module", ["typer", "fktext_cli.streams", "fktext_cli.rewards"])
def test_an_interrupt_while_it_starts_is_no_traceback(module: str) -> None:
    program = f"""
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from fktext_cli import main
main()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", program, "rewards"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_closed_streams_are_nobody_to_tell(start: Start, tiny: Path, tmp_path: Path) -> None:
    command = ("generate", "the", "--model", tiny, "-n", 2, "-r", "letters")

    def close() -> None:
        os.close(1)
        os.close(2)

    to_file = start(*command, "-o", tmp_path / "out.txt", stdout=None, stderr=None, preexec_fn=close)
    assert to_file.wait(timeout=300) == 0
    assert (tmp_path / "out.txt").read_text().startswith("the ")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar_and_stdout_does_not(start: Start, tiny: Path) -> None:
    import pty

    main, side = pty.openpty()
    process = start("generate", "the", "--model", tiny, "-n", 2, "-r", "letters", "--samples", 5, "--batch-size", 2, stderr=side)
    os.close(side)
    shown = _all_of(main)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    stages = ["loading torch", "loading rewards", f"loading {tiny.name}", "generating", "generating: best reward ", ", ESS "]
    places = [shown.find(stage) for stage in stages]
    assert -1 not in places
    assert places == sorted(places)
    assert len(out.splitlines()) == 5
    assert "\x1b" not in out


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_unsteered_texts_beside_steered_ones_and_a_verdict(start: Start, tiny: Path, monkeypatch) -> None:
    import pty

    asked = ("the", "--model", tiny, "-r", "letters", "--samples", 2, "--seed", 4)
    main, side = pty.openpty()
    monkeypatch.setenv("NO_COLOR", "1")
    process = start("generate", *asked, "-n", 8, stdout=side)
    os.close(side)
    shown = _all_of(main)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0

    def texts(*more: object) -> list[str]:
        return start("generate", *asked, *more).communicate(timeout=300)[0].splitlines()

    lines = [line.split(maxsplit=2) for line in shown.splitlines() if line.strip()]
    assert [line[0] for line in lines] == ["unsteered", "steered"] * 2
    assert [line[2] for line in lines[1::2]] == texts("-n", 8)
    assert [line[2] for line in lines[::2]] == texts("--method", "base")
    rewards = [float(line[1]) for line in lines]
    better = sum(after > before for before, after in zip(rewards[::2], rewards[1::2], strict=True))
    assert f"{better} of 2 steered texts are worth more; reward" in errors
    assert "denoiser rows" not in errors


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_the_cost_is_told_on_request(start: Start, tiny: Path) -> None:
    import pty

    for more, told in (((), False), (("-v",), True)):
        main, side = pty.openpty()
        process = start("generate", "the", "--model", tiny, "--method", "base", *more, stdout=side)
        os.close(side)
        assert _all_of(main).startswith("the")
        assert ("denoiser rows" in process.communicate(timeout=300)[1]) == told


def _all_of(main: int) -> str:
    """Read what a pseudo-terminal shows until nobody writes to it any more."""
    shown = b""
    while True:
        try:
            piece = os.read(main, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    return shown.decode()
