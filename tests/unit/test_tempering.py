"""How far a tilt is raised at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fktext.errors import PopulationError, UsageError
from fktext.rewards import Scorer, Weighted
from fktext.settings import Run, Settings
from fktext.smc import ess
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.schedules import Every
from fktext.smc.steer import Plan, steer
from fktext.smc.tempering import temper
from fktext.testing.enumerable import Enumerable

MODEL = Enumerable()
numbers = st.lists(st.floats(-50, 50), min_size=2, max_size=6)


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def start(populations=1):
    return torch.zeros(populations, dtype=torch.float64)


def run(particles, populations=40, lam=4.0, potential="difference", **plan):
    keys = [population_key(0, index) for index in range(populations)]
    plan = Plan(particles, Every(1), POTENTIALS[potential], lam=lam, look_ahead=Predictions(2), **plan)
    scorer = Scorer([Weighted("table", MODEL.reward)])
    return steer(MODEL.process(populations, particles), scorer, Noise.of(keys, particles), plan)


@given(numbers, st.floats(0.01, 0.99), st.floats(0, 1))
def test_the_share_is_kept_and_all_of_it_is_used(values, share, before):
    log_phi, tau = row(*values), torch.tensor([before], dtype=torch.float64)
    base = tau[:, None] * log_phi  # weights were reset at this very tilt: all are equal where tau stays
    found, tempered = temper(log_phi, base, tau, share)
    assert before <= found <= 1
    assert torch.equal(tempered, found[:, None] * log_phi)
    assert ess(tempered - base) >= share * len(values) * (1 - 1e-12)
    more = (found + 1e-6).clamp(max=1)
    assert found == 1 or ess(more[:, None] * log_phi - base) < share * len(values)


def test_a_population_that_has_too_few_already_stays_where_it_is():
    log_phi, base = row(0.0, 5.0), row(0.0, -9.0)
    found, tempered = temper(log_phi, base, torch.tensor([0.3], dtype=torch.float64), 0.9)
    assert found == 0.3
    assert torch.equal(tempered, 0.3 * log_phi)


def test_rows_do_not_see_each_other():
    log_phi = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
    whole = temper(log_phi, 0 * log_phi, start(5), 0.6)[0]
    assert len(whole.unique()) == 5
    assert torch.equal(whole, torch.cat([temper(part, 0 * part, start(), 0.6)[0] for part in log_phi.split(1)]))


def test_without_a_share_everything_is_weighed_in_full():
    log_phi = row(-torch.inf, 3.0, 0.1)
    found, tempered = temper(log_phi, 0 * log_phi, start(), None)
    assert found == 1
    assert tempered is log_phi  # the very bits


def test_a_tilt_of_minus_infinity_is_never_nan():
    """Half of four particles are impossible: no tau but 0 leaves three, and phi to the power of 0 is 1."""
    found, tempered = temper(row(0.0, 1.0, -torch.inf, -torch.inf), row(0.0, 0.0, 0.0, 0.0), start(), 0.75)
    assert found == 0
    assert (tempered == 0).all()


def test_the_device_is_not_waited_for():
    """A meta tensor has no numbers to look at."""
    log_phi = torch.empty(2, 3, device="meta")
    assert temper(log_phi, log_phi, log_phi[:, 0], 0.5)[0].shape == (2,)


@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
def test_a_run_keeps_the_share_until_the_last_weighing(potential):
    plain, held = (run(8, potential=potential, ess_threshold=1.1, temper=share) for share in (None, 0.6))
    assert min(step.ess.min() for step in plain.steps[:-1]) < 0.5 * 8
    assert all((step.tau == 1).all() for step in plain.steps)
    before = start(40)
    for step in held.steps[:-1]:
        risen = step.tau > before
        assert (step.ess[risen] >= 0.6 * 8 * (1 - 1e-12)).all()
        assert (step.tau >= before).all()
        before = step.tau
    assert 0 < held.steps[0].tau.min() < 0.9
    assert len(held.steps[0].tau.unique()) > 5
    assert (held.steps[-1].tau == 1).all()
    assert held.steps[1].of(3).tau == held.steps[1].tau[3]


@pytest.mark.parametrize(
    ("particles", "settings"), [(1, {}), (6, {"lam": 0.0}), (6, {"potential": "terminal"}), (6, {"temper": 1e-6})]
)
def test_where_nothing_is_lost_nothing_is_held_back(particles, settings):
    plain, held = run(particles, **(settings | {"temper": None})), run(particles, **({"temper": 0.4} | settings))
    assert held.samples == plain.samples
    for one, other in zip(plain.steps, held.steps, strict=True):
        assert torch.equal(one.log_w, other.log_w)
        assert (other.tau == 1).all()


@pytest.mark.parametrize("share", [None, 0.4])
def test_a_weight_beyond_any_number_is_the_same_error(share):
    class Huge:
        def score(self, samples):
            return [1e200 if sample[0] == "1" else 0.0 for sample in samples]

    plan = Plan(6, Every(1), POTENTIALS["sum"], lam=1e108, temper=share)
    scorer, noise = Scorer([Weighted("huge", Huge())]), Noise.of([population_key(0, 0)], 6)
    with pytest.raises(PopulationError, match=r"a log-weight is inf at step \d: lambda times the reward is beyond any number"):
        steer(MODEL.process(1, 6), scorer, noise, plan)


def test_a_setting_says_it_to_the_engine():
    assert Run.of(Settings(), 10).plan().temper is None
    assert Run.of(Settings(temper=0.3), 10).plan().temper == 0.3


@pytest.mark.parametrize("bad", [{"temper": 0.0}, {"temper": 1.0}, {"temper": 0.9}, {"temper": 0.2, "ess_threshold": 0.1}])
def test_a_share_that_makes_no_sense_is_refused(bad):
    with pytest.raises(UsageError, match="temper must be "):
        Settings(**bad)
