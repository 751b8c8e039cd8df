"""The adapter on real pipelines: nothing changes where nobody steers, and resampling is exactly a permutation."""

import functools
import threading
import time

import diffusers
import pytest
import torch

from fktext.errors import FktextError, RewardError, UsageError
from fktext.images import pipelines
from fktext.images.generate import generate
from fktext.images.process import DiffusersProcess, Image
from fktext.population import Population
from fktext.rewards import Scorer, Weighted
from fktext.settings import Settings
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.process import gather
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, steer, steer_steps

from .conftest import CASES, LATENT, SMALL, pixels, sd3, sd3_options, sd15, sdxl

STEPS = 6
KEYS = [population_key(0, "image", index) for index in range(2)]


class Brightness:
    def score(self, samples):
        return [float(image.pixels.mean()) for image in samples]


SCORER = [Weighted("brightness", Brightness())]


def plain(process, noise):
    """The pipeline alone, given the same generators."""
    options = process.call_options(noise)
    scheduler = process.pipeline.scheduler
    if "FlowMatch" in type(scheduler).__name__:  # its pipelines do not hand their generators on
        step = scheduler.step
        scheduler.step = functools.wraps(step)(functools.partial(step, generator=options["generator"]))
    images = process.pipeline(**options).images
    vars(scheduler).pop("step", None)
    return torch.as_tensor(images).float().cpu()


def stack(samples):
    return torch.stack([image.pixels for image in samples])


def test_unsteered_particles_are_the_plain_pipelines(case):
    pipeline, options, prompts = case
    noise = Noise.of(KEYS, 3)
    process = DiffusersProcess(pipeline, prompts, 3, STEPS, **options(3))
    expected = plain(process, noise)
    result = steer(process, Scorer(SCORER), noise, Plan(3, Every(2), lam=0.0, ess_threshold=1.1))
    assert torch.equal(stack(result.samples), expected)
    assert [image.prompt for image in result.samples] == [prompt for prompt in prompts for _ in range(3)]
    assert torch.equal(result.roots, torch.arange(3).expand(2, 3))
    assert result.ledger.denoiser_rows == 6 * STEPS
    assert "step" not in vars(pipeline.scheduler)


def test_one_particle_is_the_plain_pipeline(case):
    pipeline, options, prompts = case
    noise = Noise.of(KEYS, 1)
    process = DiffusersProcess(pipeline, prompts, 1, STEPS, **options(1))
    expected = plain(process, noise)
    result = steer(process, Scorer(SCORER), noise, Plan(1, Every(1), lam=5.0, ess_threshold=1.1))
    assert torch.equal(stack(result.samples), expected)


def permuted(process, noise, order, at, drop_history=False):
    """The final images where particles are permuted after `at` steps, and their generators with them."""
    state = process.advance(process.init(noise), 0, at, noise)
    state = gather(state, order)
    if drop_history:
        state.history.clear()
    generators = process._options_of_run["generator"]
    generators[:] = [generators[index] for index in order.tolist()]
    state = process.advance(state, at, process.num_steps, noise)
    images, _ = process.predict(state, process.num_steps, noise, 1)
    return stack(process.decode(images))


def test_permuting_particles_permutes_images(case):
    pipeline, options, prompts = case
    noise, order = Noise.of(KEYS, 3), torch.tensor([2, 0, 1, 4, 3, 5])  # within each prompt
    process = DiffusersProcess(pipeline, prompts, 3, STEPS, **options(3))
    torch.testing.assert_close(permuted(process, noise, order, 3), plain(process, noise)[order], rtol=0, atol=2e-5)


def restarts():
    """name -> (pipeline, options, prompts, how its call is told to go on after 3 of 6 steps)."""
    ddpm = diffusers.DDPMScheduler(**LATENT)
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0, stochastic_sampling=True)
    return {
        "sd15": (sd15(ddpm), SMALL, ["a cat", "a dog"], lambda scheduler: {"timesteps": scheduler.timesteps[3:].tolist()}),
        "sdxl": (sdxl(ddpm), SMALL, ["a cat", "a dog"], lambda scheduler: {"timesteps": scheduler.timesteps[3:].tolist()}),
        "sd3": (sd3(flow), sd3_options(6), ["", ""], lambda scheduler: {"sigmas": scheduler.sigmas[3:-1].tolist()}),
    }


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_resampling_is_restarting_the_pipeline_from_the_chosen_latents(name):
    pipeline, options, prompts, rest = restarts()[name]
    noise, ancestors = Noise.of(KEYS, 3), torch.tensor([2, 2, 0, 3, 5, 5])
    process = DiffusersProcess(pipeline, prompts, 3, STEPS, **options)
    state = gather(process.advance(process.init(noise), 0, 3, noise), ancestors)
    latents, generators = state.latents.clone(), process._options_of_run["generator"]
    later = [torch.Generator().set_state(generator.get_state()) for generator in generators]
    call = process.call_options(noise) | rest(pipeline.scheduler) | {"latents": latents, "generator": later}
    images, _ = process.predict(process.advance(state, 3, STEPS, noise), STEPS, noise, 1)
    if name == "sd3":  # its pipeline does not hand its generators on
        step = pipeline.scheduler.step
        pipeline.scheduler.step = functools.wraps(step)(functools.partial(step, generator=later))
    again = torch.as_tensor(pipeline(**call | {"num_inference_steps": 3}).images)
    torch.testing.assert_close(stack(process.decode(images)), again.float(), rtol=0, atol=2e-5)
    assert not torch.allclose(again[0], again[1], atol=1e-3), "copies part"


@pytest.mark.parametrize(("make", "dtype"), [(sd15, torch.bfloat16), (sdxl, torch.float16)], ids=["sd15-bfloat16", "sdxl-float16"])
def test_half_precision_stays_what_it_is(make, dtype):
    pipeline = make(diffusers.DDIMScheduler(**LATENT)).to(dtype)
    if dtype == torch.float16:  # a VAE whose activations are beyond float16, as SDXL's are
        torch.nn.init.constant_(pipeline.vae.decoder.conv_in.weight, 6e4)
    noise = Noise.of(KEYS, 2)
    process = DiffusersProcess(pipeline, ["a cat", "a dog"], 2, STEPS, eta=1.0, **SMALL)
    expected = plain(process, noise)
    steps = list(steer_steps(process, Scorer(SCORER), noise, Plan(2, Every(2), lam=0.0)))
    assert torch.equal(stack(steps[-1].samples), expected)
    assert all(torch.isfinite(image.pixels).all() for step in steps for image in step.samples)
    assert pipeline.vae.dtype == pipeline.unet.dtype == dtype


def test_guesses_are_decoded_where_they_are_weighed_and_in_chunks(monkeypatch):
    pipeline = sd15(diffusers.DDIMScheduler(**LATENT))
    process = DiffusersProcess(pipeline, ["a cat"], 5, STEPS, batch_size=2, eta=1.0, **SMALL)
    decode, sizes = pipeline.vae.decode, []
    monkeypatch.setattr(pipeline.vae, "decode", lambda latents, **given: sizes.append(len(latents)) or decode(latents, **given))
    steer(process, Scorer(SCORER), Noise.of(KEYS[:1], 5), Plan(5, At([3]), lam=0.0))
    assert sizes == [2, 2, 1, 5]  # after 3 steps, and at the end by the pipeline itself


def test_dropping_a_multistep_schedulers_history_is_noticed():
    pipeline, options, prompts = CASES["sd15-sde"]()
    noise, order = Noise.of(KEYS, 3), torch.tensor([2, 0, 1, 4, 3, 5])
    process = DiffusersProcess(pipeline, prompts, 3, STEPS, **options(3))
    wrong = permuted(process, noise, order, 3, drop_history=True)
    assert (wrong - plain(process, noise)[order]).abs().max() > 1e-3


def test_the_last_guess_of_x0_is_close_to_the_image(case):
    pipeline, options, prompts = case
    noise = Noise.of(KEYS, 2)
    process = DiffusersProcess(pipeline, prompts, 2, STEPS, **options(2))
    steps = list(steer_steps(process, Scorer(SCORER), noise, Plan(2, Every(1), lam=0.0)))
    errors = [(stack(step.samples) - stack(steps[-1].samples)).abs().mean().item() for step in steps]
    assert errors[-2] <= errors[0]
    assert all(image.pixels.min() >= 0 and image.pixels.max() <= 1 for step in steps for image in step.samples)


def test_steering_raises_the_reward(case):
    pipeline, options, prompts = case
    noise = Noise.of(KEYS, 3)
    process = DiffusersProcess(pipeline, prompts, 3, STEPS, **options(3))
    base = steer(process, Scorer(SCORER), noise, Plan(3, At([]), lam=0.0)).reward
    steered = steer(process, Scorer(SCORER), noise, Plan(3, Every(2), lam=2000.0, ess_threshold=1.1)).reward
    assert steered.mean() > base.mean()


@pytest.mark.parametrize(
    "scheduler",
    [diffusers.DDIMScheduler(**LATENT), diffusers.EulerDiscreteScheduler(**LATENT), diffusers.DPMSolverMultistepScheduler()],
)
def test_deterministic_samplers_are_refused(scheduler):
    process = DiffusersProcess(sd15(scheduler), ["a cat"], 2, STEPS, height=16, width=16)
    noise = Noise.of(KEYS[:1], 2)
    with pytest.raises(UsageError, match=r"deterministic.*: ddim with eta above 0, ddpm, euler-ancestral, sde-dpmsolver$"):
        steer(process, Scorer(SCORER), noise, Plan(2, Every(2)))
    assert "step" not in vars(process.pipeline.scheduler)


@pytest.mark.parametrize("scheduler", [diffusers.DDIMScheduler(**LATENT), diffusers.EulerDiscreteScheduler(**LATENT)])
@pytest.mark.parametrize(("particles", "schedule"), [(1, Every(2)), (2, At([]))])
def test_what_is_never_resampled_may_be_deterministic(scheduler, particles, schedule):
    process = DiffusersProcess(sd15(scheduler), ["a cat"], particles, STEPS, height=16, width=16)
    noise = Noise.of(KEYS[:1], particles)
    expected = plain(process, noise)
    assert torch.equal(stack(steer(process, Scorer(SCORER), noise, Plan(particles, schedule)).samples), expected)


class Loop(diffusers.DDPMPipeline):
    """What pipelines do for schedulers that count in sigmas, or leave out."""

    scales = begins = True

    @torch.no_grad()
    def __call__(self, batch_size=1, generator=None, num_inference_steps=50, output_type="pt"):
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.stack([torch.randn(1, 8, 8, generator=each) for each in generator])
        x = x * self.scheduler.init_noise_sigma if self.begins else x
        for timestep in self.scheduler.timesteps:
            seen = self.scheduler.scale_model_input(x, timestep) if self.scales else x
            x = self.scheduler.step(self.unet(seen, timestep).sample, timestep, x, generator=generator).prev_sample
        return diffusers.ImagePipelineOutput(images=x / 2 + 0.5)


class LeavesTheInput(Loop):
    scales = False


class LeavesTheNoise(Loop):
    begins = False


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (LeavesTheInput, "scale_model_input is never called"),
        (
            LeavesTheNoise,
            r"first latents have a spread of .* begins with one of 157: .*: ddim with eta above 0, ddpm, sde-dpmsolver$",
        ),
        (
            diffusers.DDPMPipeline,
            r"never called\): .* What fits a DDPMPipeline: ddim with eta above 0, ddpm, sde-dpmsolver$",
        ),
    ],
)
@pytest.mark.parametrize("particles", [1, 3])
def test_a_pipeline_that_runs_its_scheduler_otherwise_than_that_asks_for_is_refused(kind, message, particles):
    pipeline, noise = pixels(diffusers.EulerAncestralDiscreteScheduler(), kind), Noise.of(KEYS[:1], particles)
    with pytest.raises(UsageError, match=message):
        steer(DiffusersProcess(pipeline, [""], particles, 50), Scorer([]), noise, Plan(particles, At([]), lam=0.0))
    assert not {"step", "scale_model_input"} & vars(pipeline.scheduler).keys()


def test_a_pipeline_that_does_as_its_scheduler_asks_is_not():
    pipeline, noise = pixels(diffusers.EulerAncestralDiscreteScheduler(), Loop), Noise.of(KEYS, 2)
    assert steer(DiffusersProcess(pipeline, ["", ""], 2, STEPS), Scorer(SCORER), noise, Plan(2, Every(2))).samples
    pipeline.scheduler = diffusers.DDPMScheduler()  # asks for nothing
    assert steer(DiffusersProcess(pipeline, ["", ""], 2, STEPS), Scorer(SCORER), noise, Plan(2, Every(2))).samples


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_an_image_that_is_changed_begins_with_less_noise(strength):
    whole = sd15(diffusers.EulerAncestralDiscreteScheduler(**LATENT))
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(**whole.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    options = {"image": torch.full((1, 3, 16, 16), 0.5), "strength": strength, "num_inference_steps": int(STEPS / strength)}
    process = DiffusersProcess(pipeline, ["a cat", "a dog"], 2, STEPS, **options)
    assert len(steer(process, Scorer(SCORER), Noise.of(KEYS, 2), Plan(2, Every(2))).samples) == 4
    assert pipelines.fitting(pipeline) == ["ddim", "ddpm", "euler-ancestral", "sde-dpmsolver"]


def test_eta_reaches_a_scheduler_whose_pipeline_does_not_take_it():
    """DDPMPipeline with a DDIM scheduler: by itself deterministic."""
    pipeline, noise = pixels(diffusers.DDIMScheduler()), Noise.of(KEYS[:1], 3)
    with pytest.raises(UsageError, match="deterministic"):
        steer(DiffusersProcess(pipeline, [""], 3, STEPS), Scorer(SCORER), noise, Plan(3, Every(2)))
    process = DiffusersProcess(pipeline, [""], 3, STEPS, eta=1.0)
    own = DiffusersProcess(pixels(diffusers.DDIMScheduler(), diffusers.DDIMPipeline), [""], 3, STEPS, eta=1.0)
    found, expected = (steer(each, Scorer(SCORER), noise, Plan(3, Every(2), lam=0.0)).samples for each in (process, own))
    assert torch.equal(stack(found), stack(expected))


def test_offload_goes_on(monkeypatch):
    """A CPU stands in for the device: networks are brought to it by hooks, the VAE also where guesses are decoded."""
    found, brought = [], []
    for offload in (False, True):
        pipeline = sd15(diffusers.DDIMScheduler(**LATENT))
        if offload:
            pipeline.enable_model_cpu_offload(device="cpu")
            hook = pipeline.vae._hf_hook
            bring = hook.pre_forward
            monkeypatch.setattr(
                hook, "pre_forward", lambda *given, _bring=bring, **more: brought.append(1) or _bring(*given, **more)
            )
        process = DiffusersProcess(pipeline, ["a cat"], 3, STEPS, eta=1.0, **SMALL)
        plan = Plan(3, Every(2), lam=2000.0, ess_threshold=1.1)
        found.append(steer(process, Scorer(SCORER), Noise.of(KEYS[:1], 3), plan))
    assert torch.equal(stack(found[0].samples), stack(found[1].samples))
    torch.testing.assert_close(found[0].log_z, found[1].log_z)
    assert len(brought) == 3  # after 2 and 4 steps, and at the end


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't")])
def test_memory_that_ends_is_an_error_that_says_what_helps(monkeypatch, error):
    def full(*arguments, **options):
        raise error

    pipeline = pixels(diffusers.DDPMScheduler())
    monkeypatch.setattr(pipeline.unet, "forward", full)
    with pytest.raises(FktextError, match="does not hold 6 images at once: give fewer particles, a smaller batch size"):
        list(generate(pipeline, SCORER, [""], Settings(particles=3, samples=2, steps=4, x0_samples=1)))
    assert "step" not in vars(pipeline.scheduler)


def test_closing_stops_a_pipeline_within_a_step():
    pipeline, begun, go_on = pixels(diffusers.DDPMScheduler()), threading.Event(), threading.Event()
    forward, calls = pipeline.unet.forward, []

    def slow(*arguments, **options):
        calls.append(1)
        begun.set()
        go_on.wait(60)
        return forward(*arguments, **options)

    pipeline.unet.forward = slow
    process, noise = DiffusersProcess(pipeline, [""], 2, 50), Noise.of(KEYS[:1], 2)
    state = process.init(noise)
    process._start(2)
    process._orders.put((state.latents, 50))  # a whole run, as `advance` asks for it
    assert begun.wait(60)
    stopping = threading.Thread(target=process.close)
    stopping.start()
    while process._orders.empty():
        time.sleep(0.01)
    go_on.set()
    stopping.join(60)
    assert not stopping.is_alive()
    assert len(calls) == 1
    assert "step" not in vars(pipeline.scheduler)


def test_schedulers_of_several_calls_a_step_are_refused():
    with pytest.raises(UsageError, match="HeunDiscreteScheduler takes several network calls"):
        DiffusersProcess(sd15(diffusers.HeunDiscreteScheduler(**LATENT)), ["a"], 2, STEPS)


def test_an_error_of_the_reward_leaves_the_pipeline_usable():
    class Broken:
        def score(self, samples):
            return [float("nan")] * len(samples)

    pipeline = pixels(diffusers.DDPMScheduler())
    noise = Noise.of(KEYS[:1], 2)
    process = DiffusersProcess(pipeline, [""], 2, STEPS)
    with pytest.raises(RewardError, match="nan"):
        steer(process, Scorer([Weighted("broken", Broken())]), noise, Plan(2, Every(2)))
    process.close()
    assert "step" not in vars(pipeline.scheduler)
    assert steer(process, Scorer(SCORER), noise, Plan(2, Every(2))).samples


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"prompts": ["a cat"]}, "takes no prompt"), ({"sharpness": 2}, "takes no 'sharpness'"), ({"x0": 2}, "one guess of x0")],
)
def test_usage(settings, message):
    settings = dict(settings)
    prompts, draws = settings.pop("prompts", [""]), settings.pop("x0", 1)
    process = DiffusersProcess(pixels(diffusers.DDPMScheduler()), prompts, 2, STEPS, **settings)
    with pytest.raises(UsageError, match=message):
        steer(process, Scorer(SCORER), Noise.of(KEYS[:1], 2), Plan(2, Every(2), look_ahead=Predictions(draws)))


def test_images_compare_by_pixels_and_prompt():
    one, same = Image(torch.zeros(1, 2, 2), "a"), Image(torch.zeros(1, 2, 2), "a")
    assert one == same
    assert hash(one) == hash(same)
    assert one != Image(torch.zeros(1, 2, 2), "b")
    assert one != Image(torch.full((1, 2, 2), 0.5), "a")


def test_guesses_are_kept_small_where_that_is_asked_for():
    pipeline, settings = sd15(diffusers.DDIMScheduler(**LATENT)), Settings(particles=2, steps=4, resample_every=2, x0_samples=1)
    whole, small = (
        next(
            item
            for item in generate(pipeline, SCORER, ["a cat"], settings, guesses=True, guess_side=side, eta=1.0, **SMALL)
            if isinstance(item, Population)
        )
        for side in (None, 4)
    )
    assert [len(guesses) for guesses in small.guesses] == [2, 2]
    for one, other in zip(sum(whole.guesses, ()), sum(small.guesses, ()), strict=True):
        assert (one.pixels.shape, other.pixels.shape) == ((3, 16, 16), (3, 4, 4))
        assert torch.allclose(other.pixels[:, 0, 0], one.pixels[:, :4, :4].mean((1, 2)), atol=1e-6)
        assert other.prompt == "a cat"
        assert one.shrunk(16) is one
    assert small.samples[0].pixels.shape == (3, 16, 16)
    assert whole.log_z == small.log_z
