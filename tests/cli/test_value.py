"""`fktext value`: fit, list, show and check."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from fktext.smc.ledger import Ledger
from fktext.texts.values import LogZ

OWN = ("--own", "60", "--length", "7")
REWARD = "length:words=4"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A value of `REWARD`, fitted by the command itself."""
    from typer.testing import CliRunner

    folder = tmp_path_factory.mktemp("values") / "words"
    from fktext_cli.value import app

    result = CliRunner().invoke(app, ["fit", "--reward", REWARD, *OWN, "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


def test_a_value_is_fitted_shown_and_steers(call, made):
    about = json.loads(call("value", "show", made, "--json").stdout)
    assert (about["model"], about["reward"], about["own"], about["length"]) == ("tiny-mdlm", REWARD, 60, 7)
    lines = call("value", "show", made).stdout.splitlines()
    assert any(line.startswith("held-out loss:") for line in lines)
    assert sum("% to" in line for line in lines) == 5
    result = call("generate", "the", "-r", REWARD, "--look-ahead", f"value:{made}", "-n", "3", "--length", "7", "-f", "jsonl")
    assert result.exit_code == 0, result.stderr
    assert "looking ahead by a learned value" in result.stderr
    assert "3 reward calls requested" in result.stderr
    assert json.loads(result.stdout)["settings"]["look_ahead"] == f"value:{made}"


def test_a_value_is_checked_on_new_texts(call, made):
    result = call("value", "check", made, *OWN, "--populations", "0", "--json")
    found = json.loads(result.stdout)
    assert sum(level["texts"] for level in found["levels"]) == 60
    assert found["passed"] == (found["loss"] < found["chance"])
    assert found["log_z"] == []
    assert result.exit_code == (0 if found["passed"] else 1)


def test_a_check_compares_log_z_and_draws(call, made, tmp_path):
    (tmp_path / "prompts.txt").write_text("the book\nhe said\n")
    asked = ("value", "check", made, *OWN, "--prompts", tmp_path / "prompts.txt", "--populations", "2")
    result = call(*asked, "--plot", tmp_path / "a.svg", "--json")
    found = json.loads(result.stdout)["log_z"]
    assert [(each["prompt"], each["look_ahead"]) for each in found] == [
        (prompt, name) for prompt in ("the book", "he said") for name in ("value", "predictions")
    ]
    for value, predictions in zip(found[::2], found[1::2], strict=True):
        assert value["reward_requests"] == 8
        assert predictions["reward_requests"] > 8 * 4 * 5  # four guesses at each weighing but the last
        for each in (value, predictions):
            assert each["variance"] >= 0
            assert each["mean"] <= each["log_z"]
    drawn = (tmp_path / "a.svg").read_text()
    assert all(words in drawn for words in ("exp(value)", "exp(reward)", "Correlation by noise level"))
    lines = call(*asked, "--plot", tmp_path / "a.png").stdout.splitlines()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    start = next(number for number, line in enumerate(lines) if line.startswith("log Z with 8 particles and lambda 10"))
    assert len(lines) == start + 6


def test_dead_populations_are_counted_apart():
    def population(log_z):
        return SimpleNamespace(prompt="p", log_z=log_z, ledger=Ledger(reward_requests=8, seconds=1.0))

    found = LogZ.of("value", [population(each) for each in (0.0, math.log(3), -math.inf, -math.inf)])
    assert (found.dead, found.mean) == (2, pytest.approx(math.log(3) / 2))
    assert found.log_z == pytest.approx(0.0)  # log of (1 + 3 + 0 + 0) / 4
    found = LogZ.of("value", [population(-math.inf)] * 2)
    assert (found.log_z, found.mean, found.variance, found.dead) == (None, None, None, 2)


def test_values_are_listed(call):
    result = call("value", "list", "--json")
    assert result.exit_code == 0
    assert all({"name", "model", "reward", "texts"} == row.keys() for row in json.loads(result.stdout))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "no-such"), "unknown value 'no-such'"),
        (("fit", "-r", "toxicity", "--own", "5", "--out", "new"), "at least 50 texts, got 5"),
        (
            ("fit", "-r", "toxicity", "--length", "200", "--prompts", "{prompts}", "--out", "new"),
            "has no learned values of this length",
        ),
        (("fit", "-r", "toxicity", "--texts", "missing.txt", "--out", "new"), "missing.txt"),
        (("fit", "-r", "toxicity", "--out", "{full}"), "exists; name a new folder"),
        (("check", "{full}", "--plot", "a.gif"), "--plot 'a.gif' must end with one of .svg, .png, .pdf"),
        (("check", "{full}", "--plot", "no/a.png"), "--plot 'no/a.png': there is no folder 'no'"),
    ],
)
def test_bad_requests_cost_nothing(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("the book\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("x")
    names = {"prompts": tmp_path / "prompts.txt", "full": tmp_path / "full"}
    result = call("value", *(each.format(**names) for each in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_value_is_fitted_before_a_run_that_pays_for_it(call):
    asked = ("the", "-r", REWARD, "--look-ahead", "value:fit", "-n", "3", "--length", "8", "--steps", "4", "-f", "jsonl")
    result = call("generate", *asked)
    assert result.exit_code == 0, result.stderr
    assert "fitting the value first: 500 texts of the model are drawn and judged" in result.stderr
    assert "503 reward calls requested" in result.stderr
    assert json.loads(result.stdout)["settings"]["look_ahead"] == "value:fit"


def test_a_text_beyond_the_window_has_no_value(call):
    result = call("generate", "the", "--length", "200", "-r", REWARD, "--look-ahead", "value:fit", "-n", "2")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: model 'tiny-mdlm' has no learned values of this length: they are for texts that fit one window" in result.stderr


def test_a_check_is_at_the_temperature_that_is_asked_for(call, made):
    found = [
        json.loads(call("value", "check", made, *OWN, "--populations", "1", "--temperature", each, "--json").stdout)
        for each in ("0.7", "2", "2")
    ]
    assert found[1] == {**found[2], "log_z": found[1]["log_z"]}
    assert found[0]["levels"] != found[1]["levels"]
    assert [each["log_z"][0]["log_z"] for each in found[1:]] == [found[1]["log_z"][0]["log_z"]] * 2


@pytest.mark.parametrize(
    ("look_ahead", "message"),
    [
        ("value:{made}", "no value of reward 'length:words=9'"),
        ("value:/nowhere", "there is no folder '/nowhere'"),
        ("value", "no value is installed for model 'tiny-mdlm' with length:words=9"),
        ("valu", "unknown look-ahead 'valu': did you mean 'value'"),
    ],
)
def test_a_wrong_value_is_one_line(call, made, look_ahead, message):
    asked = look_ahead.format(made=made)
    result = call("generate", "the", "-r", "length:words=9", "--look-ahead", asked, "-n", "2", "--length", "7")
    assert (result.exit_code, result.stdout) == (2, "")
    own = [line for line in result.stderr.splitlines() if line != "a plugin may print"]
    assert len(own) == 1, own
    assert own[0].startswith("error: ")
    assert message in own[0]
