"""The proof for images: real schedulers, an analytic denoiser, and the exact tilted law."""

import math
from itertools import pairwise
from types import SimpleNamespace

import diffusers
import pytest
import torch
from torch import nn

from fktext.errors import UsageError
from fktext.images.generate import call_options, generate
from fktext.images.pipelines import SCHEDULERS
from fktext.images.process import DiffusersProcess
from fktext.population import Population
from fktext.rewards import Scorer, Weighted
from fktext.settings import Settings
from fktext.smc import RESAMPLERS
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, steer

WEIGHTS, MEANS, STD = torch.tensor([0.6, 0.4]).double(), torch.tensor([-0.3, 0.35]).double(), 0.1
LAM = 8.0  # of the brightness x / 2 + 1 / 2: 4 of x itself
PARTICLES = 8


class Mixture(nn.Module):
    """The best denoiser of x0 ~ sum_j w_j N(mean_j, STD^2)."""

    def __init__(self, scheduler):
        super().__init__()
        self.flow = "FlowMatch" in type(scheduler).__name__
        self.alphas = None if self.flow else scheduler.alphas_cumprod.double()
        self.register_buffer("place", torch.zeros(1))

    def x0(self, x, scale, sigma):
        """E[x0 | scale x0 + sigma noise = x]."""
        x, spread = x.double()[..., None], scale**2 * STD**2 + sigma**2
        responsibility = (WEIGHTS.log() - (x - scale * MEANS).square() / (2 * spread)).softmax(-1)
        return (responsibility * (MEANS + scale * STD**2 / spread * (x - scale * MEANS))).sum(-1)

    def forward(self, x, timestep):
        scale, sigma = self.levels(timestep)
        x0 = self.x0(x, scale, sigma)
        noise = (x.double() - scale * x0) / sigma
        return (noise - x0 if self.flow else noise).to(x.dtype)

    def levels(self, timestep):
        if self.flow:
            return 1 - timestep.double() / 1000, timestep.double() / 1000
        place = timestep.double()
        low, high = self.alphas[place.floor().long()], self.alphas[place.ceil().long()]
        alpha = torch.lerp(low, high, place.frac())
        return alpha.sqrt(), (1 - alpha).sqrt()


class Pixels(diffusers.DiffusionPipeline):
    """The loop that pipelines of diffusers have, on images of independent pixels."""

    def __init__(self, denoiser, scheduler, side=1):
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler)
        self.side = side

    def __call__(self, batch_size, num_inference_steps, generator, output_type="pt", eta=None):
        scheduler = self.scheduler
        scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(batch_size, 1, self.side, self.side, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
        options = {"eta": eta} if eta is not None else {}
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(self.denoiser(scaled, timestep), timestep, x, generator=generator, **options).prev_sample
        return diffusers.ImagePipelineOutput(images=x / 2 + 0.5)


class Fast(DiffusersProcess):
    """One generator for all: a generator per particle takes its time for thousands of them."""

    def generators(self, noise):
        return torch.Generator().manual_seed(int(noise.key[0]) % 2**40)


class DropsHistory(Fast):
    """What steering would be if a scheduler's memory did not follow the particles."""

    def predict(self, state, k, noise, samples):
        found, state = super().predict(state, k, noise, samples)
        state.history.clear()
        return found, state


class Brightness:
    def score(self, samples):
        return torch.stack([image.pixels for image in samples]).double().flatten()


def estimates(scheduler, steps, populations=1000, process=Fast, plan=None, seed=0, **options):
    """(B,) Z_hat and (B, N) weights, values of x."""
    pipeline = Pixels(Mixture(scheduler), scheduler)
    noise = Noise.of([population_key(seed, index) for index in range(populations)], PARTICLES)
    plan = plan or Plan(PARTICLES, Every(steps // 5), lam=LAM, ess_threshold=0.8)
    run = process(pipeline, [""] * populations, PARTICLES, steps, batch_size=10**6, **options)
    result = steer(run, Scorer([Weighted("brightness", Brightness())]), noise, plan)
    assert result.ledger.denoiser_rows == steps * populations * PARTICLES
    x = 2 * torch.stack([image.pixels for image in result.samples]).double().reshape(populations, PARTICLES) - 1
    return result.log_z.exp(), result.log_w.exp(), x, any(step.resampled.any() for step in result.steps)


def z_scores(z_hat, weights, x, log_z, mean):
    """In standard errors: of log Z, and of the tilted mean."""
    ratio, off = z_hat / math.exp(log_z) - 1, z_hat * (weights * (x - mean)).sum(1)
    return [float(item.mean() / item.std() * len(item) ** 0.5) for item in (ratio, off)]


def exact():
    """log Z and the mean of p(x0) exp(LAM (x0 + 1) / 2)."""
    tilt = LAM / 2
    log_w = WEIGHTS.log() + tilt * MEANS + tilt**2 * STD**2 / 2
    return float(log_w.logsumexp(0)) + tilt, float((log_w.softmax(0) * (MEANS + tilt * STD**2)).sum())


def exact_flow(scheduler, steps):
    """The same of what stochastic flow matching draws, by quadrature: taking x0-hat and adding fresh noise narrows the law."""
    scheduler.set_timesteps(steps)
    grid = torch.linspace(-6, 6, 1001).double()
    law, sigmas = (-grid.square() / 2).softmax(0), scheduler.sigmas.double()
    denoiser = Mixture(scheduler)
    for sigma, after in pairwise(sigmas[:-1]):
        centres = (1 - after) * denoiser.x0(grid, 1 - sigma, sigma)
        law = law @ (-(grid - centres[:, None]).square() / (2 * after**2)).softmax(1)
    x = denoiser.x0(grid, 1 - sigmas[-2], sigmas[-2])
    log_w = law.log() + LAM * (x + 1) / 2
    return float(log_w.logsumexp(0)), float((log_w.softmax(0) * x).sum())


SMOOTH = {"clip_sample": False}
CASES = {
    "ddpm": (lambda: diffusers.DDPMScheduler(**SMOOTH), 1000, {}),
    "ddim": (lambda: diffusers.DDIMScheduler(**SMOOTH), 1000, {"eta": 1.0}),
    "euler-ancestral": (lambda: diffusers.EulerAncestralDiscreteScheduler(), 1000, {}),
    "flow-sde": (lambda: diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), 20, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_weighted_sample_has_the_tilted_law(name):
    make, steps, options = CASES[name]
    expected = exact_flow(make(), steps) if name == "flow-sde" else exact()
    *found, resampled = estimates(make(), steps, **options)
    assert resampled
    scores = z_scores(*found, *expected)
    assert max(map(abs, scores)) < 4, scores
    uniform = torch.full_like(found[1], 1 / PARTICLES)  # negative control: weights forgotten
    assert abs(z_scores(found[0], uniform, found[2], *expected)[1]) > 8


@pytest.mark.parametrize("potential", ["max", "sum"])
def test_every_potential_aims_at_the_same_law(potential):
    make, steps, options = CASES["flow-sde"]
    plan = Plan(PARTICLES, Every(4), potential=POTENTIALS[potential], lam=LAM, ess_threshold=0.8)
    *found, resampled = estimates(make(), steps, plan=plan, **options)
    assert resampled
    assert max(map(abs, z_scores(*found, *exact_flow(make(), steps)))) < 4


def pixels_squared(process, plan, populations, seed, steps=10):
    """(B,) the mean square of the pixels of each population of images of 8x8 independent pixels, by SDE-DPM-Solver++."""
    scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    pipeline = Pixels(Mixture(scheduler), scheduler, side=8)
    noise = Noise.of([population_key(seed, index) for index in range(populations)], PARTICLES)
    run = process(pipeline, [""] * populations, PARTICLES, steps, batch_size=10**6)
    result = steer(run, Scorer([]), noise, plan)
    images = torch.stack([image.pixels for image in result.samples]).double()
    return (2 * images - 1).square().reshape(populations, -1).mean(1)


def test_a_multistep_schedulers_history_must_follow_its_particle(monkeypatch):
    monkeypatch.setitem(globals(), "MEANS", torch.zeros(2).double())  # so that a last step does not snap to one of two values
    monkeypatch.setitem(globals(), "STD", 0.5)
    own = pixels_squared(Fast, Plan(PARTICLES, At([]), lam=0.0), 600, seed=1)
    # copies are drawn as by chance, lambda 0: what the scheduler draws must stay what it is
    plan = Plan(PARTICLES, Every(1), lam=0.0, ess_threshold=1.1, resampler=RESAMPLERS["multinomial"])
    scores = []
    for process in (Fast, DropsHistory):
        found = pixels_squared(process, plan, 300, seed=0)
        error = (found.var() / len(found) + own.var() / len(own)).sqrt()
        scores.append(float((found.mean() - own.mean()) / error))
    right, wrong = scores
    assert abs(right) < 4, scores
    assert abs(wrong) > 6, scores


class Gaussian(Mixture):
    """The best denoiser of x0 ~ N(0.3, STD^2) in the place of a U-Net."""

    device, dtype, config = torch.device("cpu"), torch.float32, SimpleNamespace(in_channels=1, sample_size=8)

    def x0(self, x, scale, sigma):
        spread = scale**2 * STD**2 + sigma**2
        return 0.3 + scale * STD**2 / spread * (x.double() - scale * 0.3)

    def forward(self, x, timestep):
        return SimpleNamespace(sample=super().forward(x, timestep))


def drawn(kind, name, steps=200):
    """Pixels that a real pipeline draws unsteered with one of `SCHEDULERS`, as x."""
    own = diffusers.DDPMScheduler(**SMOOTH)
    pipeline = kind(Gaussian(own), own)
    scheduler, settings = SCHEDULERS[name]
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(own.config, **settings)
    pipeline.set_progress_bar_config(disable=True)
    plain = Settings(particles=1, samples=16, steps=steps, x0_samples=1, method="base")
    found = generate(pipeline, [], [""], plain, batch_size=16, **call_options(pipeline))
    return 2 * torch.stack([item.samples[0].pixels for item in found if isinstance(item, Population)]) - 1


@pytest.mark.parametrize("kind", [diffusers.DDPMPipeline, diffusers.DDIMPipeline])
@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler-ancestral", "sde-dpmsolver"])
def test_a_real_pipeline_draws_the_right_law_or_refuses(kind, name):
    fits = {diffusers.DDPMPipeline: ["ddim", "ddpm", "sde-dpmsolver"], diffusers.DDIMPipeline: ["ddim"]}[kind]
    if name in fits:
        x = drawn(kind, name)
        assert abs(x.mean() - 0.3) < 0.02
        assert 0.08 < x.std() < 0.11
        return
    listed = ", ".join(fits).replace("ddim", "ddim with eta above 0")
    with pytest.raises(UsageError, match=rf"What fits a {kind.__name__}: {listed}$"):
        drawn(kind, name)
