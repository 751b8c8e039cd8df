"""Kernels, potentials, schedules, resamplers and look-aheads as objects: the same as by name, and told where they are not."""

import json
from functools import partial

import pytest

import fktext
from fktext.errors import UsageError
from fktext.masked.first_hitting import FirstHitting
from fktext.masked.kernels import KERNELS, Kernel
from fktext.settings import Part, described
from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import Nothing, Predictions
from fktext.smc.potentials import POTENTIALS
from fktext.smc.schedules import At, Every

ASKED = {"particles": 4, "length": 9, "steps": 12, "seed": 6, "lam": 3, "resample_every": 4, "ess_threshold": 1.1}


def late(texts):
    return [float(text.count("e")) for text in texts]


@pytest.fixture(scope="module")
def model():
    return fktext.load("tiny-mdlm")


@pytest.mark.parametrize(
    ("setting", "name", "part"),
    [
        ("kernel", "first-hitting", KERNELS["first-hitting"]),
        ("kernel", "first-hitting", Part("mine", Kernel("mine", FirstHitting))),
        ("potential", "max", POTENTIALS["max"]),
        ("resampler", "residual", RESAMPLERS["residual"]),
        ("schedule", None, Every(4)),
        ("look_ahead", "none", Nothing()),
        ("look_ahead", "predictions", Part("guesses", Predictions(4))),
    ],
)
def test_an_object_does_what_its_name_does(model, setting, name, part):
    named = {} if name is None else {setting: name}
    [one] = fktext.generate(model, late, "the sea", **(ASKED | named))
    [other] = fktext.generate(model, late, "the sea", **(ASKED | {setting: part}))
    assert (one.texts, one.log_z) == (other.texts, other.log_z)


def test_a_schedule_comes_before_the_cadence(model):
    [found] = fktext.generate(model, late, "the sea", **(ASKED | {"schedule": At([2, 3])}))
    assert [step.k for step in found.steps] == [2, 3, 12]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"potential": "diference"}, "unknown potential 'diference': did you mean 'difference'"),
        ({"potential": 3}, "potential is a int, which has no init: 3"),
        ({"potential": lambda tilt, carry: (tilt, carry)}, "potential is a function, which has no init"),
        ({"resampler": print}, "resampler is a builtin_function_or_method, which has no counts"),
        ({"schedule": 5}, "schedule is a int, which has no weighings"),
        ({"schedule": "later"}, "unknown schedule 'later'"),
        ({"look_ahead": 3}, "look_ahead is a int, which has no __call__"),
        ({"kernel": FirstHitting}, "kernel is a type, which has no name"),
    ],
)
def test_what_is_no_part_is_told_by_what_it_lacks(asked, error):
    with pytest.raises(UsageError, match=error):
        fktext.Settings(**asked)


def test_a_simplex_model_takes_no_kernel_of_masked_ones():
    with pytest.raises(UsageError, match="unknown kernel of model 'tiny-ssdlm': 'ancestral'"):
        fktext.load("tiny-ssdlm").resolve(fktext.Settings(kernel=KERNELS["ancestral"]))


def test_a_kernel_that_cannot_be_steered_is_refused_as_an_object_too(model):
    blind = Kernel("blind", partial(FirstHitting), steerable=False)
    with pytest.raises(UsageError, match="kernel 'blind' cannot be steered"):
        model.resolve(fktext.Settings(kernel=blind))


def test_settings_with_objects_are_written_down(model):
    asked = fktext.Settings(
        potential=POTENTIALS["max"], schedule=Every(3), look_ahead=Part("mine", Nothing()), kernel="any-order", lam=2
    )
    for told in (described(asked), described(model.resolve(asked))):
        assert json.loads(json.dumps(told)) == told
        assert told["potential"] == "fktext.smc.potentials.Max"
        assert told["schedule"] == "Every(n=3, start=0, end=None)"
        assert (told["look_ahead"], told["kernel"], told["resampler"], told["lam"]) == ("mine", "any-order", "systematic", 2)
