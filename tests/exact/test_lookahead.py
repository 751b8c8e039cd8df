"""Whatever a look-ahead says of unfinished particles, the law of the result is the same."""

import pytest
import torch

from fktext.rewards import Scorer, Weighted
from fktext.smc.lookahead import Predictions, Sight, Values, judge
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.resamplers import RESAMPLERS
from fktext.smc.schedules import Every
from fktext.smc.steer import Plan, steer
from fktext.testing import lookaheads, selftest
from fktext.testing.enumerable import Enumerable
from fktext.testing.exact import ADAPTIVITY, LAM, Z_BOUND, check_law, run_case
from fktext.testing.lookaheads import random_head


def optimist(features):
    """The same for all."""
    return torch.full_like(features.unknown, 3.0)


LOOK_AHEADS = {**lookaheads.LOOK_AHEADS, "predictions": Predictions(2), "constant head": Values([optimist])}


@pytest.fixture(scope="module")
def model():
    return Enumerable()


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("name", LOOK_AHEADS)
def test_every_look_ahead_leaves_the_law_as_it_is(model, name, potential):
    result = run_case(
        model, potential, RESAMPLERS["systematic"], ADAPTIVITY["ess"], look_ahead=LOOK_AHEADS[name], populations=1500, seed=4
    )
    assert max(map(abs, check_law(model, result, LAM))) < Z_BOUND
    if name == "nothing":
        assert not any(step.resampled.any() for step in result.steps)
    elif name == "random head" and potential == "difference":
        assert any(step.resampled.any() for step in result.steps)


def test_a_product_closed_by_the_head_is_caught(model, monkeypatch):
    """Negative control: a learned value in the place of the reward at the end, as one would have who trusts it."""

    def trusting(*arguments):
        sight, state = judge(*arguments)
        return Sight(sight.samples, sight.values, sight.reward, sight.log_tilt * 0.3, sight.told), state

    monkeypatch.setattr("fktext.smc.steer.judge", trusting)
    result = run_case(model, "difference", RESAMPLERS["systematic"], ADAPTIVITY["ess"], populations=1500, seed=4)
    assert max(map(abs, check_law(model, result, LAM))) > Z_BOUND


def test_values_ask_no_reward_before_the_end(model):
    keys = [population_key(0, "calls", index) for index in range(10)]
    scorer = Scorer([Weighted("table", model.reward)])
    plan = Plan(4, Every(1), lam=LAM, look_ahead=Values([random_head]))
    steps = steer(model.process(10, 4), scorer, Noise.of(keys, 4), plan).steps
    assert [step.ledger.reward_requests for step in steps] == [0] * (len(steps) - 1) + [40]
    assert all(step.values.shape == (10, 4, 1, 1) for step in steps)
    torch.testing.assert_close(steps[0].log_w, LAM * steps[0].reward)


def test_a_head_in_the_place_of_the_reward_is_caught(model):
    result = run_case(lookaheads.trusting(model), "difference", RESAMPLERS["systematic"], ADAPTIVITY["ess"], populations=1000)
    assert max(map(abs, check_law(model, result, LAM))) > Z_BOUND


def test_the_selftest_tries_every_look_ahead():
    rows = {row.check: row for row in selftest.run(populations=200)}  # its laws are tested with more, each on its own
    assert all(row.passed for row in rows.values())
    tried = {check.partition(", look-ahead: ")[2] for check in rows} - {""}
    assert tried == {"random head", "adversary", "nothing"}
    assert {"a particle Gibbs sweep", "control: the best lineage is kept", "control: a value is trusted to the end"} <= rows.keys()
