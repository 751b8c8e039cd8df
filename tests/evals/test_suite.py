"""Suites: what is read, and what is said about a mistake."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from fktext.errors import UsageError
from fktext_evals.suites import catalogue, suite


def test_the_embedded_suites_load_and_say_who_they_are() -> None:
    whats = ("toxicity", "cola", "perplexity", "sentiment")
    assert {*whats, *(f"paper-{what}" for what in whats), "toxicity-smoke", "cola-smoke"} <= set(catalogue.names())
    for name in catalogue.names():
        found = catalogue.load(name)
        assert found.name == name
        assert suite.parse(json.loads(json.dumps(found.as_table())), "again") == found


def test_the_main_suite() -> None:
    found = catalogue.load("toxicity")
    assert [method.key for method in found.methods] == [
        ("base", 1),
        *(("best-of-n", n) for n in (4, 8, 16, 32)),
        ("importance", 16),
        *(("fk", n) for n in (2, 4, 8, 16)),
    ]
    assert (len(found.prompts), found.samples, found.texts) == (15, 4, 600)
    assert [judge.reward for judge in found.judges[:2]] == ["toxicity", "toxicity:model=heldout-toxicity"]
    drawn = [method.key for method in found.methods if method.returns == "draw"]
    assert drawn == [("importance", 16)]


@pytest.mark.parametrize("name", catalogue.names())
def test_every_suite_has_a_judge_that_does_not_steer(name: str) -> None:
    found = catalogue.load(name)
    assert {judge.reward for judge in found.judges} - set(found.rewards)
    assert ("toxic" in found.description) == bool(found.warning)


@pytest.mark.parametrize("name", ["toxicity-smoke", "cola-smoke", "perplexity-smoke", "sentiment-smoke"])
def test_smoke_suites_have_every_method(name: str) -> None:
    methods = {(method.settings.method, method.returns, method.settings.potential) for method in catalogue.load(name).methods}
    steered = {("fk", "best", potential) for potential in ("difference", "max", "sum")}
    others = {(method, "best", "difference") for method in ("base", "best-of-n")}
    assert methods == steered | others | {("best-of-n", "draw", "difference")}


JUDGES = {
    "toxicity": [
        "toxicity:model=s-nlp/roberta_toxicity_classifier",
        "toxicity:model=textdetox/xlmr-large-toxicity-classifier",
        "cola:model=textattack/roberta-base-CoLA",
        "perplexity:model=gpt2-xl",
    ],
    "cola": ["cola:model=textattack/roberta-base-CoLA", "perplexity:model=gpt2-xl"],
    "perplexity": ["perplexity:model=gpt2", "perplexity:model=gpt2-xl"],
    "sentiment": ["classifier:model=cardiffnlp/twitter-roberta-base-sentiment,label=2,activation=softmax"],
}


@pytest.mark.parametrize("what", JUDGES)
def test_the_paper_s_settings(what: str) -> None:
    found = catalogue.load(f"paper-{what}")
    assert found.texts == 15 * 20 * 3 * 7
    assert (found.model, found.seeds, found.judge_tokens) == ("mdlm-owt", (1234, 2345, 3456), 50)
    for method in found.methods:
        settings = method.settings
        assert (settings.length, settings.steps, settings.lam, settings.resample_every) == (128, 1000, 10, 20)
        assert (settings.resampler, settings.potential, settings.x0_average) == ("multinomial", "difference", "reward")
        assert settings.ess_threshold > 1  # resample at every weighing
        assert settings.x0_samples == (16 if method.name == "fk-many" else 4)
        assert method.returns == "best"
    assert [method.key for method in found.methods if method.settings.method == "fk"] == [
        (name, n) for name in ("fk", "fk-many") for n in (4, 8)
    ]
    assert all(prompt.startswith("\n\n") for prompt in found.prompts)
    assert [judge.reward for judge in found.judges][: len(JUDGES[what])] == JUDGES[what]
    assert [found.steers(judge) for judge in found.judges] == [True] + [False] * (len(found.judges) - 1)
    assert ("max_tokens=50" in found.rewards[0]) == (what in ("toxicity", "cola"))  # its code cuts for these two alone


def test_the_paper_s_perplexity_reward_is_in_bits() -> None:
    """Its code takes 2 to the power of a loss in nats, and the logarithm of that."""
    from fktext.plugins.specs import parse_spec

    [reward] = catalogue.load("paper-perplexity").rewards
    assert parse_spec(reward).weight == pytest.approx(math.log(2), rel=1e-15)


def test_prompts_from_a_file(suite_file: Path) -> None:
    (suite_file.parent / "p.jsonl").write_text('"she"\n{"prompt": "he"}\n')
    text = suite_file.read_text().replace('prompts = ["the book", "the city", "she"]', 'prompts = "p.jsonl"')
    suite_file.write_text(text)
    assert catalogue.load(str(suite_file)).prompts == ("she", "he")


ROWS = [
    {"prompt": "she", "meta": {"text": "one"}},
    {"prompt": "he", "meta": {"text": "two"}},
    {"prompt": "it", "meta": {"text": "x"}},
]


def with_prompts(suite_file: Path, table: str) -> Path:
    suite_file.write_text(suite_file.read_text().replace('prompts = ["the book", "the city", "she"]', f"prompts = {table}"))
    return suite_file


@pytest.mark.parametrize(
    ("table", "prompts"),
    [
        ('{file = "p.jsonl"}', ("she", "he", "it")),
        ('{file = "p.jsonl", column = "meta.text", first = 2}', ("one", "two")),
        ('{file = "p.csv"}', ("she", "he, they")),
        ('{file = "p.csv", column = "other"}', ("1", "2")),
        ('{file = "p.txt"}', ("the lake", "in here")),
    ],
)
def test_prompts_by_datasets(suite_file: Path, table: str, prompts: tuple[str, ...]) -> None:
    folder = suite_file.parent
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "p.csv").write_text('prompt,other\nshe,"1"\n"he, they","2"\n'.replace('"1"', "a").replace('"2"', "b"))
    (folder / "p.txt").write_text("the lake\nin here\n")
    expected = tuple({"1": "a", "2": "b"}.get(prompt, prompt) for prompt in prompts)
    found = catalogue.load(str(with_prompts(suite_file, table)))
    assert found.prompts == expected
    assert found.as_table()["prompts"] == list(expected)  # what a run writes down says what was run, not where it lay


def test_prompts_are_shuffled_by_a_seed(suite_file: Path) -> None:
    rows = [f"prompt {number}" for number in range(50)]
    (suite_file.parent / "p.txt").write_text("\n".join(rows))
    text = suite_file.read_text()
    found = []
    for seed in (1, 1, 2):
        suite_file.write_text(text)
        found.append(catalogue.load(str(with_prompts(suite_file, f'{{file = "p.txt", shuffle = {seed}, first = 10}}'))).prompts)
    assert found[0] == found[1] != found[2]
    assert len(set(found[0]) & set(rows)) == 10
    assert found[0] != tuple(rows[:10])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('{file = "p.jsonl", hub = "a/b"}', "expected either file or hub"),
        ("{}", "expected either file or hub"),
        ('{fil = "p.jsonl"}', "'fil': did you mean 'file'"),
        ('{file = "q.jsonl"}', r"there is no file '\S+q.jsonl'"),
        ('{file = "p.jsonl", column = "nothing"}', "has no column nothing; it has prompt, meta"),
        ('{file = "p.jsonl", column = "meta"}', "meta of row 0 .* expected a text"),
        ('{file = "p.jsonl", column = "meta.tex"}', "meta.tex of row 0 .* is None; expected a text"),
        ('{file = "p.jsonl", first = 4}', "first is 4; .* has 3 rows"),
        ('{file = "p.jsonl", split = "test"}', "cannot read 'p.jsonl'"),
        ('{file = "bad.jsonl"}', "cannot read 'bad.jsonl'"),
        ('{hub = "nobody/has-this-set"}', "cannot read 'nobody/has-this-set'"),
    ],
)
def test_mistakes_in_prompts(suite_file: Path, table: str, message: str) -> None:
    (suite_file.parent / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (suite_file.parent / "bad.jsonl").write_text("{nothing\n")
    with pytest.raises(UsageError, match=message) as caught:
        catalogue.load(str(with_prompts(suite_file, table)))
    assert "\n" not in str(caught.value)


def test_what_a_method_returns(suite_file: Path) -> None:
    text = suite_file.read_text().replace('potential = "max"', 'potential = "max"\nreturn = "best"')
    suite_file.write_text(text.replace('model = "', 'return = "draw"\nmodel = "'))
    found = catalogue.load(str(suite_file))
    assert [method.returns for method in found.methods] == ["draw", "draw", "best", "best"]
    assert suite.parse(found.as_table(), "again") == found


def test_settings_of_a_method_come_before_shared_ones(suite_file: Path) -> None:
    suite_file.write_text(suite_file.read_text().replace('potential = "max"', 'potential = "max"\nsteps = 4'))
    base, _, fk, _ = catalogue.load(str(suite_file)).methods
    assert (base.settings.steps, fk.settings.steps, fk.settings.potential) == (6, 4, "max")


def test_every_method_may_stand_in_a_suite(suite_file: Path) -> None:
    text = suite_file.read_text()
    for method, more in (("svdd", "candidates = 2"), ("beam", "candidates = 2"), ("particle-gibbs", "sweeps = 3")):
        text += f'\n[[methods]]\nname = "{method}"\nmethod = "{method}"\n{more}\nparticles = [2, 4]\n'
    suite_file.write_text(text)
    found = catalogue.load(str(suite_file))
    assert [(each.name, each.asked.method, each.asked.candidates, each.asked.sweeps) for each in found.methods[-6::2]] == [
        ("svdd", "svdd", 2, 4),
        ("beam", "beam", 2, 4),
        ("particle-gibbs", "particle-gibbs", None, 3),
    ]
    assert suite.parse(found.as_table(), "again") == found
    suite_file.write_text(text.replace("particles = [2, 4]", "particles = 3", 1))
    with pytest.raises(UsageError, match=r"\[\[methods\]\] 4: particles must be a multiple of the 2 candidates"):
        catalogue.load(str(suite_file))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prompts = [", "promts = [", r"unknown key of \S+words.toml: 'promts': did you mean 'prompts'"),
        ("threshold = 0.2", "treshold = 0.2", r"\[\[judges\]\] 1: 'treshold': did you mean 'threshold'"),
        ('potential = "max"', 'potentail = "max"', r"\[\[methods\]\] 3: 'potentail': did you mean 'potential'"),
        ("steps = 6", "step = 6", r"\[settings\]: 'step': did you mean 'steps'"),
        ("steps = 6", "particles = 6", r"\[settings\]: 'particles'"),
        ("steps = 6", "steps = 0", r"\[settings\]: steps must be at least 1, got 0"),
        ("steps = 6", 'steps = 6\nresampler = "sistematic"', r"\[settings\]: unknown resampler .* did you mean 'systematic'"),
        ("steps = 6", "steps = 6.5", r"\[settings\]: steps is 6.5; expected int"),
        ('potential = "max"', 'potential = "max"\nx0_average = "men"', "x0_average is 'men'; expected 'tilt' or 'reward'"),
        ("particles = [2, 3]", 'particles = "2"', r"particles is '2'; expected int or list\[int\]"),
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
        ("threshold = 0.2", 'threshold = 0.2\nkind = "mean"', "of kind 'mean' has a threshold"),
        ("threshold = 0.2", 'kind = "meen"', "kind is 'meen'; expected 'share' or 'perplexity' or 'mean'"),
        ('potential = "max"', 'return = "bst"', "return is 'bst'; expected 'best' or 'draw'"),
        ('reward = "letters"', 'reward = "letters=2"', r"\[\[judges\]\] 1: judge 'steering' has weight 2"),
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
        catalogue.load(str(suite_file))
    assert "words" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_suites(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'toxicity'"):
        catalogue.load("toxcity")
    with pytest.raises(UsageError, match="No such file"):
        catalogue.load(str(tmp_path / "mine.toml"))
    with pytest.raises(UsageError, match=r"ends in \.toml"):
        catalogue.load(str(tmp_path / "mine"))


def test_check_knows_rewards_and_their_options(suite_file: Path) -> None:
    from fktext.plugins import load_plugins

    found, registry = catalogue.load(str(suite_file)), load_plugins()
    catalogue.check(found, registry)
    for spec, message in (("leters", "did you mean 'letters'"), ("letters:leter=a", "did you mean 'letter'")):
        with pytest.raises(UsageError, match=message):
            catalogue.check(replace(found, rewards=(spec,)), registry)


PLUGIN = """
from pathlib import Path
from fktext.plugins import hookimpl

@hookimpl
def fktext_register_suites(register):
    for name in {names}:
        register(Path(__file__).parent / name)
"""


@pytest.fixture
def brings(tmp_path: Path, suite_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install a distribution that registers files of the folder returned; a `*.toml` is made, and holds the test suite."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, *files: str, text: str | None = None) -> Path:
        module = f"suites_{uuid4().hex}"  # a module is imported once per process
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text(PLUGIN.replace("{names}", repr(files)))
        for file in files:
            if file.endswith(".toml"):
                content = suite_file.read_text() if text is None else text
                (tmp_path / module / file).write_text(content.replace('"a test"', f'"of {name}"'))
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[fktext]\nsuites = {module}\n")
        return tmp_path / module

    return make


def test_suites_of_plugins(brings: Callable[..., Path]) -> None:
    from fktext.plugins import load_plugins

    brings("fk-one", "mine.toml", "both.toml", "toxicity.toml")
    brings("fk-two", "both.toml")
    registry = load_plugins()
    assert registry.problems() == []
    assert catalogue.load("mine").description == catalogue.load("fk_one:mine", registry).description == "of fk-one"
    assert catalogue.load("fk-two:both", registry).description == "of fk-two"
    assert catalogue.load("toxicity", registry).name == "toxicity"  # no plugin takes an embedded suite's name
    assert catalogue.load("fk-one:toxicity", registry).description == "of fk-one"
    assert catalogue.source("mine", registry).startswith("\nname = ")
    with pytest.raises(UsageError, match="several distributions: write fk-one:both or fk-two:both"):
        catalogue.load("both", registry)
    with pytest.raises(UsageError, match="did you mean 'mine'"):
        catalogue.load("mne", registry)


def test_a_prompts_file_of_a_plugin_lies_beside_its_suite(brings: Callable[..., Path], suite_file: Path) -> None:
    folder = brings("fk-one", "mine.toml", text=with_prompts(suite_file, '"p.txt"').read_text())
    (folder / "p.txt").write_text("he\n")
    assert catalogue.load("mine").prompts == ("he",)


@pytest.mark.parametrize("files", [("absent",), ("a b.toml",), ("same.toml", "same.toml")])
def test_a_plugin_with_a_bad_suite_is_reported(brings: Callable[..., Path], files: tuple[str, ...]) -> None:
    from fktext.plugins import load_plugins

    brings("fk-one", *files)
    registry = load_plugins()
    assert registry.suites == ()
    [problem] = registry.problems()
    assert problem.startswith("plugin fk-one:suites failed to register what it brings: ValueError: suite")


def test_ls_lists_suites_of_plugins_and_those_that_cannot_be_read(brings: Callable[..., Path], suite_file: Path) -> None:
    from typer.testing import CliRunner

    from fktext_cli import app

    brings("fk-one", "mine.toml")
    brings("fk-two", "bad.toml", text="name = ")
    hub = with_prompts(suite_file, '{hub = "nobody/has-this-set"}').read_text()
    brings("fk-three", "far.toml", text=hub)
    result = CliRunner(env={"NO_COLOR": "1"}).invoke(app, ["eval", "ls"], prog_name="fktext")
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert lines["mine"].endswith("48 texts  of fk-one  (of plugin fk-one)")
    assert "cannot be read: suite" in lines["bad"]
    assert lines["far"].endswith("? texts  of fk-three  (of plugin fk-three)")  # nothing is fetched for a list
    assert set(catalogue.names()) < set(lines)


EXTENDS = 'extends = "{other}"\nname = "mine"\ndescription = "of my own"\n'


@pytest.fixture
def extends(suite_file: Path) -> Callable[..., Path]:
    """Write a suite that extends another, by default the test suite, beside it."""

    def write(more: str, other: str = "words.toml", name: str = "mine.toml") -> Path:
        path = suite_file.parent / name
        path.write_text(EXTENDS.replace("{other}", other) + more)
        return path

    return write


def test_a_suite_takes_over_what_it_does_not_say(extends: Callable[..., Path], suite_file: Path) -> None:
    other, found = catalogue.load(str(suite_file)), catalogue.load(str(extends("")))
    assert (found.name, found.description) == ("mine", "of my own")
    assert replace(found, name="words", description="a test") == other


def test_a_key_replaces_the_other_s_and_settings_are_put_together(extends: Callable[..., Path], suite_file: Path) -> None:
    other = catalogue.load(str(suite_file))
    found = catalogue.load(str(extends('prompts = ["he"]\n[settings]\nsteps = 4\nlam = 3.0\n')))
    assert found.prompts == ("he",)
    assert found.judges == other.judges
    settings = [method.settings for method in found.methods]
    assert {(each.steps, each.lam, each.length, each.resample_every) for each in settings} == {(4, 3.0, 8, 2)}
    found = catalogue.load(str(extends('[[methods]]\nname = "fk"\nparticles = 5\n')))
    assert [(method.key, method.settings.steps) for method in found.methods] == [(("fk", 5), 6)]  # of its methods none is left


def test_suites_extend_in_a_chain_and_by_name(extends: Callable[..., Path]) -> None:
    extends("[settings]\nlam = 3.0\nsteps = 5", name="middle.toml")
    found = catalogue.load(str(extends("[settings]\nlam = 4.0", other="middle.toml")))
    assert {(each.settings.lam, each.settings.steps, each.settings.length) for each in found.methods} == {(4.0, 5, 8)}
    path = extends('warning = ""\nsamples = 3', other="toxicity")
    other, found = catalogue.load("toxicity"), catalogue.load(str(path))
    assert (found.samples, found.warning, found.methods, found.prompts) == (3, "", other.methods, other.prompts)
    assert catalogue.summary(str(path))["texts"] == found.texts


def test_a_prompts_file_lies_beside_the_suite_that_names_it(extends: Callable[..., Path], suite_file: Path) -> None:
    (suite_file.parent / "p.txt").write_text("far\n")
    with_prompts(suite_file, '"p.txt"')
    (suite_file.parent / "below").mkdir()
    path = extends("", other="../words.toml", name="below/mine.toml")
    assert catalogue.load(str(path)).prompts == ("far",)
    (path.parent / "p.txt").write_text("near\n")
    assert catalogue.load(str(path)).prompts == ("far",)
    assert catalogue.load(str(extends('prompts = "p.txt"', other="../words.toml", name="below/mine.toml"))).prompts == ("near",)


@pytest.mark.parametrize(
    ("more", "other", "message"),
    [
        ("", "mine.toml", r"mine.toml, which extends '\S+mine.toml': it extends itself: \S+mine.toml -> \S+mine.toml$"),
        ("", "round.toml", r"it extends itself: \S+mine.toml -> \S+round.toml -> \S+mine.toml$"),
        ("", "toxcity", r"mine.toml, which extends 'toxcity': unknown suite 'toxcity': did you mean 'toxicity'"),
        ("", "gone.toml", "cannot read suite"),
        ("", "bad.toml", r"which extends '\S+bad.toml': \S+bad.toml \[\[methods\]\] 1: particles must be at least 1, got 0"),
        ("samples = 0", "words.toml", "mine.toml: suite 'mine': samples must be at least 1"),
        ("settings = 3", "words.toml", "mine.toml: settings is 3; expected table"),
        ("[settings]\nstep = 3", "words.toml", r"mine.toml \[settings\]: 'step': did you mean 'steps'"),
        ("extend = 3", "words.toml", "mine.toml: 'extend': did you mean 'extends'"),
    ],
)
def test_mistakes_of_suites_that_extend(extends: Callable[..., Path], more: str, other: str, message: str) -> None:
    extends("", other="mine.toml", name="round.toml")
    extends('[[methods]]\nname = "fk"\nparticles = 0', name="bad.toml")
    with pytest.raises(UsageError, match=message) as caught:
        catalogue.load(str(extends(more, other=other)))
    assert "\n" not in str(caught.value)


def test_what_is_extended_is_named_by_a_text(suite_file: Path) -> None:
    suite_file.write_text("extends = 3\n" + suite_file.read_text())
    with pytest.raises(UsageError, match="extends is 3; expected the name of a suite"):
        catalogue.load(str(suite_file))


def test_a_suite_of_a_plugin_extends_and_is_extended(brings: Callable[..., Path], extends: Callable[..., Path]) -> None:
    folder = brings("fk-one", "mine.toml", "base.toml")
    (folder / "mine.toml").write_text(EXTENDS.replace("{other}", "base.toml") + "samples = 5\n")
    assert catalogue.load("mine").samples == 5
    assert catalogue.load(str(extends("seeds = [1]", other="fk-one:mine"))).texts == 5 * 3 * 4
