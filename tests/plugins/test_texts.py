"""Rewards without a model: keywords, length, regex, function."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fktext.errors import RewardError, UsageError
from fktext.plugins import load_plugins
from fktext.rewards import Scorer, Text


def score(spec: str, *texts: str) -> list[float]:
    """Through the door, as the command line does it."""
    values: list[float] = Scorer([load_plugins().create(spec)])(texts)[:, 0].tolist()
    return values


def test_keywords_count_what_is_missing() -> None:
    texts = ["the sun and the sea", "The SUN.", "a sunny seaside", "", "sea-sun"]
    assert score('keywords:words="sun sea"', *texts) == [0, -1, -2, -2, 0]
    assert score('keywords:words="sun sea sun",avoid=and', *texts) == [-1, -1, -2, -2, 0]
    assert score("keywords:avoid=c++", "c", "c++", "C++!") == [0, -1, -1]  # no part of it is read as a pattern
    assert score("keywords:words=straße", "Eine STRASSE", "die Straße") == [-1, 0]


def test_keywords_need_a_word() -> None:
    registry = load_plugins()
    for spec in ("keywords", 'keywords:words=" "'):
        with pytest.raises(UsageError, match="needs words or avoid"):
            registry.create(spec)
    with pytest.raises(UsageError, match="'sun' both in words and in avoid"):
        registry.create("keywords:words=sun,avoid=Sun")
    assert registry.create('keywords:words="sun sea",avoid=rain').reward.goal == "towards the words sun, sea and away from rain"  # type: ignore[attr-defined]


def test_length() -> None:
    assert score("length:words=3", "a b c", "a b", "a  b\nc d", "", "abc") == [0, -1, -1, -3, -2]
    with pytest.raises(UsageError, match="needs words=<int>"):
        score("length", "a")
    with pytest.raises(UsageError, match="greater than or equal to 0"):
        score("length:words=-1", "a")


def test_part_is_the_continuation() -> None:
    text = Text("the sea is wide", "the sea")
    assert score("length:words=2", text, "the sea is wide") == [-2, -2]
    assert score("length:words=2,part=continuation", text, "the sea is wide") == [0, -2]
    assert score("keywords:words=sea,part=continuation", text) == [-1]
    assert score("regex:pattern=sea,part=continuation", text) == [-math.inf]


def test_a_function_s_file_is_its_provenance(here: Path) -> None:
    (here / "own_file.py").write_text("def zero(texts):\n    assert texts\n    return [0.0] * len(texts)\n")
    term = load_plugins().create("function:target=own_file:zero")
    first = term.provenance()
    assert first["model"] == "own_file:zero"
    assert len(first["digest"]) == 16
    (here / "own_file.py").write_text("def zero(texts):\n    return [1.0 for text in texts]\n")
    assert term.provenance()["digest"] != first["digest"]
    assert term.reward.score([]) == []


def test_regex() -> None:
    assert score(r"regex:pattern=\d+", "room 7", "room") == [0, -math.inf]
    assert score(r"regex:pattern=\Aroom,penalty=2.5", "room 7", "a room") == [0, -2.5]
    assert score('regex:pattern="a{1,2}=b"', "aa=b", "ab") == [0, -math.inf]
    with pytest.raises(UsageError, match=r"'\(', no regular expression: .*position 0"):
        score("regex:pattern=(", "")
    for wrong in ("0", "-1", "nan"):
        with pytest.raises(UsageError, match="greater than 0"):
            score(f"regex:pattern=a,penalty={wrong}", "")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory, forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def test_function_from_the_current_directory(here: Path) -> None:
    (here / "own_rewards.py").write_text(
        "import math\n"
        "def vowels(texts):\n    return [sum(text.count(v) for v in 'aeiou') for text in texts]\n"
        "class Tools:\n    @staticmethod\n    def prompts(texts):\n        return [float(len(text.prompt)) for text in texts]\n"
    )
    assert score("function:target=own_rewards:vowels", "a sea", "xyz") == [3, 0]
    assert score("function:target=own_rewards:Tools.prompts", Text("ab", "a"), Text("b")) == [1, 0]
    with pytest.raises(UsageError, match=r"module 'own_rewards' \(.*own_rewards.py\) has no 'vowel'"):
        score("function:target=own_rewards:vowel", "")
    with pytest.raises(UsageError, match="'own_rewards:math' is module, which cannot be called"):
        score("function:target=own_rewards:math", "")


def test_function_that_cannot_be_imported(here: Path) -> None:
    (here / "own_broken.py").write_text("import own_not_there\n")
    (here / "own_exits.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(UsageError, match="there is no module 'own_missing' here or installed"):
        score("function:target=own_missing:f", "")
    with pytest.raises(UsageError, match=r"there is no module 'json\.own_missing'"):
        score("function:target=json.own_missing:f", "")
    with pytest.raises(RewardError, match="importing 'own_broken' raised ModuleNotFoundError: No module named 'own_not_there'"):
        score("function:target=own_broken:f", "")
    with pytest.raises(RewardError, match="importing 'own_exits' raised SystemExit: 3"):
        score("function:target=own_exits:f", "")
    for wrong in ("own_broken", "own_broken:", "a b:f", "/own_broken.py:f"):
        with pytest.raises(UsageError, match=r"expected module\.path:callable|cannot read reward"):
            score(f"function:target={wrong}", "")


def test_a_file_here_takes_no_installed_module_s_place(here: Path) -> None:
    (here / "statistics.py").write_text("def mean(texts):\n    return [99.0] * len(texts)\n")
    sys.modules.pop("statistics", None)
    with pytest.raises(RewardError):  # the library's own mean: of texts, there is none
        score("function:target=statistics:mean", "a", "b")


def test_function_s_mistakes_are_said(here: Path) -> None:
    (here / "own_wrong.py").write_text(
        "def short(texts):\n    return [0.0]\n\ndef nan(texts):\n    return [float('nan')] * len(texts)\n"
    )
    with pytest.raises(RewardError, match=r"returned shape \(1,\) for 2 samples"):
        score("function:target=own_wrong:short", "a", "b")
    with pytest.raises(RewardError, match="returned nan for sample 0"):
        score("function:target=own_wrong:nan", "a", "b")
