"""Every built-in reward that works offline passes `RewardConformance`, and rewards that break a rule do not."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fktext.plugins import load_plugins
from fktext.rewards import Reward, RewardContext, Text
from fktext.testing import RewardConformance

SPECS = [
    'keywords:words="book lake",avoid=fool',
    "length:words=3",
    "length:words=3,part=continuation",
    r"regex:pattern=\bthe\b",
    "regex:pattern=zz,penalty=3",
    "toxicity:model=heldout-toxicity,target=nontoxic",
    "toxicity",
]


@functools.cache
def built_in(spec: str) -> Reward:
    return load_plugins().create(spec, RewardContext(offline=True, batch_size=4)).reward


class TestBuiltIn(RewardConformance):
    @pytest.fixture(params=SPECS)
    def reward(self, request: pytest.FixtureRequest) -> Reward:
        return built_in(request.param)


class Own:
    """A reward that is a function of all samples of a call."""

    def __init__(self, score: Callable[[Sequence[str]], list[float]]) -> None:
        self.score = score


def lengths(samples: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in samples]


BROKEN: dict[str, Callable[[Sequence[str]], list[float]]] = {
    "test_one_sample": lambda samples: lengths(samples) if len(samples) > 1 else [0.0, 0.0],
    "test_equal_samples": lambda samples: [float(index) for index, _ in enumerate(samples)],
    "test_order": lambda samples: sorted(lengths(samples)),
    "test_batch_equals_singles": lambda samples: [value - sum(lengths(samples)) for value in lengths(samples)],
    "test_finite_or_minus_infinity": lambda samples: [math.log(len(text)) if text else math.nan for text in samples],
    "test_text_and_str_alike": lambda samples: [float(isinstance(text, Text)) for text in samples],
}


def test_a_control_passes() -> None:
    for name in BROKEN:
        getattr(RewardConformance(), name)(Own(lengths))


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_a_rule_is_caught(name: str) -> None:
    with pytest.raises(AssertionError):
        getattr(RewardConformance(), name)(Own(BROKEN[name]))


def test_every_rule_has_such_a_control() -> None:
    assert {name for name in dir(RewardConformance) if name.startswith("test_")} == set(BROKEN)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "toxicity"])
@given(texts=st.lists(st.text(), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_any_text_has_a_value(spec: str, texts: list[str]) -> None:
    values = RewardConformance().values(built_in(spec), [Text(text, text[:1]) for text in texts])
    assert not values.isnan().any()
    assert (values <= 0).all()
