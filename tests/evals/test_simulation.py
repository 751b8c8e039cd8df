"""The simulation of a sweep, and what a suite is expected to need: exact where it can be told, and nothing is left undone."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from fktext_evals import Results, load

FOLDER = Path(__file__).parents[2] / "benchmarks"


def module(name: str) -> Any:
    """Import a script of benchmarks/, which may import others there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def sweep() -> Any:
    return module("sweep")


@pytest.fixture(scope="module")
def hours() -> Any:
    return module("hours")


def test_without_failures_it_is_arithmetic(sweep: Any) -> None:
    calm = sweep.World(load=5, lifetime=1e9, slow=0)
    assert sweep.simulate([1.0] * 100, 10, calm, 0) == sweep.Outcome(15.0, 0.0, 0, 100 / 150)
    assert sweep.simulate([1.0, 1.0, 4.0], 2, sweep.World(load=0, lifetime=1e9, slow=0), 0).seconds == 5
    assert sweep.simulate([1.0] * 4, 4, sweep.World(load=0, lifetime=1e9, slow=1, factor=3, speed=2), 0).seconds == 1.5


def test_what_is_lost_is_made_again(sweep: Any) -> None:
    harsh = sweep.World(load=1, lifetime=20 / 3600, slow=0)
    found = sweep.simulate([2.0] * 200, 4, harsh, 1)
    assert found == sweep.simulate([2.0] * 200, 4, harsh, 1)
    assert found.losses > 5
    assert found.lost_seconds > 0
    assert found.busy * found.seconds * 4 == pytest.approx(400)  # all of it was made, once
    assert found.seconds > sweep.simulate([2.0] * 200, 4, sweep.World(load=1, lifetime=1e9, slow=0), 1).seconds


def test_the_command_takes_the_seconds_of_a_run(sweep: Any, whole: Results, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep.py", str(whole.folder), "--texts", "4000", "--workers", "1", "1000"])
    sweep.main()
    said = capsys.readouterr().out.splitlines()
    mean = sum(row["seconds"] for row in whole.rows) / len(whole.rows)
    assert said[0].startswith(f"measured: {mean:.3g} s a text")
    assert [line.split(" | ")[0] for line in said[3:]] == ["| 1", "| 1000"]


def test_what_a_suite_is_expected_to_need_is_what_it_needed(hours: Any, whole: Results) -> None:
    for method in whole.suite.methods:
        rows = whole.populations(method.key)
        need = hours.needs(method, len(rows), 8 - 5 / 3, 6)  # what prompts leave of 8 tokens, on average
        assert need.rows == pytest.approx(sum(row["denoiser_rows"] for row in rows), rel=0.2)  # clones share
        asked = sum(row["reward_requests"] for row in rows)
        assert need.rewards == pytest.approx(asked if method.name != "base" else len(rows))  # whose reward is told, not asked for


def test_needs_at_the_size_of_the_paper_are_those_that_were_counted(hours: Any) -> None:
    """`benchmarks/RESULTS.md` has 124.2 rows a particle, 26,993 head positions and 1,576 rewards asked of one run like this."""
    method = next(method for method in load("paper-toxicity").methods if method.key == ("fk", 8))
    need = hours.needs(method, 1, 128, 1000)
    assert (need.rows / 8, need.heads, need.rewards) == (
        pytest.approx(120.2 - 7 / 8, abs=0.1),
        pytest.approx(26_993, rel=0.05),
        1_576,
    )
    assert 50 * 3 < need.calls < 50 * 8
    svdd = next(method for method in load("paper-methods").methods if method.name == "svdd")
    with pytest.raises(SystemExit, match=r"method 'svdd' is not one of .* its needs are not known here"):
        hours.needs(svdd, 1, 128, 1000)


def test_hours_are_costs_times_needs(hours: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "costs.json"
    free, second = {"call": 0, "unit": 0, "flops": 0}, {"call": 0, "unit": 1, "flops": 0}
    told = {"model": "m", "dtype": "float32", "device": "cpu", "length": 128, "steps": 1000, "row": second, "head": free}
    suite = load("paper-toxicity")
    file.write_text(
        json.dumps({**told, "rewards": dict.fromkeys([*suite.rewards, *(judge.reward for judge in suite.judges)], free)})
    )
    hours.main([str(file), "paper-toxicity", "--workers", "1", "--load", "0"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "costs measured: m, float32 on cpu; hours computed"
    name, texts, rows, _, _, took = (cell.strip() for cell in said[-1].strip("|").split("|"))
    assert (name, texts) == ("paper-toxicity", "6,300")
    assert float(rows) == pytest.approx(900 * 37 * 119.4, rel=0.01)  # 1 + 4 + 8 + 4 + 8 + 4 + 8 particles of each prompt and seed
    assert float(took.split()[0]) >= float(rows) / 3600 * 0.99
    file.write_text(json.dumps({**told, "rewards": {}}))
    with pytest.raises(SystemExit, match=r"measure it, too, with fktext bench --costs --reward 'toxicity:"):
        hours.main([str(file), "paper-toxicity"])


def test_costs_of_an_h100_are_its_arithmetic(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flops = module("flops")
    name = "toxicity:model=s-nlp/roberta_toxicity_classifier,max_tokens=50"
    monkeypatch.setattr(flops, "NETWORKS", {name: flops.NETWORKS[name]})
    monkeypatch.setattr(sys, "argv", ["flops.py", "--share", "0.5"])
    flops.main()
    told = json.loads(capsys.readouterr().out)
    assert told["computed"].startswith("computed, not measured")
    assert told["head"]["flops"] == 2 * 768 * 50_258
    blocks = 12 * 12 * 768**2  # parameters of the matrices of twelve blocks
    assert told["row"]["flops"] == pytest.approx(2 * blocks * 128, rel=0.05)  # and attention
    assert told["row"]["unit"] == pytest.approx(told["row"]["flops"] / 989e12 / 0.5)
    assert told["rewards"][name]["flops"] == pytest.approx(2 * blocks * 50, rel=0.05)


@pytest.mark.long
def test_what_workers_cost_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["workers.py", "toxicity-smoke", "--limit", "1", "--rounds", "1"])
    module("workers").main()
    *_, row, _, last = capsys.readouterr().out.splitlines()
    clock, processors = (float(found) for found in re.findall(r"([+-][0-9.]+)%", last))
    assert row.count(f"{clock:+}%") == row.count(f"{processors:+}%") == 1
    assert -50 < processors < 100
