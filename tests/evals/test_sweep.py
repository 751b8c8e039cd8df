"""Sweeps: whoever makes the cells, and whatever dies meanwhile, the rows are those of one process, each there once."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from fktext.errors import PluginError, UsageError
from fktext_cli import app
from fktext_evals import Results, Suite, load, read, run
from fktext_evals.executors import Done, Failed, Job, Started, Stopped, Worker, check, find
from fktext_evals.executors.local import Local, _Hand
from fktext_evals.running import sweep as sweeping
from fktext_evals.running.cells import Cell, cells
from fktext_evals.running.results import RunError
from fktext_evals.running.runner import Note, run_steps
from fktext_evals.running.sweep import CellsError

PLUGIN = """
import os
import signal
from pathlib import Path
from fktext.plugins import hookimpl

class Picky:
    def __init__(self, prompt, times, folder, kill):
        self.prompt, self.times, self.folder, self.kill = prompt, times, Path(folder), kill
    def score(self, samples):
        if any(text.prompt == self.prompt for text in samples):
            before = len(list(self.folder.iterdir()))
            if before < self.times:
                (self.folder / str(before)).touch()
                if self.kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError("the judge is gone")
        return [-1.0] * len(samples)

def picky(context, *, prompt: str, folder: str, times: int = 1, kill: bool = False):
    return Picky(prompt, times, folder, kill)

class Inline:
    def run(self, job, cells):
        from fktext_evals.executors import Worker
        worker = Worker(job)
        yield worker.started
        for cell in reversed(cells):
            yield worker.make(cell)

@hookimpl
def fktext_register_rewards(register):
    register("picky", picky, summary="fails at a prompt, so many times")

@hookimpl
def fktext_register_parts(register):
    register("executor", "inline", Inline, summary="here, the last cell first")
    register("executor", "wrong", dict, summary="is none")
"""


def exact(results: Results) -> list[dict[str, Any]]:
    """The rows without their seconds."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in results.rows]


@pytest.fixture(autouse=True)
def picky(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring the rewards and executors of the tests, make pauses short, and have one thread."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "fk_sweep_plugin.py").write_text(PLUGIN)
    folder = root / "fk_sweep-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: fk-sweep\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[fktext]\nmain = fk_sweep_plugin\n")
    monkeypatch.syspath_prepend(root)
    monkeypatch.setattr(sweeping, "WAIT", 0.01)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def failing(suite_file: Path, tmp_path: Path) -> Any:
    """A suite of 4 cells, 2 prompts a cell, one of whose judges fails at a prompt."""
    (tmp_path / "marks").mkdir()

    def made(**options: Any) -> Suite:
        suite = load(str(suite_file))
        said = "".join(f",{name}={value}" for name, value in options.items())
        judge = replace(suite.judges[1], reward=f"picky:prompt=she,folder={tmp_path / 'marks'}{said}")
        return replace(suite, samples=1, seeds=(0,), methods=suite.methods[1:3], judges=(suite.judges[0], judge))

    return made


def test_two_local_workers_make_the_rows_of_one_process(whole: Results, suite_file: Path, tmp_path: Path) -> None:
    found = run(str(suite_file), out=tmp_path / "run", workers=2)
    assert exact(found) == exact(whole)
    assert found.run == whole.run
    assert found.notes == ()
    sessions = [json.loads(line) for line in (tmp_path / "run" / "sessions.jsonl").read_text().splitlines()]
    assert [session["shard"] for session in sessions] == ["1/1"] * 2
    assert exact(run(str(suite_file), out=tmp_path / "run", workers=2)) == exact(whole)  # nothing is to do
    with pytest.raises(UsageError, match="holds another run"):
        run(replace(load(str(suite_file)), samples=1), out=tmp_path / "run", workers=2)


@pytest.mark.long
def test_local_keeps_the_contract(suite_file: Path, tmp_path: Path) -> None:
    suite = replace(load(str(suite_file)), seeds=(0,))
    check(Local(), Job(suite, str(tmp_path), workers=2), cells(suite, (), 4))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda outcomes: outcomes[1:], "before any worker"),
        (lambda outcomes: outcomes[:-1], "1 of 2 cells are missing"),
        (lambda outcomes: [*outcomes, outcomes[-1]], "made twice"),
        (lambda outcomes: [*outcomes[:-1], Failed(outcomes[-1].cell, "why")], "was not"),
        (lambda outcomes: [*outcomes[:-1], replace(outcomes[-1], rows=outcomes[-2].rows)], "differ"),
        (lambda outcomes: [replace(outcomes[0], identity={})], "something else"),
    ],
)
def test_the_check_finds_what_is_wrong(suite_file: Path, tmp_path: Path, fault: Any, message: str) -> None:
    suite = replace(load(str(suite_file)), seeds=(0,), samples=1)
    job, two = Job(suite, str(tmp_path)), cells(suite, (), 64)[1:3]

    class Faulty:
        def run(self, job: Job, cells: Sequence[Cell]) -> Iterator[Any]:
            worker = Worker(job)
            yield from fault([worker.started, *map(worker.make, cells)])

    with pytest.raises(AssertionError, match=message):
        check(Faulty(), job, two)


def test_a_judge_that_fails_once_is_asked_again(failing: Any, tmp_path: Path) -> None:
    found = run(failing(times=1), out=tmp_path / "run", executor="inline", batch_size=4)
    assert found.missing == 0
    assert len(list((tmp_path / "marks").iterdir())) == 1


def test_a_judge_that_fails_costs_its_cell_only(failing: Any, tmp_path: Path) -> None:
    suite = failing(times=99)
    with pytest.raises(CellsError, match=r"^2 of 4 cells failed \(2 texts\) at each of 2 attempts: 2x OSError: the judge"):
        run(suite, out=tmp_path / "run", executor="inline", retries=1, batch_size=4)
    found = read(tmp_path / "run")
    assert [row["prompt"] for row in found.rows] == ["the book", "the city"] * 2
    assert len(list((tmp_path / "marks").iterdir())) == 4  # 2 cells, twice each
    [(tmp_path / "marks" / str(number)).touch() for number in range(99)]
    assert run(suite, out=tmp_path / "run", executor="inline", batch_size=4).missing == 0  # the same call goes on


def test_the_command_says_how_many_failed_and_why(failing: Any, suite_file: Path, tmp_path: Path) -> None:
    judge = f"judges.held-out.reward=picky:prompt=she,folder={tmp_path / 'marks'},times=99"
    options = ["--set", "samples=1", judge, "seeds=[0]", "--batch-size", "4", "--retries", "0", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["eval", "run", str(suite_file), *options, "--executor", "inline"])
    assert done.exit_code == 1
    assert "of 8 cells failed" in done.stderr, done.stderr
    assert "at each of 1 attempt: " in done.stderr
    assert "the same command tries these again" in done.stderr
    partial = CliRunner().invoke(app, ["eval", "report", str(tmp_path / "run")])
    assert partial.exit_code == 0
    assert "| fk | 2 |" in partial.stdout


def test_a_worker_that_is_killed_loses_its_cell_which_another_makes(failing: Any, tmp_path: Path) -> None:
    suite = failing(times=1, kill="true")
    suite = replace(suite, prompts=("she", "the book", "the city"), methods=suite.methods[:1])  # it dies at the first of 2 cells
    notes = []
    for step in run_steps(suite, out=tmp_path / "run", retries=1, batch_size=4):
        if isinstance(step, Note):
            notes.append(step.text)
    assert read(tmp_path / "run").missing == 0
    assert sum("ended with signal SIGKILL" in note for note in notes) == 1, notes
    assert len((tmp_path / "run" / "sessions.jsonl").read_text().splitlines()) == 3


def test_a_worker_that_is_killed_while_it_speaks_loses_its_cell_only(suite_file: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    os.write(theirs.fileno(), (1000).to_bytes(4, "big") + b"half a message")
    theirs.close()
    process, cell = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,)), Cell(("fk", 2), 0, ((0, 0),))
    process.start()
    process.kill()
    hands = {ours: _Hand(process, cell)}
    assert list(Local()._hear(ours, hands, deque())) == [Failed(cell, "its worker ended with signal SIGKILL")]
    assert not hands


def test_where_nothing_works_the_sweep_stops(failing: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sweeping, "FUTILE", 2)
    suite = replace(failing(times=99), prompts=("she",), seeds=(0, 1, 2))
    with pytest.raises(RunError, match=r"the first 2 cells all failed, so the sweep stops; the last: .*the judge is gone"):
        run(suite, out=tmp_path / "run", workers=1, retries=1)


def test_what_cannot_be_loaded_is_said_at_once(suite_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'/not-there': there is no such file"):
        run(str(suite_file), "/not-there", out=tmp_path / "run", workers=1, retries=1)
    assert not (tmp_path / "run").exists()


def test_an_executor_of_a_plugin(whole: Results, suite_file: Path, tmp_path: Path) -> None:
    found = run(str(suite_file), out=tmp_path / "run", executor="inline")
    assert exact(found) == exact(whole)
    assert find("fk-sweep:inline").__class__.__name__ == "Inline"
    with pytest.raises(UsageError, match=r"unknown executor 'locla': did you mean 'local'\?"):
        find("locla")
    with pytest.raises(PluginError, match="returned dict, which has no run"):
        find("wrong")


@pytest.mark.parametrize(("options", "message"), [({"workers": 0}, "workers is 0"), ({"retries": -1}, "retries -1")])
def test_numbers_out_of_range(suite_file: Path, tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(str(suite_file), out=tmp_path / "run", **options)


def test_an_executor_that_breaks_the_contract(suite_file: Path, tmp_path: Path) -> None:
    suite = replace(load(str(suite_file)), seeds=(0,))

    class Silent:
        def run(self, job: Job, cells: Sequence[Cell]) -> Iterator[Any]:
            yield Started({}, {})

    with pytest.raises(CellsError, match="4x the executor said nothing of it"):
        run(suite, out=tmp_path / "run", executor=Silent(), retries=0)

    class Early:
        def run(self, job: Job, cells: Sequence[Cell]) -> Iterator[Any]:
            yield Done(cells[0], [])

    with pytest.raises(RunError, match="before it said what it has loaded"):
        run(suite, out=tmp_path / "other", executor=Early())
    assert isinstance(Stopped.of(ValueError("x")).raised(), RunError)


def test_an_actor_of_ray_that_is_killed_loses_its_cell_only(failing: Any, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra [ray]")
    suite = failing(times=1, kill="true")
    with pytest.raises(CellsError, match=r"^1 of 4 cells failed .* its actor is gone"):
        run(suite, out=tmp_path / "run", executor="ray", workers=2, retries=0, batch_size=4)
    assert read(tmp_path / "run").missing in (1, 2)  # texts of one cell
    found = run(suite, out=tmp_path / "run", batch_size=4)
    assert exact(found) == exact(run(suite, out=tmp_path / "alone", batch_size=4))


def test_what_ray_cannot_do_is_one_line(suite_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(UsageError, match="ray has no option 'adress'; it takes address"):
        run(str(suite_file), out=tmp_path / "run", executor="ray", options={"adress": "x"})
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs Ray: pip install 'fktext\[ray\]'"):
        run(str(suite_file), out=tmp_path / "run", executor="ray")


LOCAL = {"cluster": "local", "timeout_min": "10"}


def test_jobs_of_submitit_make_the_rows_of_one_process(
    whole: Results, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="the extra [slurm]")
    monkeypatch.setattr("fktext_evals.executors.slurm.POLL", 0.1)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    found = run(str(suite_file), out=tmp_path / "run", executor="slurm", workers=2, options=LOCAL)
    assert exact(found) == exact(whole)
    assert {path.name: path.read_text().count("\n") for path in (tmp_path / "run").glob("rows*")} == {
        "rows-1-of-1.jsonl": 0,
        "rows-slurm-1-of-2.jsonl": 24,
        "rows-slurm-2-of-2.jsonl": 24,
    }


def test_a_job_that_is_queued_again_makes_what_is_missing(whole: Results, suite_file: Path, tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit", reason="the extra [slurm]")
    from fktext_evals.executors.slurm import _share, make_share

    suite = replace(load(str(suite_file)), seeds=(0,))
    job, all_cells = Job(suite, str(tmp_path / "run")), cells(suite, (), 64)
    started, *_ = make_share(job, all_cells[:2], "rows-slurm-1-of-1.jsonl")
    assert isinstance(started, Started)
    again = _share()(job, all_cells, "rows-slurm-1-of-1.jsonl").checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    _, *outcomes = again.function()
    assert [len(outcome.rows) for outcome in outcomes] == [0, 0, 6, 6]
    assert exact(read(tmp_path / "run")) == [row for row in exact(whole) if row["seed"] == 0]


def test_what_slurm_cannot_do_is_one_line(suite_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("submitit", reason="the extra [slurm]")
    for options, message in (({}, "Slurm cannot be used from this machine"), ({**LOCAL, "nodse": "2"}, "slurm refuses an option")):
        with pytest.raises((RunError, UsageError), match=message):
            run(str(suite_file), out=tmp_path / "run", executor="slurm", options=options)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"needs submitit: pip install 'fktext\[slurm\]'"):
        run(str(suite_file), out=tmp_path / "run", executor="slurm")


START = """
import sys, fktext_evals
if __name__ == "__main__":
    fktext_evals.run(sys.argv[1], out=sys.argv[2], workers=2, batch_size=4, executor=sys.argv[3])
"""
KILLED = {  # a worker is a fork of the process that has imported what it needs, and keeps its command line
    "worker": lambda process: called(process, "forkserver") and called(process.parent(), "forkserver"),
    "actor": lambda process: called(process, "ray::_Actor"),
}


def start(suite_file: Path, out: Path, executor: str) -> subprocess.Popen[str]:
    """Run a suite in a process of its own, with two workers."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    script = suite_file.with_name("start.py")
    script.write_text(START)
    command = [sys.executable, str(script), str(suite_file), str(out), executor]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def called(process: psutil.Process | None, name: str) -> bool:
    try:
        return process is not None and name in "".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return False


def killed(suite_file: Path, whole: Results, out: Path, chance: random.Random, who: str) -> Results:
    """Kill the driver, a worker or an actor of Ray at a random moment, go on, and return what is there in the end."""
    suite_file.write_text((whole.folder.parent / "words.toml").read_text())
    process = start(suite_file, out, "ray" if who == "actor" else "local")
    moment, deadline = chance.randrange(len(whole.rows) // 2), time.monotonic() + 300
    while not (out / "run.json").exists() or len(read(out).rows) < moment:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    children = psutil.Process(process.pid).children(recursive=True)
    (process if who == "driver" else chance.choice([child for child in children if KILLED[who](child)])).kill()
    said = process.communicate(timeout=300)
    assert who == "driver" or process.returncode == 0, said  # what a worker was at is made by another
    psutil.wait_procs(children, timeout=60)
    assert not [child for child in children if child.is_running()]
    return run(str(suite_file), out=out, batch_size=4)


def test_killed_at_a_random_moment_it_goes_on(whole_of_four: Results, suite_file: Path, tmp_path: Path) -> None:
    seed = random.randrange(2**32)  # shown where the test fails
    found = killed(suite_file, whole_of_four, tmp_path / "run", random.Random(seed), "driver")
    assert exact(found) == exact(whole_of_four), seed
    assert found.notes == ()


@pytest.mark.long
@pytest.mark.parametrize("time", range(20))
@pytest.mark.parametrize("who", ["worker", "driver", "actor"])
def test_killed_many_times(whole_of_four: Results, suite_file: Path, tmp_path: Path, who: str, time: int) -> None:
    if who == "actor":
        pytest.importorskip("ray", reason="the extra [ray]")
    found = killed(suite_file, whole_of_four, tmp_path / "run", random.Random(time), who)
    assert exact(found) == exact(whole_of_four)


@pytest.fixture(scope="session")
def whole_of_four(whole: Results, plugin_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The suite, run without interruption four particles at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(plugin_path)
        folder = tmp_path_factory.mktemp("four")
        (folder / "words.toml").write_text((whole.folder.parent / "words.toml").read_text())
        return run(str(folder / "words.toml"), out=folder / "run", batch_size=4)
