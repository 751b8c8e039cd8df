"""Guided proposals as a user asks for them, on the embedded model."""

import pytest
import torch

import fktext
from fktext.errors import UsageError

ASKED = {"particles": 4, "seed": 1, "lam": 5.0}


@pytest.fixture(scope="module")
def model():
    return fktext.load("tiny-mdlm")


def steered(model, **asked):
    [found] = fktext.generate(model, "toxicity:target=nontoxic", "You are", **(ASKED | asked))
    return found


def test_guided_tokens_are_others_and_cost_gradients(model):
    base, guided = steered(model), steered(model, proposal="guided", guidance=20.0)
    assert guided.texts != base.texts
    assert (base.ledger.gradient_rows, guided.ledger.gradient_rows > 0) == (0, True)
    none = steered(model, proposal="guided", guidance=0.0)
    assert none.texts == base.texts
    assert none.log_z == pytest.approx(base.log_z)


def test_without_the_correction_the_tokens_are_the_same_and_the_weights_are_not(model):
    asked = {"ess_threshold": 0.0, "guidance": 20.0}  # nothing is resampled, so tokens do not depend on weights
    right, wrong = (steered(model, proposal=name, **asked) for name in ("guided", "d-cbg"))
    assert right.texts == wrong.texts
    assert (right.log_w - wrong.log_w).abs().max() > 0.1


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"look_ahead": "predictions"}, "takes its gradient from a learned value, got look_ahead 'predictions'"),
        ({"method": "best-of-n"}, "proposal 'guided' is of method 'fk', got method 'best-of-n'"),
        ({"kernel": "remdm-cap"}, "not with kernel 'remdm-cap' of model 'tiny-mdlm'"),
        ({"length": 100}, "not with kernel 'ancestral' of model 'tiny-mdlm' at length 100"),
        ({"length": 12}, "there is none: see `fktext value`"),
        ({"proposal": "guide"}, "unknown proposal 'guide'"),
    ],
)
def test_what_cannot_be_guided_is_refused(model, asked, told):
    with pytest.raises(UsageError, match=told.replace("(", r"\(")):
        steered(model, **({"proposal": "guided"} | asked))


def test_by_the_gradient_of_a_reward_tokens_are_others_and_without_strength_the_same(model):
    how = {"particles": 2, "length": 12, "steps": 8, "temperature": 1.0, "resample_every": 4, "look_ahead": "none"}
    base = steered(model, **how)
    none, some = (steered(model, **how, proposal="straight-through", guidance=strength) for strength in (0.0, 1.0))
    assert none.texts == base.texts
    assert torch.equal(none.log_w, base.log_w)
    assert none.log_z == base.log_z
    assert some.texts != base.texts
    assert some.ledger.gradient_rows > 0


@pytest.mark.parametrize("reward", ["sentiment", "length:words=5", "toxicity:part=continuation"])
def test_a_reward_without_a_gradient_says_so(model, reward):
    with pytest.raises(UsageError, match=f"needs the gradient of each reward.*; reward '{reward.partition(':')[0]}.*' has none"):
        fktext.generate(model, reward, "You are", particles=2, proposal="straight-through", look_ahead="none")


def test_a_model_without_such_proposals_says_so():
    with pytest.raises(UsageError, match="not with kernel 'simplex-sampling' of model 'tiny-ssdlm'"):
        fktext.load("tiny-ssdlm").resolve(fktext.Settings(proposal="guided"))
