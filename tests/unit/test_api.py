"""The call that users make: names or objects, one or several."""

import dataclasses
import typing

import pytest
import torch

import fktext
from fktext.api import Asked
from fktext.errors import UsageError
from fktext.texts.generate import generate as populations

SMALL = {"particles": 3, "length": 8, "steps": 8, "seed": 5}


def short(texts):
    return [-0.1 * len(text) for text in texts]


class Long:
    def score(self, texts):
        return torch.tensor([0.1 * len(text) for text in texts])


@pytest.fixture(scope="module")
def model():
    return fktext.load("tiny-mdlm")


def test_it_takes_what_settings_takes_and_no_other():
    hints = typing.get_type_hints(Asked)
    assert hints == typing.get_type_hints(fktext.Settings)
    assert [*hints] == [item.name for item in dataclasses.fields(fktext.Settings)]
    with pytest.raises(UsageError, match="unknown setting 'particle': did you mean 'particles'"):
        fktext.generate("tiny-mdlm", short, particle=3)


def test_one_call_gives_what_the_parts_give(model):
    term = fktext.Weighted("short", fktext.api.Function(short))
    asked = fktext.Settings(**SMALL)
    parts = [item for item in populations(model, [term], ["the cat", "a dog"], asked) if isinstance(item, fktext.Population)]
    for found in (
        fktext.generate(model, short, ["the cat", "a dog"], **SMALL),
        fktext.generate("tiny-mdlm", [short], ["the cat", "a dog"], asked),
        fktext.generate(model, term, ("the cat", "a dog"), fktext.Settings(particles=9), length=8, steps=8, particles=3, seed=5),
        [item for item in fktext.stream(model, short, ["the cat", "a dog"], **SMALL) if isinstance(item, fktext.Population)],
    ):
        assert [item.texts for item in found] == [item.texts for item in parts]
        assert [item.log_z for item in found] == [item.log_z for item in parts]
        assert [item.names for item in found] == [("short",)] * 2


def test_a_single_text_is_one_prompt_and_a_template_is_one(model):
    [one] = fktext.generate(model, short, "the sea", **SMALL)
    assert all(text.prompt == "the sea" for text in one.texts)
    [filled] = fktext.generate(model, short, fktext.Template("the {3} sat"), particles=2, seed=1)
    assert filled.template == "the {3} sat"


def test_rewards_of_all_kinds_add_up(model):
    [found] = fktext.generate(model, ["length:words=4", short, Long(), 2 * fktext.Weighted("twice", Long())], "the", **SMALL)
    assert found.names == ("length:words=4", "short", "Long", "twice")
    torch.testing.assert_close(found.rewards, found.values @ torch.tensor([1.0, 1, 1, 2], dtype=torch.float64))


def test_without_rewards_the_texts_are_the_models_own(model):
    [found] = fktext.generate(model, prompts="the cat", length=8, steps=8, seed=5)
    assert len(found.texts) == 1
    with pytest.raises(UsageError, match="'best-of-n' needs a reward"):
        fktext.generate(model, prompts="the cat", method="best-of-n")


def test_events_tell_how_far_it_is(model):
    events = list(fktext.stream(model, short, "the cat", guesses=True, **SMALL))
    assert [item.done for item in events[:-1]] == [*range(1, 9)]
    assert len(events[-1].guesses) == 8


@pytest.mark.parametrize("wrong", [7, None, [3.5]])
def test_what_is_no_reward_is_refused(model, wrong):
    with pytest.raises(UsageError, match="a reward is a spec, an object with score"):
        fktext.generate(model, wrong, "the cat")
