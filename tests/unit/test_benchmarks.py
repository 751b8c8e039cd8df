"""The benchmarks' commands run, and print what they promise."""

import importlib.util
import math
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import fktext

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a script of benchmarks/ with arguments; what it printed."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(name, *arguments):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        module.main()
        return capsys.readouterr().out

    return run


def test_lazy_prints_ratios_and_fits(command):
    few = ("--particles", 4, 1, "--length", 8, "--steps", 6, "--every", 3, "--dense-steps", 1)
    out = command("lazy", "--size", "small", "--device", "cpu", *few)
    assert re.findall(r"^1 prompts x N=(\d), T=6, L=8$", out, re.MULTILINE) == ["1", "4"]
    rows = [float(found) for found in re.findall(r"lazy: +([\d.]+) denoiser rows", out)]
    assert len(re.findall(r"[\d.]+x faster than dense, [\d.]+x than cache", out)) == len(rows) == 2
    (fit,) = re.findall(r"^particles at prompts 1, steps 6, length 8: seconds .*, rows with ([\d.]+)$", out, re.MULTILINE)
    assert float(fit) == pytest.approx(1 + math.log(rows[1] / rows[0], 4), abs=0.02)


def test_scaling_and_memory_run(command):
    out = command("scaling", "--size", "small", "--device", "cpu", "--length", 8, "--quick", "--sweep", "prompts")
    assert re.search(r"^prompts: seconds grow with exponent -?[\d.]+, rows with [\d.]+$", out, re.MULTILINE)
    if sys.platform == "linux":
        out = command("memory", "--size", "small", "--device", "cpu", "--length", 8, "--rows", 4)
        assert re.search(r"4 rows: +\d+ MiB, by the formula +\d+ MiB", out)


def test_heads_prints_the_share_of_a_value(command):
    out = command("heads", "--sizes", "small", "--lengths", 8, 16, "--particles", 3, "--steps", 4, "--device", "cpu")
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in out.splitlines()[4:]]
    assert [row[:2] for row in rows] == [["small", "8"], ["small", "16"]]
    for row in rows:
        assert row[3] == "9"  # three particles at three weighings before the end
        assert int(row[2]) <= 12
        assert 0 < float(row[6].rstrip("%")) < 1000


def test_methods_prints_what_each_costs(command):
    few = ("--size", "small", "--judge", "small", "--particles", 2, "--steps", 20, "--length", 6, "--device", "cpu")
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in command("methods", *few).splitlines()[4:]]
    assert [row[0] for row in rows] == ["best-of-n", "fk, learned value", "fk, 1 prediction", "fk, 4 predictions"]
    calls = [int(row[3]) for row in rows]
    assert calls[0] == calls[1] == 2 < calls[2] < calls[3]
    assert all(float(cell) >= 0 for row in rows for cell in (row[4], row[5], row[7]))


def test_rewards_prints_a_row_for_each(command, tmp_path):
    few = ("--prompts", 1, "--samples", 1, "--length", 8, "--steps", 4, "--out", tmp_path)
    out = command("rewards", "--only", "function", *few)
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in out.splitlines()]
    assert [row[0] for row in rows] == ["reward", "---", "`function:target=rewards:commas`"]
    base, best, steered, *differences = (float(cell.split()[0]) for cell in rows[2][2:])
    assert differences == pytest.approx([steered - base, steered - best])


def test_constraints_prints_a_row_for_each_number_of_particles(command):
    few = ("--particles", 1, 4, "--populations", 2, "--texts", 8, "--steps", 2, "--pseudo-counts", 0.1)
    out = command("constraints", "--only", "length", *few)
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in out.splitlines()]
    assert [row[3] for row in rows[2:]] == ["1", "4"]
    assert {row[2] for row in rows[2:]} == {rows[2][4]}  # the best of one is the model alone
    for row in rows[2:]:
        assert all(re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", row[column]) for column in (2, 4, 5))
        assert re.fullmatch(r"\d+ \(\d+\)", row[6])
        assert len(row) == 7


def test_tempering_prints_the_variance_with_and_without(command):
    out = command("tempering", "--lambdas", 4, "--particles", 6, "--populations", 80, "--x0-samples", 1)
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in out.splitlines()][2:]
    assert [row[2:4] for row in rows[:4]] == [["0.9", "no"], ["0.9", "0.25"], ["0.9", "0.45"], ["0.9", "0.8"]]
    for row in rows:
        assert float(row[5]) == pytest.approx(float(row[4]) / float(rows[0][4]), abs=0.01)
        assert (row[7] == "1.00 1.00 1.00") == (row[3] == "no")
    assert float(rows[-1][5]) < 0.9


@pytest.mark.parametrize(("hits", "interval"), [(0, (0.0, 0.1611)), (10, (0.2993, 0.7007)), (20, (0.8389, 1.0))])
def test_an_interval_of_twenty_trials(hits, interval):
    spec = importlib.util.spec_from_file_location("benchmark_constraints", FOLDER / "constraints.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.wilson(hits, 20) == pytest.approx(interval, abs=1e-4)


def test_the_picture_is_of_the_run_that_it_names(command):
    asked = {"particles": 3, "length": 9, "seed": 5, "resample_every": 32}
    given = ("--prompt", "the sea", "--reward", "length:words=5", "--particles", 3, "--length", 9, "--seed", 5, "--every", 32)
    drawn = command("picture", *given)
    root = ElementTree.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    groups = [group for group in root.iter(f"{space}g") if group.get("class", "").startswith("frame")]
    [population] = fktext.generate("tiny-mdlm", "length:words=5", "the sea", **asked)
    assert len(groups) == len(population.steps) + sum(bool(step.resampled) for step in population.steps)
    lines = ["".join(item.itertext()) for item in groups[-1].iter(f"{space}text") if item.find(f"{space}tspan") is not None]
    assert lines == [text.replace(" ", "") for text in population.texts]
    assert "mask" in drawn


def test_blocks_prints_what_a_cache_saves(command):
    few = ("--blocks", 2, 4, "--length", 16, "--particles", 4, "--every", 2, "--device", "cpu")
    out = command("blocks", "--size", "small", "--layers", 2, *few)
    found = re.findall(r"positions: (\d+) computed, (\d+) without: ([\d.]+)x", out)
    assert len(found) == 2
    for computed, without, ratio in found:
        assert float(ratio) == pytest.approx(int(without) / int(computed), abs=0.06)
        assert int(computed) < int(without)
    apart = [float(item) for item in re.findall(r"hidden states at most (\S+) of the largest apart", out)]
    assert len(apart) == 2
    assert max(apart) < 3e-6
    for formula, held in re.findall(r"at the end \d+ blocks of \d+ bytes are ([\d.]+) MiB, held ([\d.]+) MiB", out):
        assert formula == held


def test_watching(command, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    said = command("watching", "--seeds", 1, "--particles", 2)
    numbers = re.findall(r"(\w+): .*, ratio ([\d.]+), .* ([\d.]+)%", said)
    found = {kind: (float(ratio), float(share)) for kind, ratio, share in numbers}
    assert found["plain"][0] == 1
    assert found["plain"][1] < min(found["log"][1], found["view"][1]) < max(found["log"][1], found["view"][1]) < 30
