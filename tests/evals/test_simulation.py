"""The simulation of a sweep: exact where it can be told by hand, and no work is left undone where workers fail."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from fktext_evals import Results

FILE = Path(__file__).parents[2] / "benchmarks" / "sweep.py"


@pytest.fixture(scope="module")
def sweep() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_sweep", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_sweep"] = module
    spec.loader.exec_module(module)
    return module


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
