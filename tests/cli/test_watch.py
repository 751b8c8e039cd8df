"""The event log that `--trace` writes, `--watch` in a real terminal, and `fktext watch`, which shows and draws a log."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import Result

sys.path.insert(0, str(Path(__file__).parent))
from terminal import Terminal

import fktext
from fktext.population import Population
from fktext.trace import End, Run, Start, Weighing, read
from fktext_cli import tracing
from fktext_cli.live import Scene

Call = Callable[..., Result]
COLOUR = rb"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38;)[0-9;]*m"


@pytest.fixture(scope="module")
def log(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of two prompts with two populations each, written as the command line does."""
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    tracer = tracing.Trace(path, run_of(tiny), "best", 4)
    keep(tiny, [tracer])
    return path


def run_of(tiny: Path) -> dict[str, object]:
    settings = {
        "rewards": ["letters"],
        "method": "fk",
        "particles": 6,
        "samples": 2,
        "lam": 2.0,
        "potential": "max",
        "resampler": "ssp",
    }
    return {"seed": 3, "model": {"name": str(tiny), "digest": "0"}, "settings": settings}


def keep(tiny: Path, tracers: list[tracing.Trace]) -> None:
    """Run once, and let all see it."""

    def letters(texts):  # type: ignore[no-untyped-def]
        return [float(str(text).count("e")) for text in texts]

    asked = {"particles": 6, "samples": 2, "seed": 3, "lam": 2.0, "resample_every": 1, "look_ahead": "predictions"}
    for item in fktext.stream(str(tiny), letters, ["the book", "she"], watch=True, **asked):  # type: ignore[arg-type]
        for tracer in tracers:
            tracer.add(item) if isinstance(item, Population) else tracer.see(item.events)
    for tracer in tracers:
        tracer.write()


def test_the_log_of_a_command(call: Call, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    command = ("generate", "the book", "she", "--model", tiny, "-r", "letters", "-n", 4, "--samples", 2, "--resample-every", 2)
    plain, result = call(*command), call(*command, "--trace", path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == plain.stdout, "watching changes nothing"
    run, *events = read(path)
    assert isinstance(run, Run)
    assert (run.populations, run.run["settings"]["particles"], run.run["seed"]) == (4, 4, 0)
    ends = {event.population: event for event in events if isinstance(event, End)}
    assert [ends[who].particles[chosen].text for who in sorted(ends) if (chosen := ends[who].chosen) is not None] == (
        plain.stdout.splitlines()
    )
    assert sum(isinstance(event, Start) for event in events) == 4
    assert [event.k for event in events if isinstance(event, Weighing) and event.population == (1, 1)] == [2, 4, 6]


def test_a_log_alone_makes_the_page_byte_for_byte(call: Call, tiny: Path, tmp_path: Path) -> None:
    page, data, path, again = (tmp_path / name for name in ("run.html", "run.json", "run.jsonl", "again.html"))
    keep(tiny, [tracing.Trace(each, run_of(tiny), "best", 4) for each in (page, data, path)])
    result = call("watch", path, "--html", again)
    assert (result.exit_code, result.stdout) == (0, "")
    assert again.read_bytes() == page.read_bytes()
    assert page.read_text().count('<figure class="lineage">') == 4
    refused = call("watch", path, "--html", again)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--overwrite replaces it" in refused.stderr


def test_a_log_that_was_cut_off_is_drawn_as_far_as_populations_ended(call: Call, log: Path, tmp_path: Path) -> None:
    lines = log.read_text().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if '"end"' in line[:20])
    part, page = tmp_path / "part.jsonl", tmp_path / "part.html"
    part.write_text("".join(lines[: first + 1]) + lines[first + 1][:30])
    assert call("watch", part, "--html", page).exit_code == 0
    assert page.read_text().count('<figure class="lineage">') == 1
    part.write_text("".join(lines[:first]))
    result = call("watch", part, "--html", page, "--overwrite")
    assert result.exit_code == 2
    assert "no population" in result.stderr


def test_it_can_be_read_while_it_is_written(start: Callable[..., subprocess.Popen[str]], tiny: Path, tmp_path: Path) -> None:
    """Slow rewards: the first weighings are in the file while the program still runs, and `--follow` shows the rest."""
    path = tmp_path / "run.jsonl"
    slow = start("generate", "she", "--model", tiny, "-r", "fails:seconds=0.5", "-n", 2, "--resample-every", 1, "--trace", path)
    deadline = time.monotonic() + 100
    found = []
    while time.monotonic() < deadline and not any(isinstance(event, Weighing) for event in found):
        time.sleep(0.05)
        found = list(read(path)) if path.exists() and "\n" in path.read_text() else []
    assert slow.poll() is None, "the run has ended before anything could be read"
    assert not any(isinstance(event, End) for event in found)
    following = start("watch", path, "--follow", "--speed", 100)
    assert following.communicate(timeout=100)[0] == slow.communicate(timeout=100)[0] != ""


@pytest.mark.parametrize("columns", [80, 160])
def test_a_log_in_a_terminal(log: Path, columns: int, tmp_path: Path) -> None:
    seen: list[list[str]] = []
    out = tmp_path / "out.txt"
    terminal = Terminal("watch", log, "--speed", 20, columns=columns, stdout=out)
    assert terminal.run(seen.append) == 0, terminal.shown
    events = list(read(log))
    heads = [shown[0] for shown in seen if "ESS" in shown[0]]
    assert any(head.startswith("prompt 1, sample 1  step 1/6  ESS ") for head in heads), heads
    assert all(len(line) <= columns for shown in seen for line in shown)
    flat = ["\n".join(shown) for shown in seen]
    assert any("░" in text for text in flat), "masks are seen"
    resampled = any(event.resampled for event in events if isinstance(event, Weighing) and event.population == (0, 0))
    assert resampled
    assert any("✕" in text and re.search(r" x[2-6] ", text) for text in flat), "who dies and who is copied"
    assert any(re.search(r"←\d", text) for text in flat), "whence copies came"
    first = next(event for event in events if isinstance(event, End))
    rows = [line for shown in seen for line in shown if re.match(r".? *\d+ [█▏▎▍▌▋▊▉ ]{6} ", line)]
    assert {int(line[1:3]) for line in rows} == set(range(6))
    assert any(first.particles[0].text in row for row in rows), "in the end words stand there"
    assert re.search(COLOUR, terminal.raw)
    ends = [event for event in events if isinstance(event, End)]
    assert out.read_text().splitlines() == [each.particles[each.chosen].text for each in ends if each.chosen is not None]


def test_without_colour(log: Path) -> None:
    terminal = Terminal("watch", log, "--speed", 100, columns=80, environment={"NO_COLOR": "1"})
    assert terminal.run() == 0
    assert b"ESS" in terminal.raw
    assert not re.search(COLOUR, terminal.raw)


def test_generate_in_a_terminal(tiny: Path, tmp_path: Path) -> None:
    """`--watch` shows a line per particle on stderr; stdout has the texts alone."""
    seen: list[list[str]] = []
    out = tmp_path / "out.txt"
    command = ("generate", "the book", "--model", tiny, "-r", "length:words=9,penalty=1", "-n", 5, "--resample-every", 1)
    terminal = Terminal(*command, "--watch", columns=80, stdout=out)
    assert terminal.run(seen.append) == 0, terminal.shown
    rows = [line for line in terminal.shown if re.match(r".? *\d+ [█▏▎▍▌▋▊▉ ]{6} ", line)]
    assert len(rows) == 5, terminal.shown
    assert any(row.endswith(out.read_text().rstrip("\n")) for row in rows), (rows, out.read_text())
    assert len(out.read_text().splitlines()) == 1
    assert any("step " in line and "ESS" in line for shown in seen for line in shown)


def test_where_there_is_no_terminal_it_says_what_it_says_without(call: Call, tiny: Path) -> None:
    command = ("generate", "the book", "--model", tiny, "-r", "letters", "-n", 3)
    plain, watched = call(*command), call(*command, "--watch")
    assert (watched.exit_code, watched.stdout) == (0, plain.stdout)
    assert re.sub(r"[\d.]+ s", "", watched.stderr) == re.sub(r"[\d.]+ s", "", plain.stderr)


def test_a_log_without_a_terminal_prints_the_texts(call: Call, log: Path) -> None:
    result = call("watch", log)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 4
    assert result.stderr == ""


def test_where_nobody_knows_the_tokens_guesses_are_shown(log: Path) -> None:
    """As of particles that are spread over several processes."""
    scene = Scene()
    for event in read(log):
        if isinstance(event, Weighing):
            scene.add(replace(event, revealed=()))
        elif isinstance(event, Start):
            scene.add(event)
    end = next(event for event in read(log) if isinstance(event, End))
    head, *lines = scene.frame(100, 24).plain.splitlines()
    assert "step 6/6" in head
    assert all(line.endswith(particle.text) for line, particle in zip(lines, end.particles, strict=True))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nowhere.jsonl", None, "cannot read the log"),
        ("rows.jsonl", '{"prompt": "she"}\n', "rows.jsonl:1 is no line of an event log"),
    ],
)
def test_what_is_no_log_is_an_error(call: Call, tmp_path: Path, name: str, text: str | None, message: str) -> None:
    path = tmp_path / name
    if text:
        path.write_text(text)
    for more in ((), ("--follow",), ("--html", tmp_path / "page.html")):
        result = call("watch", path, *more)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
