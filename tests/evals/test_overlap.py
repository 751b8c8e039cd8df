"""A device for the judges: one batch is judged while the model writes another, and the rows are those of one after the other."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fktext.errors import RewardError
from fktext.models import load as load_model
from fktext.plugins.registry import Registry
from fktext.rewards import Scorer, Weighted
from fktext_evals import Results, load, run
from fktext_evals.executors import Job
from fktext_evals.running.cells import Cell, cells
from fktext_evals.running.overlap import Turns, overlapped
from fktext_evals.running.work import Texts, Work


class Vowels:
    """A reward that may wait for a sign, and fail at a prompt."""

    def __init__(self, wait: Any = lambda: None, prompt: str | None = None) -> None:
        self.wait, self.prompt = wait, prompt

    def score(self, samples: Sequence[Any]) -> list[float]:
        self.wait()
        if any(text.prompt == self.prompt for text in samples):
            raise OSError("the judge is gone")
        return [-1.0 / (1 + sum(map(str(text).count, "aeiou"))) for text in samples]


def made_of(suite_file: Path, reward: Vowels, judge: Vowels) -> tuple[Work, list[Cell]]:
    """Work on the suite by these, in 8 cells."""
    suite = load(str(suite_file))
    judges = Scorer([Weighted(each.name, judge) for each in suite.judges])
    work = Texts.of(suite, Scorer([Weighted("vowels", reward)]), judges, None, load_model(suite.model))
    return work, cells(work.suite, (), 64)


def timeless(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in lines]


def test_a_run_with_judges_apart_has_the_rows_of_any_other(
    whole: Results, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    create = Registry.create

    def spy(self: Registry, spec: Any, context: Any = None, *more: Any) -> Any:
        told.append(context.device)
        return create(self, spec, context, *more)

    monkeypatch.setattr(Registry, "create", spy)
    suite_file.write_text((whole.folder.parent / "words.toml").read_text())
    found = run(str(suite_file), out=tmp_path / "run", judge_device="cpu:0")
    assert told == ["cpu:0"] * 3  # a reward and two judges
    one, other = (
        [json.loads(line) for line in (each.folder / "rows-1-of-1.jsonl").read_text().splitlines()] for each in (whole, found)
    )
    assert timeless(one) == timeless(other)  # in the same order, too
    assert found.run == whole.run
    assert len(found.notes) == 1
    assert "the model was busy" in found.notes[0]


@pytest.mark.parametrize(
    ("job", "overlaps", "gpus"),
    [
        ({"device": "cpu"}, False, 0),
        ({"device": "cuda"}, False, 1),
        ({"device": "cuda", "judge_device": "cuda:0"}, False, 1),
        ({"device": "cuda", "judge_device": "cuda:1"}, True, 2),
        ({"device": "cuda", "judge_device": "cpu"}, True, 1),
        ({"device": "cuda", "judge_device": "cuda:1", "compiled": True}, False, 2),
    ],
)
def test_batches_overlap_on_two_devices(suite_file: Path, job: dict[str, Any], overlaps: bool, gpus: int) -> None:
    asked = Job(load(str(suite_file)), "", **job)
    assert (asked.overlaps, asked.gpus) == (overlaps, gpus)


def test_while_one_batch_is_scored_another_has_the_model(suite_file: Path) -> None:
    turns, held = Turns(), []

    def wait() -> None:
        if len(held) < 3:  # at the end there is no other batch
            deadline = time.monotonic() + 20
            while not turns.model._lock.locked() and time.monotonic() < deadline:
                time.sleep(0.001)
            held.append(turns.model._lock.locked())

    work, todo = made_of(suite_file, Vowels(wait), Vowels())
    assert len(list(overlapped(work, [cell for cell in todo if cell.method[0] == "fk"], turns))) == 4
    assert held == [True] * 3
    assert turns.model.waits + turns.judges.waits >= 3


def test_seconds_of_a_text_leave_out_the_turns_of_others(suite_file: Path) -> None:
    slow, turns = Vowels(), Turns()
    work, todo = made_of(suite_file, slow, Vowels())
    two = [cell for cell in todo if cell.method == ("best-of-n", 2)]
    list(overlapped(work, two, Turns()))  # warm up
    slow.wait = lambda: time.sleep(0.15)  # while one is scored the other waits for it
    rows = [row for _, batch in overlapped(work, two, turns) for row in batch]
    assert 2 * 0.15 < sum(row["seconds"] for row in rows) <= turns.model.busy + turns.judges.busy


def test_at_most_so_many_batches_are_ahead(suite_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Cell] = []
    sampled, lock = Texts.sampled, threading.Lock()

    def spy(self: Work, method: Any, seed: int, wanted: Any) -> Any:
        with lock:
            begun.append(Cell(method.key, seed, tuple(sorted(wanted))))
        return sampled(self, method, seed, wanted)

    monkeypatch.setattr(Texts, "sampled", spy)
    work, todo = made_of(suite_file, Vowels(), Vowels())
    ahead, order = [], []
    for number, (cell, _) in enumerate(overlapped(work, todo, Turns()), 1):
        time.sleep(0.02)
        ahead.append(len(begun) - number)
        order.append(cell)
    assert order == todo
    assert max(ahead) <= work.at_once
    assert sorted(begun, key=str) == sorted(todo, key=str)
    begun.clear()
    before = threading.active_count()
    items = overlapped(work, todo, Turns())
    next(items)
    items.close()  # as an interrupt does
    assert threading.active_count() == before
    assert len(begun) <= 1 + work.at_once


@pytest.mark.parametrize("which", ["reward", "judge"])
def test_what_fails_is_raised_after_the_rows_before_it(suite_file: Path, which: str) -> None:
    fails = Vowels(prompt="she")
    work, _ = made_of(suite_file, fails if which == "reward" else Vowels(), fails if which == "judge" else Vowels())
    todo = cells(replace(work.suite, seeds=(0,), methods=work.suite.methods[2:3]), (), 4)
    found, before = [], threading.active_count()
    with pytest.raises(RewardError, match=rf"{'vowels' if which == 'reward' else 'steering'}' failed.*the judge is gone"):
        found.extend(cell for cell, _ in overlapped(work, todo, Turns()))
    assert found == todo[:2]
    assert threading.active_count() == before
