"""Rewards without a model: keywords, length, regex, json, function."""

from __future__ import annotations

import json
import math
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fktext.errors import RewardError, UsageError
from fktext.plugins import load_plugins
from fktext.rewards import Scorer
from fktext.text import Text


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


def test_keywords_as_a_constraint() -> None:
    texts = ["the sun and the sea", "the sun", "the rain", "sun in the rain"]
    assert score('keywords:words="sun sea",penalty=inf', *texts) == [0, -math.inf, -math.inf, -math.inf]
    assert score('keywords:words="sun sea",need=any,penalty=inf', *texts) == [0, 0, -math.inf, 0]
    assert score('keywords:words="sun sea",avoid=rain,need=any,penalty=inf', *texts) == [0, 0, -math.inf, -math.inf]
    assert score('keywords:words="sun sea",avoid=rain,need=any,penalty=2', *texts) == [0, 0, -4, -2]
    assert score('keywords:words="sun sea",penalty=0.5', *texts) == [0, -0.5, -1, -0.5]
    registry = load_plugins()
    assert registry.create('keywords:words="sun sea",need=any').goal == "towards any of the words sun, sea"
    with pytest.raises(UsageError, match="need=any and no words"):
        registry.create("keywords:avoid=rain,need=any")


def test_length() -> None:
    assert score("length:words=3", "a b c", "a b", "a  b\nc d", "", "abc") == [0, -1, -1, -3, -2]
    assert score("length:words=3,penalty=inf", "a b c", "a b") == [0, -math.inf]
    with pytest.raises(UsageError, match="greater than or equal to 0"):
        score("length:words=-1", "a")


def test_length_as_a_window() -> None:
    texts = ["", "a", "a b", "a b c", "a b c d e"]
    assert score("length:min=1,max=3", *texts) == [-math.inf, 0, 0, 0, -math.inf]
    assert score("length:min=2", *texts) == [-math.inf, -math.inf, 0, 0, 0]
    assert score("length:max=0", *texts) == [0, *[-math.inf] * 4]
    assert score("length:min=2,max=3,penalty=0.5", *texts) == [-1, -0.5, 0, 0, -1]
    goals = {"words=3": "3 words", "min=3,max=3": "3 words", "min=2": "2 words or more", "max=4": "0 to 4 words"}
    for options, goal in goals.items():
        assert load_plugins().create(f"length:{options}").goal == f"towards {goal}"
    for wrong in ("length", "length:penalty=2", "length:words=3,max=4"):
        with pytest.raises(UsageError, match="needs either words or min and max: write length:words=12 or length:min=5,max=9"):
            score(wrong, "a")
    with pytest.raises(UsageError, match="min=4 and max=3: no text is that long"):
        score("length:min=4,max=3", "a")


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
    for wrong, why in (("a{99999999999}", "repetition number is too large"), ("(" * 5000, "recursion")):
        with pytest.raises(UsageError, match=why) as caught:
            score(f'regex:pattern="{wrong}"', "")
        assert len(str(caught.value)) < 300
    for wrong in ("0", "-1", "nan"):
        with pytest.raises(UsageError, match="greater than 0"):
            score(f"regex:pattern=a,penalty={wrong}", "")


def test_json() -> None:
    fine = ['{ " a " : 1 }', "[]", " 1\n", '"say"', "null", '"\ud800"', "[" * 500 + "]" * 500]
    assert score("json", *fine) == [0.0] * len(fine)
    wrong = ["", "a", "{'a': 1}", "{} {}", '{"a": 1} and more', "[1,]", "NaN", "[-Infinity]", "[" * 100_000, "\ufeff1", "9" * 9999]
    assert score("json", *wrong) == [-math.inf] * len(wrong)
    assert score("json:penalty=2", "{", "{}") == [-2, 0]
    assert score("json:part=continuation", Text("see {}", "see"), Text("{} {}", "{}")) == [0, 0]


def test_options_that_may_be_left_out_are_shown_by_their_type() -> None:
    shown = {name: option.expects for name, option in load_plugins().resolve("length").options().items()}
    assert shown == {"words": "int from 0", "min": "int from 0", "max": "int from 0", "penalty": "float above 0"}
    assert load_plugins().resolve("toxicity").options()["max_tokens"].expects == "int from 4"


def write(file: Path, schema: object) -> str:
    """A spec that reads the schema from the file."""
    file.write_text(schema if isinstance(schema, str) else json.dumps(schema))
    return f'json:schema="{file}"'


def test_json_against_a_schema(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    spec = write(
        file, {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"minimum": 3}}}
    )
    assert score(spec, '{"a": 3}', '{"a": 2}', "{}", "3", "{") == [0, *[-math.inf] * 4]
    term = load_plugins().create(spec)
    assert term.goal == f"towards JSON that is valid against {file}"
    told = term.provenance()
    assert told["model"] == str(file)
    write(file, True)
    assert load_plugins().create(spec).provenance()["digest"] != told["digest"]
    assert score(spec, "[1]", "no") == [0, -math.inf]

    items = '{"minItems": 1, "prefixItems": [{"type": "integer"}]}'  # a word of 2020-12, which draft 7 does not know
    assert score(write(file, items), "[1]", '["a"]') == [0, -math.inf]
    assert score(write(file, '{"$schema": "http://json-schema.org/draft-07/schema#",' + items[1:]), "[1]", '["a"]') == [0, 0]
    assert score(write(file, {"multipleOf": 0.1}), "1e999", "9" * 400) == [-math.inf] * 2  # too large for a float


def test_json_nested_too_deeply_for_a_schema_is_not_valid(tmp_path: Path) -> None:
    spec = write(tmp_path / "tree.json", {"$ref": "#/$defs/tree", "$defs": {"tree": {"items": {"$ref": "#/$defs/tree"}}}})
    assert score(spec, "[[[]]]", "[" * 100 + "]" * 100, "[" * 900 + "]" * 900) == [0, 0, -math.inf]


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("{", "as JSON: Expecting property name"),
        ('{"minimum": NaN}', "as JSON: NaN is no JSON"),
        ("[" * 100_000, "as JSON: maximum recursion depth"),
        ([1], r"at \$, \[1\] is not of type 'object', 'boolean'"),
        ({"properties": {"a": {"type": "objct"}}}, r"at \$.properties.a.type, 'objct'"),
        ({"$schema": "http://localhost:9/mine"}, "names no draft of JSON Schema"),
        ({"properties": {"a": {"$ref": "http://localhost:9/b.json"}}}, "'http://localhost:9/b.json', .*nothing is downloaded"),
        ({"items": {"$ref": "#/$defs/none"}}, "it refers to '#/\\$defs/none', which is not in it"),
        ({"items": {"$ref": "#/items"}}, "to itself without end"),
        ({"anyOf": [{"$ref": "#"}]}, "to itself without end"),
        ({"pattern": "("}, r"at \$.pattern, '\(' is not a 'regex'"),
        ({"pattern": "a{99999999999}"}, "repetition number is too large"),
    ],
)
def test_a_schema_that_is_wrong_is_a_wrong_request(
    schema: object, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*address: object) -> None:
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(UsageError, match=why) as caught:
        score(write(tmp_path / "schema.json", schema), "1")
    assert "\n" not in str(caught.value)


def test_a_schema_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"cannot read schema 'none.json' as JSON: No such file"):
        score("json:schema=none.json", "1")


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
    for wrong in ("own_broken", "own_broken:", "a b:f", "/own_broken:f"):
        with pytest.raises(UsageError, match=r"expected module\.path:callable|cannot read reward"):
            score(f"function:target={wrong}", "")


def test_function_from_a_file(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "own_help.py").write_text("LETTER = 'e'\n")
    (here / "sub" / "json.py").write_text(
        "import own_help\ndef count(texts):\n    return [t.count(own_help.LETTER) for t in texts]\n"
    )
    assert score("function:target=sub/json.py:count", "the eel") == [3]
    assert score(f"function:target={here}/sub/json.py:count=2", "the eel") == [3]
    assert json.loads("1") == 1, "the library's module of that name stays"
    with pytest.raises(UsageError, match=r"there is no file 'sub/own\.py' \(seen from "):
        score("function:target=sub/own.py:count", "")


def test_what_a_function_raises_is_told_with_its_line(here: Path) -> None:
    (here / "own_raises.py").write_text(
        "def inner():\n    return {}['boom']\n\ndef outer(texts):\n    return [inner() for _ in texts]\n"
    )
    (here / "own_syntax.py").write_text("\nx = (\n")
    for target in ("own_raises:outer", "own_raises.py:outer"):
        with pytest.raises(RewardError, match=r"failed: KeyError: 'boom' \(own_raises\.py:2\)$"):
            score(f"function:target={target}", "a")
    with pytest.raises(
        RewardError, match=r"importing 'own_syntax' raised SyntaxError: '\(' was never closed \(own_syntax\.py:2\)$"
    ):
        score("function:target=own_syntax:f", "a")


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
