"""An evaluation without a file is the suite that a file would be."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fktext.errors import UsageError
from fktext.plugins import load_plugins
from fktext_evals.suites import catalogue, quick
from fktext_evals.suites.suite import parse


def test_it_is_the_suite_of_a_file() -> None:
    found = quick.suite(
        ["sentiment:label=negative=2"],
        ["she", "he"],
        load_plugins(),
        held_out=["sentiment:model=heldout-sentiment,label=negative", "perplexity:model=heldout-causal"],
        particles=[2, 3],
        changes={"lam": 3, "samples": 1},
    )
    assert found == parse(
        {
            "name": "quick-sentiment",
            "description": "base, best-of-n and FK, steered by sentiment:label=negative=2",
            "model": "tiny-mdlm",
            "prompts": ["she", "he"],
            "rewards": ["sentiment:label=negative=2"],
            "samples": 1,
            "settings": {"lam": 3},
            "methods": [
                {"name": "base", "method": "base"},
                {"name": "best-of-n", "method": "best-of-n", "particles": [2, 3]},
                {"name": "fk", "particles": [2, 3]},
            ],
            "judges": [
                {"name": "steering", "reward": "sentiment:label=negative", "label": "negative"},
                {"name": "held-out", "reward": "sentiment:model=heldout-sentiment,label=negative", "label": "negative"},
                {"name": "held-out-2", "reward": "perplexity:model=heldout-causal", "label": "perplexity", "kind": "perplexity"},
            ],
        },
        "file",
    )
    catalogue.check(found, load_plugins())


@pytest.mark.parametrize(
    ("reward", "label", "kind"),
    [
        ("toxicity", "toxic", "share"),
        ("toxicity:target=nontoxic", "nontoxic", "share"),
        ("cola", "cola", "share"),
        ("classifier:model=x,label=1", "classifier", "share"),
        ("perplexity", "perplexity", "perplexity"),
        ("perplexity:reduce=sum", "perplexity", "mean"),
        ("length:max=3", "length", "mean"),
        ("letters", "letters", "mean"),
    ],
)
def test_judges_are_reported_as_what_they_are(reward: str, label: str, kind: str) -> None:
    [judge] = quick.suite([reward], None, load_plugins()).judges
    assert (judge.label, judge.kind) == (label, kind)


def test_without_prompts_it_takes_those_of_a_suite() -> None:
    assert quick.suite(["cola"], None, load_plugins()).prompts == catalogue.load("toxicity").prompts


@pytest.mark.parametrize(
    ("rewards", "more", "message"),
    [
        ([], {}, "no reward to steer by"),
        (["lettres"], {}, "unknown reward 'lettres': did you mean 'letters'"),
        (["cola"], {"held_out": ["cola:part=all"]}, "cola:part=all steers, so it is no held-out judge"),
        (["cola"], {"changes": {"lamm": 2}}, "unknown key of eval quick: 'lamm': did you mean 'lam'"),
        (["cola"], {"particles": [4, 4]}, "has method .* twice"),
    ],
)
def test_mistakes(rewards: list[str], more: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quick.suite(rewards, ["she"], load_plugins(), **more)  # type: ignore[arg-type]


def test_cli(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fktext_cli import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("she\nhe\n")

    def call(*more: str) -> Result:
        short = ["--set", "samples=1", "length=8", "steps=6", "resample_every=2"]
        words = ["eval", "quick", "-m", str(tiny), "-r", "letters", "--held-out", "letters:letter=a", "-n", "2", "3", *short, *more]
        return CliRunner(env={"NO_COLOR": "1", "TERM": "dumb"}).invoke(app, words)

    done = call("--prompts", "the book", "p.txt", "--limit", "2")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("# quick-letters: base, best-of-n and FK, steered by letters")
    assert [
        line.split("|")[1:3] for line in done.stdout.splitlines() if line.startswith(("| base", "| fk |", "| best-of-n |"))
    ] == [[f" {name} ", f" {n} "] for name, n in (("base", 1), ("best-of-n", 2), ("best-of-n", 3), ("fk", 2), ("fk", 3))]
    [folder] = (tmp_path / "runs").iterdir()
    assert len((folder / "rows-1-of-1.jsonl").read_text().splitlines()) == 10
    more = call("--prompts", "the book", "p.txt")
    assert more.exit_code == 0, more.output
    assert len((folder / "rows-1-of-1.jsonl").read_text().splitlines()) == 15
    assert call("--prompts", "p.txt").exit_code == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2, "another suite has another folder"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["-n", "4", "8", "-r", "tox"], ["toxicity"]),
        (["-r", "cola", "--held-out", "senti"], ["sentiment"]),
        (["-m", "tiny-s"], ["tiny-ssdlm"]),
    ],
)
def test_a_shell_completes_names(words: list[str], found: list[str]) -> None:
    from fktext_cli import app

    typed = ["fktext", "eval", "quick", *words]
    asked = {"_FKTEXT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(typed), "COMP_CWORD": str(len(typed) - 1)}
    assert CliRunner().invoke(app, prog_name="fktext", env=asked).stdout.split() == found
