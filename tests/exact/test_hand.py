"""A reward's weight that a hand changes on the way is the law's weight, where the change does not depend on what was seen."""

from collections.abc import Iterator

import pytest

from fktext.rewards import Scorer, Weighted
from fktext.smc import RESAMPLERS
from fktext.smc.hand import Hand, Handled
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.schedules import Every
from fktext.smc.steer import Plan, Step, collect, steer_steps
from fktext.testing.enumerable import Enumerable
from fktext.testing.exact import LAM, Z_BOUND, check_law

POPULATIONS, PARTICLES, AFTER = 2000, 3, 2  # AFTER: the weighing behind which the weight changes


@pytest.mark.parametrize("potential", POTENTIALS)
def test_a_weight_that_is_changed_on_the_way_is_that_of_the_law(potential: str) -> None:
    model, hand = Enumerable(), Hand(PARTICLES)
    scorer = Scorer([Weighted("table", model.reward)])
    plan = Plan(PARTICLES, Every(1), POTENTIALS[potential], RESAMPLERS["systematic"], LAM, 0.95, Predictions(2))
    keys = [population_key(0, "hand", index) for index in range(POPULATIONS)]
    process = Handled(model.process(POPULATIONS, PARTICLES), hand)
    held = hand.take(plan, scorer, populations=1)  # of one for the page; nothing is done to a particle here

    def watched() -> Iterator[Step]:
        for place, step in enumerate(steer_steps(process, scorer, Noise.of(keys, PARTICLES), held), 1):
            yield step
            if place == AFTER:
                hand.weigh({"table": -1.0})

    result = collect(watched())
    assert max(map(abs, check_law(model, result, -LAM))) < Z_BOUND
    assert max(map(abs, check_law(model, result, LAM))) > Z_BOUND  # the weight it began with
