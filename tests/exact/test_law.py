"""The weighted sample is unbiased for the tilted law, and what is wrong is seen to be wrong."""

import pytest
import torch

from fktext.rewards import Scorer, Weighted
from fktext.smc import RESAMPLERS, ess, log_mean_exp, log_normalize
from fktext.smc import noise as streams
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS, Terminal
from fktext.smc.process import gather
from fktext.smc.resamplers import Resampler
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, Result, steer
from fktext.testing.dense import DenseAncestral
from fktext.testing.enumerable import Enumerable
from fktext.testing.exact import ADAPTIVITY, LAM, Z_BOUND, check_law, run_case


@pytest.fixture(scope="module")
def model():
    return Enumerable()


def frequencies(model, texts):
    place = {text: index for index, text in enumerate(model.texts)}
    return torch.bincount(torch.tensor([place[text] for text in texts]), minlength=len(model.texts)).double() / len(texts)


def z_scores(model, texts):
    return (frequencies(model, texts) - model.law) / (model.law * (1 - model.law) / len(texts)).sqrt()


@pytest.mark.parametrize("adaptivity", ADAPTIVITY)
@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("potential", POTENTIALS)
def test_every_potential_resampler_and_adaptivity_is_unbiased(model, potential, resampler, adaptivity):
    result = run_case(model, potential, RESAMPLERS[resampler], ADAPTIVITY[adaptivity], populations=1200)
    z_norm, z_law = check_law(model, result, LAM)
    assert abs(z_norm) < Z_BOUND
    assert z_law < Z_BOUND
    share = torch.stack([step.resampled for step in result.steps[:-1]]).double().mean()
    low, high = {"never": (0, 0), "always": (1, 1), "ess": (0, 0) if potential == "terminal" else (0.1, 0.9)}[adaptivity]
    assert low <= share <= high  # "ess" really mixes populations that resample with populations that carry their weights


@pytest.mark.parametrize(
    "settings", [{"schedule": Every(2)}, {"schedule": At([1, 3])}, {"look_ahead": Predictions(1)}, {"particles": 8}]
)
def test_schedules_predictions_and_particle_numbers_do_not_change_the_law(model, settings):
    result = run_case(model, "difference", RESAMPLERS["systematic"], 0.7, populations=1500, seed=1, **settings)
    assert max(map(abs, check_law(model, result, LAM))) < Z_BOUND


def test_weights_forgotten_when_not_resampling_are_caught(model):
    """Negative control: below the threshold resample, above it drop the weights, as adaptive resampling is often written."""

    def forgetful(weights, uniforms):
        kept = torch.ones_like(weights, dtype=torch.int64)
        low = ess(weights.log()) < 0.5 * weights.shape[-1]
        return torch.where(low[:, None], RESAMPLERS["systematic"].counts(weights, uniforms), kept)

    wrong = Resampler("forgetful", forgetful, lambda size: 1)
    result = run_case(model, "difference", wrong, ADAPTIVITY["always"], populations=1000, lam=1.0)
    assert check_law(model, result, 1.0)[1] > 2 * Z_BOUND
    right = run_case(model, "difference", RESAMPLERS["systematic"], 0.5, populations=1000, lam=1.0)
    assert check_law(model, right, 1.0)[1] < Z_BOUND


def published(process, scorer, noise, potential, lam, particles):
    """The published loop: resample at every weighing, and weigh the finished text by the potential like any other prediction."""
    populations = len(noise.key) // particles
    log_z = torch.zeros(populations, dtype=torch.float64)
    state, carry, before = process.init(noise), potential.init(log_z[:, None].expand(-1, particles)), 0.0
    for k in range(1, process.num_steps + 1):
        state = process.advance(state, k - 1, k, noise)
        x0, state = process.predict(state, k, noise, 1)
        samples = process.decode(x0)
        log_tilt = lam * scorer.total(scorer(samples)).reshape(populations, particles)
        log_phi, carry = potential(log_tilt, carry)
        log_w, before = log_phi - before, log_phi
        log_z = log_z + log_mean_exp(log_w)
        if k < process.num_steps:
            uniforms = noise.populations(streams.RESAMPLE, k, particles, particles)
            ancestors = RESAMPLERS["multinomial"](log_w, uniforms)
            before, carry = before.gather(1, ancestors), tuple(part.gather(1, ancestors) for part in carry)
            state = gather(state, (ancestors + particles * torch.arange(populations)[:, None]).flatten())
    empty = torch.zeros(populations, particles)
    return Result(samples, empty, empty, log_normalize(log_w), log_z, empty, (), process.ledger)


@pytest.mark.parametrize(("potential", "right"), [("difference", True), ("max", False), ("sum", False)])
def test_a_product_that_is_not_closed_aims_at_another_law(model, potential, right):
    """Negative control: the published closing of `max` and `sum`, with their running statistic in the place of the reward."""
    noise = Noise.of([population_key(0, "published", index) for index in range(3000)], 3)
    scorer = Scorer([Weighted("table", model.reward)])
    result = published(model.process(3000, 3), scorer, noise, POTENTIALS[potential], LAM, 3)
    worst = max(map(abs, check_law(model, result, LAM)))
    assert (worst < Z_BOUND) if right else (worst > 2 * Z_BOUND)


def test_lazy_sampler_has_the_law_of_the_dense_one(model):
    """Both samplers of the base model against the listed law: 60,000 texts each."""
    particles = 60_000
    noise = Noise.of([population_key(0, "base")], particles)
    process = model.process(1, particles)
    lazy = process.decode(process.advance(process.init(noise), 0, model.num_steps, noise).ids)
    assert z_scores(model, lazy).abs().max() < Z_BOUND
    templates = torch.full((1, model.length), model.denoiser.mask_id)
    dense = DenseAncestral(
        model.denoiser, templates, particles, model.num_steps, model._decode, generator=torch.Generator().manual_seed(1)
    )
    done = dense.decode(dense.advance(dense.init(noise), 0, model.num_steps, noise).ids)
    assert z_scores(model, done).abs().max() < Z_BOUND
    # and the comparison has teeth: one reveal order fewer (T = 1) is another law
    one_step = Enumerable(num_steps=1)
    hasty = one_step.process(1, particles)
    assert z_scores(model, hasty.decode(hasty.advance(hasty.init(noise), 0, 1, noise).ids)).abs().max() > Z_BOUND


def test_law_does_not_depend_on_how_the_run_is_cut_into_windows(model):
    particles = 60_000
    noise = Noise.of([population_key(0, "windows")], particles)
    process = model.process(1, particles)
    whole = process.advance(process.init(noise), 0, model.num_steps, noise).ids
    state = process.init(noise)
    for k in range(model.num_steps):
        _, state = process.predict(state, k, noise, 1) if k else (None, state)
        state = process.advance(state, k, k + 1, noise)
    assert torch.equal(state.ids, whole)  # lineages that are never replaced keep their noise


def test_clones_part_and_keep_the_law(model):
    """All particles are copied from one at a middle step; what follows must have the law given that state."""
    particles = 60_000
    noise = Noise.of([population_key(0, "clones")], particles)
    process = model.process(1, particles)
    start = process.init(noise)
    start.ids[:, 0] = 1  # position 0 revealed, the others masked, at k = 2 of 4
    texts = process.decode(process.advance(start, 2, model.num_steps, noise).ids)
    mass = {(1, 2, 2): 1.0}
    for step in (2, 3):
        after = {}
        for state, weight in mass.items():
            for following, probability in model._transitions(state, 1 / (model.num_steps - step)):
                after[following] = after.get(following, 0) + weight * probability
        mass = after
    law = torch.tensor([mass.get(tuple(map(int, text)), 0.0) for text in model.texts], dtype=torch.float64)
    seen = frequencies(model, texts)
    assert (seen[law == 0] == 0).all()
    z = (seen - law)[law > 0] / (law * (1 - law) / particles)[law > 0].sqrt()
    assert z.abs().max() < Z_BOUND


def test_dense_sampler_steers_to_the_same_law(model):
    populations, particles = 1500, 3
    templates = torch.full((populations, model.length), model.denoiser.mask_id)
    process = DenseAncestral(
        model.denoiser, templates, particles, model.num_steps, model._decode, generator=torch.Generator().manual_seed(2)
    )
    noise = Noise.of([population_key(0, index) for index in range(populations)], particles)
    plan = Plan(particles, Every(1), resampler=RESAMPLERS["multinomial"], lam=LAM, ess_threshold=0.7, look_ahead=Predictions(2))
    result = steer(process, Scorer([Weighted("table", model.reward)]), noise, plan)
    assert max(map(abs, check_law(model, result, LAM))) < Z_BOUND


def test_importance_sampling_and_log_z(model):
    """One big population: log Z and the tilted law to within a percent."""
    particles = 40_000
    noise = Noise.of([population_key(0, "is")], particles)
    plan = Plan(particles, At([]), potential=Terminal(), lam=1.0, ess_threshold=0)
    result = steer(model.process(1, particles), Scorer([Weighted("table", model.reward)]), noise, plan)
    exact = model.tilted(1.0)
    assert result.log_z[0].exp() == pytest.approx(exact.sum().item(), rel=0.02)
    place = {text: index for index, text in enumerate(model.texts)}
    index = torch.tensor([place[text] for text in result.samples])
    law = torch.zeros(len(model.texts), dtype=torch.float64).scatter_add_(0, index, result.log_w[0].exp())
    torch.testing.assert_close(law, exact / exact.sum(), atol=0.01, rtol=0)
