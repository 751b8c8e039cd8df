"""`--method`, with `--candidates` and `--sweeps`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fktext_cli import app

SMALL = ["generate", "the book", "--reward", "sentiment", "--length", "12", "--steps", "4", "--particles", "4", "--format", "jsonl"]


def invoke(*more: str):
    return CliRunner().invoke(app, [*SMALL, *more])


@pytest.mark.parametrize("method", ["svdd", "beam"])
def test_a_rule_that_estimates_no_z_says_null(method: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    done = invoke("--method", method, "--candidates", "2", "--return", "all", "--trace", str(trace))
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["log_z"] for row in rows} == {None}
    assert sorted(row["log_weight"] is None for row in rows) == [False, False, True, True]
    assert all(row["text"] is not None for row in rows)
    assert rows[0]["settings"]["candidates"] == 2
    assert json.loads(trace.read_text())
    assert "steering by sentiment" in done.stderr


def test_particle_gibbs_counts_all_sweeps() -> None:
    one, three = (invoke("--method", "particle-gibbs", "--sweeps", sweeps) for sweeps in ("1", "3"))
    fk = invoke()
    texts = [json.loads(done.stdout) for done in (fk, one, three)]
    assert texts[0]["text"] == texts[1]["text"]
    assert texts[0]["log_z"] == texts[1]["log_z"] == texts[2]["log_z"]
    assert texts[2]["settings"]["sweeps"] == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "svdd", "--particles", "6"], "error: particles must be a multiple of the 4 candidates of a parent, got 6\n"),
        (["--candidates", "3"], "error: particles must be a multiple of the 3 candidates of a parent, got 4\n"),
        (["--method", "particle-gibbs", "--candidates", "2"], "error: method 'particle-gibbs' has no candidates, got 2\n"),
        (
            ["--proposal", "guided", "--kernel", "remdm-cap", "--look-ahead", "value"],
            "error: proposal 'guided' goes with kernels that reveal by a clock of their own, texts that fit one window, and "
            "networks that take embeddings; not with kernel 'remdm-cap' of model 'tiny-mdlm' at length 12\n",
        ),
        (
            ["--proposal", "guided"],
            "error: proposal 'guided' takes its gradient from a learned value, and there is none: see `fktext value`, or look "
            "ahead by 'value:fit'\n",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(more: list[str], message: str) -> None:
    done = invoke(*more)
    assert done.exit_code == 2
    assert done.stderr == message
