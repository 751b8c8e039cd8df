"""The one-line grammar of a reward."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from itertools import chain, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fktext.errors import RewardError, UsageError
from fktext.plugins import load_plugins
from fktext.plugins.specs import Spec, parse_spec

WORD = string.ascii_letters + string.digits
names = st.builds(str.__add__, st.sampled_from(WORD), st.text(WORD + "._-", max_size=12))
keys = st.builds(str.__add__, st.sampled_from(string.ascii_letters + "_"), st.text(WORD + "_", max_size=8))
weights = st.floats(allow_nan=False, allow_infinity=False).filter(bool)
specs = st.builds(
    Spec,
    st.one_of(names, st.builds("{}:{}".format, names, names)),
    st.lists(st.tuples(keys, st.one_of(st.text(), st.text('",=: x'))), max_size=4, unique_by=lambda pair: pair[0]).map(tuple),
    st.one_of(st.just(1.0), weights),
)


@given(specs)
def test_what_is_written_is_read_back(spec: Spec) -> None:
    assert parse_spec(str(spec)) == spec


few = st.builds(
    Spec,
    st.sampled_from(["a", "b", "a:b", "b:a"]),
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["", "b", "1.0", "b=2", "b:", '"'])),
        max_size=2,
        unique_by=lambda pair: pair[0],
    ).map(tuple),
    st.sampled_from([1.0, 2.0]),
)


@given(few, few)
def test_no_two_specs_are_written_alike(one: Spec, other: Spec) -> None:
    assert (str(one) == str(other)) == (one == other)


def test_the_grammar_reads_no_text_in_two_ways() -> None:
    """The two lines of the docstring's grammar, as patterns of their own, over every short text."""
    name, key, value, weight = "[a1]+", "a[a1]*", r'(?:[a1:]+(?:,[a1:]+(?=,|\Z))*|"(?:[a1:,=]|"")*")', "1+"
    options = f"{key}={value}(?:,{key}={value})*"
    plain = re.compile(f"{name}(?::{options})?(?:={weight})?")
    qualified = re.compile(f"{name}:{name}(?::{options}(?:={weight})?|:={weight})?")
    read = 0
    for text in map("".join, chain.from_iterable(product('a1:=,"', repeat=size) for size in range(7))):
        ways = [bool(pattern.fullmatch(text)) for pattern in (plain, qualified)]
        assert sum(ways) < 2, text
        try:
            spec = parse_spec(text)
        except UsageError:
            assert not any(ways), text
        else:
            assert ways == [":" not in spec.name, ":" in spec.name], text
            read += 1
    assert read > 400


@given(st.text(WORD + '.:,="- ', max_size=20))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        spec = parse_spec(text)
    except UsageError as error:
        assert text in str(error) or repr(text) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert parse_spec(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("toxicity", Spec("toxicity")),
        ("cola=0.5", Spec("cola", weight=0.5)),
        ("cola=-1e-3", Spec("cola", weight=-0.001)),
        ("toxicity:target=nontoxic=2", Spec("toxicity", (("target", "nontoxic"),), 2.0)),
        ("keywords:words=lake,city", Spec("keywords", (("words", "lake,city"),))),
        ("keywords:words=lake, old city,penalty=2", Spec("keywords", (("words", "lake, old city"), ("penalty", "2")))),
        ('keywords:words="lake,city"=2', Spec("keywords", (("words", "lake,city"),), 2.0)),
        ("regex:pattern=a{2,3}", Spec("regex", (("pattern", "a{2,3}"),))),
        ("toxicity:model=a/b,target=toxic", Spec("toxicity", (("model", "a/b"), ("target", "toxic")))),
        ("toxicity:model=C:/a b/c.ckpt", Spec("toxicity", (("model", "C:/a b/c.ckpt"),))),
        ('toxicity:model="a,b=c:d"=2', Spec("toxicity", (("model", "a,b=c:d"),), 2.0)),
        ('lexicon:word=""', Spec("lexicon", (("word", ""),))),
        ('lexicon:word="say ""hi"""', Spec("lexicon", (("word", 'say "hi"'),))),
        ("dist:name", Spec("dist:name")),
        ("dist:name:opt=v", Spec("dist:name", (("opt", "v"),))),
        ("dist:name:=2", Spec("dist:name", weight=2.0)),
    ],
)
def test_examples(text: str, spec: Spec) -> None:
    assert parse_spec(text) == spec


def test_one_colon_makes_an_option_and_a_second_one_a_weight() -> None:
    assert parse_spec("a:b=3") == Spec("a", (("b", "3"),))
    assert parse_spec("a:b:=3") == Spec("a:b", weight=3.0)
    with pytest.raises(UsageError, match=r"expected option=value \(a weight of the reward 'b-c' of 'a' is written a:b-c:=2\)"):
        parse_spec("a:b-c=3")


@pytest.mark.parametrize(
    ("text", "at", "expected"),
    [
        ("", 1, "a reward name"),
        (" cola", 1, "a reward name"),
        ("cola ", 5, "':' or '=' or the end"),
        ("cola:", 6, "option=value"),
        ("cola:target", None, ""),  # a qualified name, not an error
        ("cola:=2", 6, "option=value"),
        ("cola:x=1,", 10, "option=value"),
        ("cola:x=1,,y", 10, "option=value"),
        ('cola:x=1,y"', 10, "option=value"),
        ("cola:x=", 8, "a value of option 'x'"),
        ('cola:x="a', 8, "a value of option 'x'"),
        ('cola:x="a"b', 11, "',' or '=' or the end"),
        ("cola=", 6, "a number, the weight"),
        ("cola=x", 6, "a number, the weight"),
        ("cola:x=a=b", 10, "written in double quotes"),
        ("cola=0", 6, "finite and not 0"),
        ("cola=nan", 6, "finite and not 0"),
        ("cola=inf", 6, "finite and not 0"),
    ],
)
def test_errors_say_where_and_what_was_expected(text: str, at: int | None, expected: str) -> None:
    if at is None:
        assert parse_spec(text) == Spec(text)
        return
    with pytest.raises(UsageError, match=f"at character {at} ") as caught:
        parse_spec(text)
    assert expected in str(caught.value)


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="'x' is given twice"):
        parse_spec("cola:x=1,x=2")


def test_a_reward_that_cannot_say_its_goal_is_named_when_it_is_made(fake_dist: Callable[..., str]) -> None:
    body = """
        class Mute(Constant):
            @property
            def goal(self):
                raise RuntimeError("goal")
        @hookimpl
        def fktext_register_rewards(register):
            register("mute", lambda context: Mute(), summary="mute")
        """
    fake_dist("fk-mute", body)
    for spec in ("mute", "mute:part=continuation"):
        with pytest.raises(RewardError, match=rf"^reward {spec!r}: its goal raised RuntimeError: goal$"):
            load_plugins().create(spec)


def test_a_list_that_a_weight_was_cut_from_is_told_how_to_be_written() -> None:
    with pytest.raises(UsageError, match=r"'city'.* \(if 'city' is of the list 'words', write words=\"lake,city\"=2\)$"):
        load_plugins().create("keywords:words=lake,city=2")
    assert load_plugins().create('keywords:words="lake,city"=2').weight == 2


def test_words_are_separated_by_spaces_or_commas() -> None:
    values = [load_plugins().create(f"keywords:words={words}").reward.score(["the lake"]) for words in ("lake,city", "lake city")]
    assert values == [[-1.0], [-1.0]]
