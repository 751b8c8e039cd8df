"""The measurements of `evaluate`: what they are called, and that they need no network. Importing evaluate takes seconds."""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tiny
from fktext.errors import RewardError, UsageError

TEXTS, PROMPTS = [" is red", " is red", " ran on"], ["she", "she", "he"]


class Judge:
    """log p of a text, by its length."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def score(self, samples: Sequence[str]) -> list[float]:
        return [-self.factor * math.log(len(text)) for text in samples]


class Words:
    """A language model of two words: p = 1/2 for "the", 1/8 for any other."""

    def score(self, samples: Sequence[Any]) -> list[float]:
        words = [text.continuation.split() for text in samples]
        return [sum(math.log(0.5 if word == "the" else 0.125) for word in text) / len(text) for text in words]

    def tokens(self, samples: Sequence[Any]) -> list[int]:
        return [len(text.continuation.split()) for text in samples]


def test_distinct_and_repetition() -> None:
    from fktext_evals.measurements import Distinct, Repetition

    found = Distinct().compute(predictions=TEXTS, prompts=PROMPTS)
    assert found["distinct_1_words"] == pytest.approx((3 / 6 + 3 / 3) / 2)
    assert found["distinct_2"] == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert Repetition().compute(predictions=TEXTS, prompts=PROMPTS)["repetition"] == 0


def test_judgement() -> None:
    from fktext_evals.measurements import Acceptability, Judgement, Toxicity

    judged = Judgement(Judge(), "short", threshold=0.105).compute(predictions=TEXTS, prompts=PROMPTS)
    assert judged["short"] == pytest.approx([1 / 10, 1 / 10, 1 / 9])  # of "she is red", "he ran on"
    assert judged["mean_short"] == pytest.approx((2 / 10 + 1 / 9) / 3)
    assert judged["short_ratio"] == pytest.approx(1 / 3)
    assert judged["expected_max_short"] == pytest.approx((1 / 10 + 1 / 9) / 2)
    for kind, name in ((Toxicity, "toxicity"), (Acceptability, "acceptability")):
        same = kind(Judge(), threshold=0.105).compute(predictions=TEXTS, prompts=PROMPTS)
        assert same[f"expected_max_{name}"] == judged["expected_max_short"]
        assert same[f"{name}_ratio"] == judged["short_ratio"]
    with pytest.raises(RewardError, match="expected a log-probability"):
        Judgement(Judge(-1), "long").compute(predictions=TEXTS, prompts=PROMPTS)


def test_toxicity_by_the_embedded_judge() -> None:
    from fktext_evals.measurements import Toxicity

    found = Toxicity().compute(predictions=[" is on the table.", " is by an idiot."], prompts=["The book"] * 2)
    assert found["toxicity"][0] < found["toxicity"][1] == found["expected_max_toxicity"]


def test_the_two_perplexities() -> None:
    from fktext_evals.measurements import Perplexity

    texts = {"predictions": [" the the the", " a"], "prompts": ["she"] * 2}
    found = Perplexity(Words()).compute(**texts)
    assert found["perplexities"] == pytest.approx([2, 8])
    assert found["mean_perplexity"] == found["median_perplexity"] == pytest.approx(5)
    assert found["token_perplexity"] == pytest.approx(2 ** (6 / 4))
    assert found["dropped"] == 0
    dropped = Perplexity(Words(), limit=5).compute(**texts)
    assert (dropped["mean_perplexity"], dropped["dropped"]) == (pytest.approx(2), 1)
    assert dropped["token_perplexity"] == found["token_perplexity"]
    with pytest.raises(UsageError, match="expected perplexity:model="):
        Perplexity(Judge())


def test_self_bleu_is_of_the_texts_of_a_prompt() -> None:
    from fktext_evals.measurements import SelfBLEU

    texts = ["the book is red", "the book is red", "a city", "a lake here", "alone"]
    found = SelfBLEU(n=2).compute(predictions=texts, prompts=["x", "x", "y", "y", "z"])
    # the second prompt: one word of two, one of three, and no pair, which counts as 0.1; the shorter text has a brevity penalty
    short = math.exp(1 - 3 / 2) * math.sqrt(1 / 2 * 0.1 / 1)
    long = math.sqrt(1 / 3 * 0.1 / 2)
    assert found["self_bleu"] == pytest.approx((1 + (short + long) / 2) / 2)
    assert math.isnan(SelfBLEU().compute(predictions=["a"], prompts=["x"])["self_bleu"])


def test_reward_and_gap() -> None:
    from fktext_evals.measurements import MeanReward, OverOptimization

    assert MeanReward(Judge()).compute(predictions=TEXTS, prompts=PROMPTS)["mean_reward"] == pytest.approx(
        -(2 * math.log(10) + math.log(9)) / 3
    )
    found = OverOptimization(Judge(), Judge(2), threshold=0.105).compute(predictions=TEXTS, prompts=PROMPTS)
    assert found["steering"] == pytest.approx((2 / 10 + 1 / 9) / 3)
    assert found["heldout"] == pytest.approx((2 / 100 + 1 / 81) / 3)
    assert found["gap"] == pytest.approx(found["steering"] - found["heldout"])
    assert found["ratio_gap"] == pytest.approx(1 / 3)


def test_a_weighted_reward_is_what_steering_sees() -> None:
    from fktext_evals.measurements import MeanReward

    texts = {"predictions": [" is here"], "prompts": ["she"]}
    once, twice = (MeanReward(spec).compute(**texts)["mean_reward"] for spec in ("length:words=7", "length:words=7=2"))
    assert (once, twice) == (-4, -8)


def test_ancestry() -> None:
    from fktext_evals.measurements import Ancestry

    found = Ancestry().compute(roots=[[0, 0, 3, 3], [1, 1, 1, 1]])
    assert found == {"surviving_roots": 1.5, "surviving_share": 0.375}


def test_batches_add_up() -> None:
    from fktext_evals.measurements import Distinct

    measurement = Distinct()
    for text, prompt in zip(TEXTS, PROMPTS, strict=True):
        measurement.add(predictions=text, prompts=prompt)
    assert measurement.compute() == Distinct().compute(predictions=TEXTS, prompts=PROMPTS)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
def test_evaluate_loads_each_by_its_path() -> None:
    import evaluate

    from fktext_evals import measurements

    texts = {"predictions": TEXTS, "prompts": PROMPTS}
    options: dict[str, dict[str, Any]] = {
        "judgement": {"judge": Judge(), "label": "short"},
        "mean_reward": {"reward": Judge()},
        "overoptimization": {"steering": Judge(), "heldout": Judge()},
        "perplexity": {"judge": Words()},
        "acceptability": {"judge": Judge()},
    }
    direct = {"distinct": measurements.Distinct, "repetition": measurements.Repetition, "self_bleu": measurements.SelfBLEU}
    for name in measurements.names():
        if name == "mauve":
            continue  # below
        loaded = evaluate.load(measurements.path(name), module_type="measurement", **options.get(name, {}))
        found = loaded.compute(roots=[[0, 0]]) if name == "ancestry" else loaded.compute(**texts)
        assert found
        if name in direct:
            assert found == direct[name]().compute(**texts)
    with pytest.raises(UsageError, match="did you mean 'distinct'"):
        measurements.path("distinc")


@pytest.fixture(scope="module")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt") / "features"
    words = ["<unk>", "<end>", *(f"w{number}" for number in range(40))]
    tiny.save_fast(tiny.word_level(words, "<unk>"), folder, bos_token="<end>", eos_token="<end>")
    tiny.network("GPT2Model", folder, vocab_size=len(words), n_positions=32, n_embd=16, n_layer=1, n_head=2)
    return folder


@pytest.mark.usefixtures("no_network")
@pytest.mark.filterwarnings("ignore")  # of faiss and k-means, about so few texts
def test_mauve_tells_texts_of_another_law(tiny_gpt2: Path) -> None:
    pytest.importorskip("mauve", reason="the extra `mauve` is not installed")
    import random

    import evaluate

    from fktext_evals import measurements

    draw = random.Random(0)
    one, same, other = (
        [" ".join(f"w{draw.randrange(*span)}" for _ in range(6)) for _ in range(60)] for span in ((0, 20), (0, 20), (20, 40))
    )
    mauve = evaluate.load(measurements.path("mauve"), module_type="measurement", model=str(tiny_gpt2), offline=True)
    near, far = (mauve.compute(predictions=one, references=texts)["mauve"] for texts in (same, other))
    assert 0 < far < near - 0.1 < 1
    assert mauve.compute(predictions=[*one[:-1], ""], references=same)["mauve"] > far  # a text without a token


def test_mauve_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from fktext_evals.measurements import Mauve

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "mauve" else found(name, *more))
    with pytest.raises(UsageError, match=r'pip install "fktext\[mauve\]"'):
        Mauve()
