"""Runs: what is written, and that interruptions, shards and failures lose and repeat nothing."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import pytest

from fktext.errors import RewardError, UsageError
from fktext_evals import Judge, Results, Suite, load, markdown, read, run
from fktext_evals.running.results import RunError
from fktext_evals.suites.catalogue import source
from fktext_evals.suites.suite import parse

START = """
import sys, fktext_evals
fktext_evals.run(sys.argv[1], out=sys.argv[2], shard=tuple(map(int, sys.argv[3].split("/"))))
"""


def timeless(results: Results) -> list[dict[str, Any]]:
    """The rows without what differs between two runs of the same thing: time, and shares of what a batch cost.

    A run that goes on in the middle of a batch has other texts in it: which rows of the network and which texts are equal to one
    another there, and computed once, is another thing then.
    """
    shares = ("seconds", "denoiser_rows", "reward_calls")
    return [{name: value for name, value in row.items() if name not in shares} for row in results.rows]


def exact(results: Results) -> list[dict[str, Any]]:
    """The rows without their seconds."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in results.rows]


def start(suite_file: Path, out: Path, shard: str = "1/1") -> subprocess.Popen[str]:
    """Run a suite in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", START, str(suite_file), str(out), shard]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def small(suite_file: Path, **changes: Any) -> Suite:
    """The suite with one seed and two methods, and changes."""
    suite = load(str(suite_file))
    return replace(suite, **{"seeds": (0,), "methods": suite.methods[1:3], **changes})


def test_rows(whole: Results) -> None:
    assert (len(whole.rows), whole.missing) == (48, 0)
    row = whole.rows[-1]
    assert (row["method"], row["particles"], row["prompt"], row["seed"], row["sample"]) == ("fk", 3, "she", 7, 1)
    assert row["text"] == "she" + row["continuation"]
    assert list(row["judges"]) == ["steering", "held-out"]
    assert row["reward"] == row["judges"]["steering"] < 0
    assert len(row["ess"]) == 3
    assert all(1 <= ess <= 3 for ess in row["ess"])
    assert 1 <= row["unique_roots"] <= 3
    assert 0 <= row["resampled"] <= 2
    assert row["seconds"] > 0
    for row in whole.rows:
        kind, asked = row["method"], row["reward_requests"]
        guesses = 4 + 4 + 1  # four at each of two weighings, and the text itself
        assert asked == {"base": 0, "best-of-n": 2, "fk": row["particles"] * guesses}[kind]
        assert row["reward_calls"] <= asked
        assert len(row["ess"]) == (3 if kind == "fk" else 1)


def test_texts_are_those_of_generate(whole: Results, tiny: Path) -> None:
    from fktext.models import load as load_model
    from fktext.plugins import load_plugins
    from fktext.settings import Settings
    from fktext.texts.generate import Population, generate

    settings = Settings(particles=3, samples=2, seed=7, length=8, steps=6, resample_every=2, potential="max")
    items = generate(load_model(str(tiny)), [load_plugins().create("letters")], ["the city"], settings)
    texts = [item.texts[item.best()] for item in items if isinstance(item, Population)]
    rows = [row for row in whole.of(("fk", 3)) if (row["prompt"], row["seed"]) == ("the city", 7)]
    assert [row["text"] for row in rows] == texts


def test_provenance(whole: Results, tiny: Path) -> None:
    assert whole.run["model"]["name"] == str(tiny)
    assert len(whole.run["model"]["digest"]) == 16
    told = {"plugin": "fk-judges 1.0", "digest": "0123"}
    assert whole.run["rewards"] == {"letters": told, "letters:letter=a": told}
    assert whole.run["fktext"]
    assert whole.run["suite"]["methods"][0]["steps"] == 6
    session = json.loads((whole.folder / "sessions.jsonl").read_text())
    assert session["shard"] == "1/1"
    assert "torch" in session["versions"]


def test_killed_at_random_times_and_started_again_it_gives_the_same(whole: Results, suite_file: Path, tmp_path: Path) -> None:
    suite_file.write_text((whole.folder.parent / "words.toml").read_text())
    out = tmp_path / "run"
    rows, size = out / "rows-1-of-1.jsonl", (whole.folder / "rows-1-of-1.jsonl").stat().st_size
    seed = random.randrange(2**32)  # shown where the test fails
    chance = random.Random(seed)
    moments = [chance.uniform(0, 0.3) * size, chance.uniform(0.3, 0.6) * size]
    before = b""
    for moment in moments:
        process = start(suite_file, out)
        deadline = time.monotonic() + 120
        while not rows.exists() or rows.stat().st_size <= max(moment, len(before)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = before[: before.rindex(b"\n") + 1] if before else b""
        before = rows.read_bytes()
        assert before.startswith(kept), seed
    assert 0 < before.count(b"\n") < 48
    results = run(str(suite_file), out=out)
    assert timeless(results) == timeless(whole), seed
    assert rows.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    assert len((out / "sessions.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("cut", [1, 400, -1])
def test_a_torn_last_line_is_made_again(whole: Results, suite_file: Path, tmp_path: Path, cut: int) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text((whole.folder / "run.json").read_text())
    lines = (whole.folder / "rows-1-of-1.jsonl").read_text().splitlines(keepends=True)
    (out / "rows-1-of-1.jsonl").write_text("".join(lines[:9]) + lines[9][:cut])
    torn = read(out)
    assert len(torn.rows) == 9
    assert torn.notes == (f"warning: the last line of {out / 'rows-1-of-1.jsonl'} is cut off; its text is left out",)
    again = run(str(suite_file), out=out)
    assert timeless(again) == timeless(whole)
    assert again.notes == (f"warning: the last line of {out / 'rows-1-of-1.jsonl'} was cut off; its text is made again",)


def test_shards_together_are_the_whole(whole: Results, suite_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    first = run(str(suite_file), out=tmp_path / "run", shard=(1, 2))
    assert first.missing == 24
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    merged = run(str(suite_file), out=tmp_path / "run")
    assert sorted(path.name for path in merged.folder.glob("rows*")) == ["rows-1-of-2.jsonl", "rows-2-of-2.jsonl"]
    assert exact(merged) == exact(whole)
    monkeypatch.undo()


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_machines=1", "--num_processes=2", "--mixed_precision=no"],
}


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("accelerate", marks=pytest.mark.long)])
def test_launched_as_two_processes_the_table_is_that_of_one(
    whole: Results, suite_file: Path, tmp_path: Path, launcher: str
) -> None:
    """Two processes of one launch divide the work by RANK and WORLD_SIZE; they need no process group, and make none."""
    out = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    if launcher == "accelerate":
        pytest.importorskip("accelerate", reason="a launcher that users may have; it is no dependency")
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "fktext_cli", "eval", "run", str(suite_file), "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    sessions = [json.loads(line) for line in (out / "sessions.jsonl").read_text().splitlines()]
    assert sorted(session["shard"] for session in sessions) == ["1/2", "2/2"]
    assert {path.name: len(path.read_text().splitlines()) for path in out.glob("rows*")} == {
        "rows-1-of-2.jsonl": 24,
        "rows-2-of-2.jsonl": 24,
    }
    merged = read(out)
    assert exact(merged) == exact(whole)
    tables = [
        [line.rpartition("|")[0].rpartition("|")[0] for line in markdown(found).splitlines() if " seconds |" not in line]
        for found in (whole, merged)
    ]
    assert tables[0] == tables[1]
    assert done.stdout.count("# words: a test") >= 1  # by the process that finds all texts there


def test_processes_of_a_launch_divide_their_shard(whole: Results, suite_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Two nodes of an array with two processes each."""
    for node in (1, 2):
        for rank in (0, 1):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", "2")
            found = run(str(suite_file), out=tmp_path / "run", shard=(node, 2))
    assert sorted(path.name for path in found.folder.glob("rows*")) == [f"rows-{part}-of-4.jsonl" for part in (1, 2, 3, 4)]
    assert exact(found) == exact(whole)


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("x", "2")])
def test_a_bad_launch(suite_file: Path, tmp_path: Path, monkeypatch: Any, rank: str, world: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(UsageError, match="RANK"):
        run(str(suite_file), out=tmp_path / "run")


def test_a_loaded_model_and_the_default_folder(
    whole: Results, suite_file: Path, tiny: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from fktext.models import load as load_model

    monkeypatch.chdir(tmp_path)
    found = run(small(suite_file, model="another"), load_model(str(tiny)))
    assert found.folder == Path("runs/words")
    assert found.run["model"] == whole.run["model"]
    assert [row["text"] for row in found.rows] == [row["text"] for row in small_rows(whole)]


def small_rows(whole: Results) -> list[dict[str, Any]]:
    """Those that `small` asks for."""
    return [row for row in whole.rows if row["seed"] == 0 and (row["method"], row["particles"]) in {("best-of-n", 2), ("fk", 2)}]


def test_to_pandas(whole: Results) -> None:
    table = whole.to_pandas()
    assert len(table) == 48
    assert table["judge:held-out"].tolist() == [row["judges"]["held-out"] for row in whole.rows]
    means = table.groupby(["method", "particles"])["reward"].mean()
    rows = whole.of(("fk", 3))
    assert means["fk", 3] == pytest.approx(sum(row["reward"] for row in rows) / len(rows))
    broken = replace(whole, rows=[{**whole.rows[0], "reward": None, "judges": {"steering": None, "held-out": -1.0}}])
    assert broken.to_pandas()[["reward", "judge:steering"]].values.tolist() == [[-math.inf, -math.inf]]


def test_shards_in_another_number_go_on(whole: Results, suite_file: Path, tmp_path: Path) -> None:
    run(str(suite_file), out=tmp_path / "run", shard=(2, 3))
    assert exact(run(str(suite_file), out=tmp_path / "run", shard=(1, 1))) == exact(whole)


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0)])
def test_a_shard_out_of_range(suite_file: Path, tmp_path: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="out of range"):
        run(str(suite_file), out=tmp_path / "run", shard=shard)


def test_batches_do_not_change_texts(whole: Results, suite_file: Path, tmp_path: Path) -> None:
    suite = load(str(suite_file))
    found = run(replace(suite, methods=suite.methods[2:3]), out=tmp_path / "run", batch_size=2)
    assert [row["text"] for row in found.rows] == [row["text"] for row in whole.of(("fk", 2))]


def test_another_suite_or_model_is_refused(suite_file: Path, tmp_path: Path) -> None:
    suite = small(suite_file)
    run(suite, out=tmp_path / "run")
    for change, message in (
        ({"samples": 3}, r"holds another run: its suite.samples is 2, asked for is 3"),
        ({"seeds": (1,)}, r"its suite.seeds\[1\] is 0, asked for is 1"),
        ({"prompts": ("he", "she")}, r"its suite.prompts is \["),
        (
            {"methods": (suite.methods[0], replace(suite.methods[1], returns="draw"))},
            r'its suite.methods\[2\].return is "best", asked for is "draw"',
        ),
    ):
        with pytest.raises(UsageError, match=message):
            run(replace(suite, **change), out=tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        run(suite, out=tmp_path / "run")


def test_shards_that_overlap_at_the_same_time_leave_a_run_as_any_other(whole: Results, suite_file: Path, tmp_path: Path) -> None:
    """Two processes, one with all the work and one with half of it, neither of which sees the other's rows when it starts."""
    (tmp_path / "meet").mkdir()
    suite_file.write_text(suite_file.read_text().replace('rewards = ["letters"]', f'rewards = ["letters:meet={tmp_path}/meet"]'))
    out = tmp_path / "run"
    processes = [start(suite_file, out, shard) for shard in ("1/1", "1/2")]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    lines = {path.name: path.read_text().count("\n") for path in out.glob("rows*")}
    assert lines == {"rows-1-of-1.jsonl": 48, "rows-1-of-2.jsonl": 24}
    found = read(out)
    assert [row["text"] for row in found.rows] == [row["text"] for row in whole.rows]
    assert timeless(run(str(suite_file), out=out)) == timeless(found)  # goes on, and finds all there


def test_a_text_that_is_there_twice(suite_file: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from fktext_cli import app

    whole = run(small(suite_file), out=tmp_path / "run")
    out = whole.folder
    row = json.loads((out / "rows-1-of-1.jsonl").read_text().splitlines()[0])
    judged = {name: value * (1 + 1e-6) for name, value in row["judges"].items()}
    again = {**row, "judges": judged, "seconds": 99.0, "denoiser_rows": 5.5, "reward_calls": 0}  # by another batch size, say
    (out / "rows-1-of-2.jsonl").write_text(json.dumps(again) + "\n")
    note = f"note: 1 text in {out} is there twice, from shards that overlapped; it counts once"
    twice = read(out)
    assert (twice.rows, twice.notes, run(small(suite_file), out=out).notes) == (whole.rows, (note,), (note,))
    assert CliRunner().invoke(app, ["eval", "report", str(out), "-f", "csv"]).stderr == f"{note}\n"
    compare = ["eval", "compare", str(out), "--method", "fk:2", "--against", "best-of-n:2"]
    assert CliRunner().invoke(app, compare).stderr == f"{note}\n"
    for change, message in (
        ({"text": "she is"}, "but its 'text' is"),
        ({"judges": {**row["judges"], "held-out": -9.5}}, "but 'held-out' is -"),
    ):
        (out / "rows-1-of-2.jsonl").write_text(json.dumps({**row, **change}) + "\n")
        with pytest.raises(RunError, match=rf"rows-1-of-1.jsonl:1 and \S+rows-1-of-2.jsonl:1 hold the same text .*{message}"):
            read(out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judges": ...}, "it has no 'judges'"),
        ({"judges": {"steering": -1.0}}, "its 'judges' have no number of 'held-out'"),
        ({"judges": {"steering": -1.0, "held-out": "low"}}, "its 'judges' have no number of 'held-out'"),
        ({"seconds": ...}, "it has no 'seconds'"),
        ({"text": 3}, "its 'text' is 3"),
        ({"ess": []}, "the lengths of its lists differ"),
    ],
)
def test_a_row_that_lacks_something_is_one_line(whole: Results, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    from typer.testing import CliRunner

    from fktext_cli import app

    row = {name: value for name, value in {**whole.rows[0], **changes}.items() if value is not ...}
    (tmp_path / "run.json").write_text((whole.folder / "run.json").read_text())
    (tmp_path / "rows-1-of-1.jsonl").write_text(json.dumps(whole.rows[1]) + "\n" + json.dumps(row) + "\n")
    done = CliRunner().invoke(app, ["eval", "report", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path / 'rows-1-of-1.jsonl'}:2 is not a row of a run: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("line", "message"), [("{}\n", "is not a row of a run"), ("{\n", "is damaged")])
def test_damaged_rows(suite_file: Path, tmp_path: Path, line: str, message: str) -> None:
    out = run(small(suite_file), out=tmp_path / "run").folder
    with (out / "rows-1-of-1.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(RunError, match=f"rows-1-of-1.jsonl:13 {message}"):
        read(out)


def test_one_writer_at_a_time(suite_file: Path, tmp_path: Path) -> None:
    from fktext_evals.running.results import RowFile

    suite = small(suite_file)
    out = run(suite, out=tmp_path / "run").folder
    with RowFile(out / "rows-1-of-1.jsonl"), pytest.raises(RunError, match="another process is writing"):
        run(suite, out=out)


def test_no_run_here(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("after=2", "reward 'letters:letter=a,after=2' failed, judging .*, prompts 'the book' to 'she', seed 7: OSError: the j"),
        ("after=2,value=0.5", r"judge 'held-out' \(letters:\S+\) returned 0.5, judging .*, prompt 'the book', .*at most 0"),
        ("after=2,value=inf", "returned inf .*must be finite"),
    ],
)
def test_a_broken_judge_keeps_what_is_there(suite_file: Path, tmp_path: Path, options: str, message: str) -> None:
    judges = load(str(suite_file)).judges
    suite = small(suite_file, seeds=(0, 7), judges=(judges[0], replace(judges[1], reward=f"letters:letter=a,{options}")))
    with pytest.raises(RewardError, match=message):
        run(suite, out=tmp_path / "run")
    kept = read(str(tmp_path / "run")).rows  # as a string, as an address is
    assert 0 < len(kept) < 24
    assert len(kept) % (3 * suite.samples) == 0  # whole batches


def test_rows_are_written_batch_by_batch(suite_file: Path, tmp_path: Path) -> None:
    """A batch of two particles is one text of two: the first is there when the judge fails at the second."""
    suite = small(suite_file)
    suite = replace(suite, methods=suite.methods[:1])
    whole = run(suite, out=tmp_path / "whole", batch_size=2)
    breaking = replace(suite.judges[1], reward="letters:letter=a,after=2")
    with pytest.raises(RewardError, match="the judge is gone"):
        run(replace(suite, judges=(suite.judges[0], breaking)), out=tmp_path / "run", batch_size=2)
    assert len(read(tmp_path / "run").rows) == 1
    (tmp_path / "run" / "run.json").write_bytes((whole.folder / "run.json").read_bytes())
    assert timeless(run(suite, out=tmp_path / "run", batch_size=2)) == timeless(whole)


@pytest.fixture
def calls(monkeypatch: Any) -> list[list[int]]:
    """Of each call of `generate` from now on, how many whole lines the run in `run` had after each of its populations."""
    from fktext.texts import generate as module

    generate, found = module.generate, []

    def counted(*given: Any, **options: Any) -> Iterator[Any]:
        found.append([])
        for item in generate(*given, **options):
            yield item
            if not isinstance(item, module.Progress):
                found[-1].append(Path("run/rows-1-of-1.jsonl").read_bytes().count(b"\n"))

    monkeypatch.setattr(module, "generate", counted)
    return found


def test_a_batch_is_a_call_and_batches_are_full(tiny: Path, tmp_path: Path, monkeypatch: Any, calls: list[list[int]]) -> None:
    """The toxicity experiment, small: batches are full, and a run that goes on makes what is missing only."""
    monkeypatch.chdir(tmp_path)
    table = tomllib.loads(source("paper-toxicity"))
    table |= {"model": str(tiny), "prompts": ["the book", "the city", "she"], "samples": 2, "rewards": ["letters"]}
    table["settings"] |= {"length": 8, "steps": 4, "resample_every": 2}
    table["judges"] = [{"name": "steering", "reward": "letters", "label": "e-ful"}]
    suite = parse(table, "paper")
    whole = run(suite, out="run")
    assert (len(whole.rows), whole.missing) == (3 * 7 * 3 * 2, 0)
    populations = [len(call) for call in calls]
    sizes = [method.settings.particles for method in suite.methods]  # 64 particles at once, of 3 x 2 populations
    assert populations == 3 * [number for size in sizes for number in ([6] if 6 * size <= 64 else [4, 2])]  # seeds x methods
    assert [call[-1] for call in calls] == list(accumulate(populations))
    lines = Path("run/rows-1-of-1.jsonl").read_text().splitlines(keepends=True)
    Path("run/rows-1-of-1.jsonl").write_text("".join(lines[:-8] + lines[-7:-3]))  # one of one call, three of another
    calls.clear()
    assert timeless(run(suite, out="run")) == timeless(whole)
    assert [len(call) for call in calls] == [1, 3]
    with_lineage = [row for row in whole.rows if row["lineage"]]
    assert [(row["seed"], row["sample"]) for row in with_lineage] == [(1234, 0)] * (7 * 3)
    assert all(len(step) == row["particles"] for row in with_lineage for step in row["lineage"]["texts"])


def test_a_reward_that_steered_is_not_computed_again(whole: Results, suite_file: Path, tmp_path: Path) -> None:
    """This one breaks when it is called twice; the texts of a batch are weighed in one call."""
    suite = small(suite_file, rewards=("letters:after=2",))
    found = run(replace(suite, methods=suite.methods[:1]), out=tmp_path / "run")
    assert [row["reward"] for row in found.rows] == [row["reward"] for row in small_rows(whole) if row["method"] == "best-of-n"]
    assert all(row["reward"] == row["judges"]["steering"] for row in whole.rows)


def test_rows_are_there_before_the_next_batch_begins(
    suite_file: Path, tmp_path: Path, monkeypatch: Any, calls: list[list[int]]
) -> None:
    """Also where a batch has one weighing only, at its end; two texts are a batch here."""
    monkeypatch.chdir(tmp_path)
    suite = load(str(suite_file))
    run(replace(suite, methods=suite.methods[:1], seeds=(0,)), out="run", batch_size=2)
    assert calls == [[0, 2], [2, 4], [4, 6]]


def test_interrupted_it_says_how_to_go_on(suite_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from typer.testing import CliRunner

    from fktext_cli import app
    from fktext_evals.running import runner

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_steps", stop)
    done = CliRunner().invoke(app, ["eval", "run", str(suite_file), "--out", str(tmp_path / "run")])
    assert (done.exit_code, done.stdout) == (130, "")
    assert "the same command resumes it" in done.stderr


def test_a_disk_that_fills_up_keeps_whole_lines(suite_file: Path, tmp_path: Path) -> None:
    suite = small(suite_file)
    whole = run(suite, out=tmp_path / "whole")
    size = (whole.folder / "rows-1-of-1.jsonl").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(RunError, match=r"cannot write '\S+rows-1-of-1.jsonl'.*what is in it stays"):
            run(suite, out=tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "run" / "rows-1-of-1.jsonl").read_bytes().endswith(b"}\n")
    assert 0 < len(read(tmp_path / "run").rows) < len(whole.rows)
    assert timeless(run(suite, out=tmp_path / "run")) == timeless(whole)


def test_a_session_that_cannot_be_noted_leaves_no_half_line(tmp_path: Path) -> None:
    from fktext_evals.running.results import append_session

    append_session(tmp_path, {"started": "now"})
    before = (tmp_path / "sessions.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
    try:
        with pytest.raises(RunError, match=r"cannot write '\S+sessions.jsonl'"):
            append_session(tmp_path, {"started": "later"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "sessions.jsonl").read_bytes() == before


def test_a_folder_that_cannot_be_made(suite_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write the run to"):
        run(small(suite_file), out=tmp_path / "file" / "run")


def test_a_prompt_that_does_not_fit_is_found_before_anything_runs(suite_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leaves no room"):
        run(small(suite_file, prompts=("she", "a " * 8)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_judges_see_as_many_tokens_as_the_suite_says(suite_file: Path, tmp_path: Path) -> None:
    found = run(small(suite_file, judge_tokens=2), out=tmp_path / "run")
    for row in found.rows:
        assert len(row["continuation"].split()) <= 2
        assert row["text"].startswith(row["prompt"] + row["continuation"])
    assert any(len(row["text"].split()) > 4 for row in found.rows)


@pytest.mark.parametrize("tokens", [None, 4])
def test_judges_of_the_continuation_where_the_model_spells_the_prompt_its_own_way(
    suite_file: Path, tmp_path: Path, tokens: int | None
) -> None:
    judge = Judge("short", "length:words=3,part=continuation", "words", kind="mean")
    suite = small(suite_file, model="tiny-mdlm", prompts=("The  Movie", "The city"), judges=(judge,), judge_tokens=tokens)
    for row in run(suite, out=tmp_path / "run").rows:
        spelled = " ".join(row["prompt"].lower().split())
        assert row["text"].startswith(spelled + row["continuation"])
        assert row["judges"]["short"] == -abs(len(row["continuation"].split()) - 3)


def test_a_drawn_text_is_not_always_the_best(suite_file: Path, tmp_path: Path) -> None:
    suite = small(suite_file, samples=8)
    weak = tuple(replace(method, settings=replace(method.settings, lam=0.1)) for method in suite.methods)
    kinds: tuple[Literal["best", "draw"], ...] = ("best", "draw")
    asked = {which: tuple(replace(method, returns=which) for method in weak) for which in kinds}
    best, drawn = (run(replace(suite, methods=methods), out=tmp_path / which) for which, methods in asked.items())
    worse = [other["reward"] < one["reward"] for one, other in zip(best.rows, drawn.rows, strict=True)]
    assert 0.2 < sum(worse) / len(worse) < 0.7
    assert all(other["reward"] <= one["reward"] for one, other in zip(best.rows, drawn.rows, strict=True))


def test_a_run_tells_what_it_does_and_prints_nothing(suite_file: Path, tmp_path: Path, capsys: Any) -> None:
    from fktext_evals.running.runner import Advanced, Written, run_steps

    suite = small(suite_file, rewards=("length:words=3",), judges=(Judge("short", "length:words=3", "words", kind="mean"),))
    *steps, found = run_steps(suite, out=tmp_path / "run")
    assert isinstance(found, Results)
    advanced = [step for step in steps if isinstance(step, Advanced)]
    done = [step.done for step in advanced]
    assert (done[0], done[-1], {step.total for step in advanced}) == (
        0,
        24,
        {24},
    )  # 2 methods x 3 prompts x 2 samples x 2 particles
    assert done == sorted(set(done))
    written = [step.rows for step in steps if isinstance(step, Written)]
    assert [len(rows) for rows in written] == [6, 6]
    assert [row for rows in written for row in rows] == [
        json.loads(line) for line in (tmp_path / "run" / "rows-1-of-1.jsonl").read_text().splitlines()
    ]
    (again,) = run_steps(suite, out=tmp_path / "run")
    assert again == found
    assert capsys.readouterr().err == ""


def test_progress_on_stderr(suite_file: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from fktext_cli import app

    command = ["eval", "run", str(suite_file), "--out", str(tmp_path / "run")]
    assert CliRunner().invoke(app, command).stderr.count("words: done in ") == 1
    with (tmp_path / "run" / "rows-1-of-1.jsonl").open("a") as file:
        file.write("{")
    err = CliRunner().invoke(app, command).stderr
    assert f"warning: the last line of {tmp_path / 'run' / 'rows-1-of-1.jsonl'} was cut off; its text is made again\n" in err
    assert "words:" not in err  # nothing is to do


def test_tokens_of_judges_that_can_tell(suite_file: Path, tmp_path: Path) -> None:
    """A judge of perplexity says how many tokens it saw, so that a mean over tokens can be had."""
    from fktext_evals import as_csv, measures

    judge = Judge("fluency", "perplexity:model=heldout-causal", "perplexity", kind="perplexity")
    found = run(small(suite_file, judges=(judge, load(str(suite_file)).judges[0])), out=tmp_path / "run")
    for row in found.rows:
        assert list(row["judged_tokens"]) == ["fluency"]
        assert row["judged_tokens"]["fluency"] >= 1
    rows = found.of(("fk", 2))
    counts = [row["judged_tokens"]["fluency"] for row in rows]
    total = sum(row["judges"]["fluency"] * count for row, count in zip(rows, counts, strict=True))
    pooled = measures.token_perplexity(rows, judge)
    assert pooled.mean == pytest.approx(math.exp(-total / sum(counts)))
    assert pooled.low < pooled.mean < pooled.high
    assert "perplexity_fluency_token_weighted" in as_csv([found]).splitlines()[0]
    assert found.to_pandas()["tokens:fluency"].tolist() == [row["judged_tokens"]["fluency"] for row in found.rows]


def test_the_gap_between_the_judge_that_steers_and_another_of_its_label(whole: Results) -> None:
    from fktext_evals import as_csv

    steering, other = whole.suite.judges
    assert "gap" not in as_csv([whole]).splitlines()[0]  # of two labels
    alike = replace(whole, suite=replace(whole.suite, judges=(steering, replace(other, label="e-ful"))))
    line = list(csv.DictReader(io.StringIO(as_csv([alike]))))[3]
    rows = whole.of(("fk", 3))
    expected = fmean(math.exp(row["judges"]["steering"]) - math.exp(row["judges"]["held-out"]) for row in rows)
    assert float(line["e-ful_gap_held-out"]) == pytest.approx(expected)
    assert float(line["e-ful_gap_held-out_low"]) < expected < float(line["e-ful_gap_held-out_high"])
