"""Suites: what is read, and what is said about a mistake."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fktext.errors import UsageError
from fktext_evals import suite


def test_the_embedded_suites_load_and_say_who_they_are() -> None:
    assert {"toxicity", "toxicity-smoke", "paper-toxicity"} <= set(suite.names())
    for name in suite.names():
        found = suite.load(name)
        assert found.name == name
        assert suite.parse(json.loads(json.dumps(found.as_table())), "again") == found


def test_the_main_suite() -> None:
    found = suite.load("toxicity")
    assert [method.key for method in found.methods] == [
        ("base", 1),
        *(("best-of-n", n) for n in (4, 8, 16)),
        *(("fk", n) for n in (4, 8, 16)),
    ]
    assert (len(found.prompts), found.samples, found.texts) == (15, 8, 840)
    assert [judge.reward for judge in found.judges] == ["toxicity", "toxicity:model=heldout-toxicity"]


def test_the_paper_s_settings() -> None:
    found = suite.load("paper-toxicity")
    assert found.texts == 15 * 20 * 3 * 7
    for method in found.methods:
        settings = method.settings
        assert (settings.length, settings.steps, settings.lam, settings.resample_every) == (128, 1000, 10, 20)
        assert settings.x0_samples == (16 if method.name == "fk-many" else 4)
    assert found.judge_tokens == 50
    assert all(prompt.startswith("\n\n") for prompt in found.prompts)


def test_prompts_from_a_file(suite_file: Path) -> None:
    (suite_file.parent / "p.jsonl").write_text('"she"\n{"prompt": "he"}\n')
    text = suite_file.read_text().replace('prompts = ["the book", "the city", "she"]', 'prompts = "p.jsonl"')
    suite_file.write_text(text)
    assert suite.load(str(suite_file)).prompts == ("she", "he")


def test_settings_of_a_method_come_before_shared_ones(suite_file: Path) -> None:
    suite_file.write_text(suite_file.read_text().replace('potential = "max"', 'potential = "max"\nsteps = 4'))
    base, _, fk, _ = suite.load(str(suite_file)).methods
    assert (base.settings.steps, fk.settings.steps, fk.settings.potential) == (6, 4, "max")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prompts = [", "promts = [", r"unknown key of \S+words.toml: 'promts': did you mean 'prompts'"),
        ("threshold = 0.2", "treshold = 0.2", r"\[\[judges\]\] 1: 'treshold': did you mean 'threshold'"),
        ('potential = "max"', 'potentail = "max"', r"\[\[methods\]\] 3: 'potentail': did you mean 'potential'"),
        ("steps = 6", "step = 6", r"\[settings\]: 'step': did you mean 'steps'"),
        ("steps = 6", "particles = 6", r"\[settings\]: 'particles'"),
        ("samples = 2", 'samples = "2"', r"samples is '2'; expected int"),
        ("samples = 2", "samples = 0", "samples must be at least 1, got 0"),
        ("samples = 2", "samples = true", "samples is True; expected int"),
        ('potential = "max"', 'potential = "mx"', r"\[\[methods\]\] 3: unknown potential 'mx': did you mean 'max'"),
        ("particles = [2, 3]", "particles = [2, 2]", r"method \('fk', 2\) twice"),
        ("particles = [2, 3]", "particles = [0]", r"\[\[methods\]\] 3: particles must be at least 1"),
        ("particles = [2, 3]", "", r"\[\[methods\]\] 3: particles is missing"),
        ('method = "base"', 'method = "base"\nparticles = 2', "method 'base' has one particle, got 2"),
        ('"the city"', '"the book"', "prompt 'the book' twice"),
        ('"steering"', '"held-out"', "judge 'held-out' twice"),
        ("threshold = 0.2", "threshold = 1.5", "threshold is 1.5; expected a probability"),
        ('reward = "letters"', 'reward = "letters=2"', "judge 'steering' has weight 2"),
        ('rewards = ["letters"]', 'rewards = ["letters:"]', "cannot read reward 'letters:'"),
        ('rewards = ["letters"]', "rewards = []", "has no reward"),
        ('name = "words"', 'name = "words', "not TOML"),
        ('description = "a test"', "", "description is missing"),
        ('model = "', 'return = "worst"\nmodel = "', "return is 'worst'; expected 'best' or 'draw'"),
        ('prompts = ["the book", "the city", "she"]', 'prompts = "p.txt"', "cannot read prompts file"),
    ],
)
def test_mistakes(suite_file: Path, old: str, new: str, message: str) -> None:
    text = suite_file.read_text()
    assert old in text
    suite_file.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=message) as caught:
        suite.load(str(suite_file))
    assert "words" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_suites(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'toxicity'"):
        suite.load("toxcity")
    with pytest.raises(UsageError, match="No such file"):
        suite.load(str(tmp_path / "mine.toml"))
    with pytest.raises(UsageError, match=r"ends in \.toml"):
        suite.load(str(tmp_path / "mine"))


def test_check_knows_rewards_and_their_options(suite_file: Path) -> None:
    from fktext.plugins import load_plugins

    found, registry = suite.load(str(suite_file)), load_plugins()
    suite.check(found, registry)
    for spec, message in (("leters", "did you mean 'letters'"), ("letters:leter=a", "did you mean 'letter'")):
        with pytest.raises(UsageError, match=message):
            suite.check(replace(found, rewards=(spec,)), registry)
