"""Make a reverse process of a diffusers pipeline, without a copy of its code.

The pipeline runs in its own thread, one step of its loop at a time, by a tap on the scheduler's `step`: where a window of the
engine ends the tap hands the latents over and waits, and goes on with the latents that the engine hands back. So guidance, offload,
dtype and whatever else a pipeline does stay its own.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fktext.errors import FktextError, UsageError
from fktext.images import pipelines, schedulers
from fktext.smc import noise as streams
from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise


@dataclass(frozen=True, eq=False)
class Image:
    """Hold what an image reward sees.

    Attributes:
        pixels: (channels, height, width) float32 in [0, 1], on the CPU.
        prompt: what it was asked to show, "" where nothing.
    """

    pixels: Tensor
    prompt: str = ""

    def shrunk(self, side: int) -> Image:
        """Return the image, its longer side at most `side` pixels; each is the mean of those it stands for."""
        factor = side / max(self.pixels.shape[1:])
        if factor >= 1:
            return self
        size = [max(1, round(length * factor)) for length in self.pixels.shape[1:]]
        return replace(self, pixels=interpolate(self.pixels[None], size=size, mode="area")[0])

    @cached_property
    def key(self) -> bytes:
        """Equal for equal images of equal prompts."""
        total = hashlib.blake2b(self.prompt.encode(), digest_size=16)
        total.update(str(tuple(self.pixels.shape)).encode())
        total.update(self.pixels.contiguous().numpy().tobytes())
        return total.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return f"image of {self.prompt!r}" if self.prompt else "image"


@dataclass
class ImageState:
    """Hold M particles.

    Attributes:
        latents: (M, ...) where the pipeline's loop is, (M, 0) before it began.
        x0: what the scheduler took x0 to be in the last step.
        history: what the scheduler keeps of each particle.
    """

    latents: Tensor
    x0: Tensor
    history: dict[schedulers.Path, Tensor]

    def gather(self, ancestors: Tensor) -> ImageState:
        """Copy particles (see `fktext.smc.process.gather`)."""
        place = ancestors.to(self.latents.device)
        kept = {path: tensor[place.to(tensor.device)] for path, tensor in self.history.items()}
        return ImageState(self.latents[place], self.x0[place], kept)


@dataclass(frozen=True)
class _Latents:
    """A guess of x0 that the VAE has not decoded."""

    x0: Tensor


class _Stopped(BaseException):
    """Unwind a pipeline that nobody waits for any more."""


class DiffusersProcess:
    """Run a diffusers pipeline as a reverse process over its own scheduler's steps.

    Args:
        pipeline: any pipeline whose loop calls `scheduler.step`; with a text encoder or without.
        prompts: one per population; [""] for a pipeline that takes none.
        particles: N.
        num_steps: steps of its scheduler.
        batch_size: most images decoded at once.
        options: handed to the pipeline's call, such as guidance_scale, eta, height or width; eta reaches the scheduler also where
            the call does not take it.
    """

    def __init__(
        self, pipeline: Any, prompts: Sequence[str], particles: int, num_steps: int, *, batch_size: int = 8, **options: Any
    ) -> None:
        self.pipeline, self.num_steps, self.ledger = pipeline, num_steps, Ledger()
        self._prompts, self._particles, self._batch_size = list(prompts), particles, batch_size
        self._step, self._accepts = pipeline.scheduler.step, inspect.signature(pipeline.scheduler.step).parameters
        tapped = "eta" in self._accepts and "eta" not in inspect.signature(pipeline.__call__).parameters
        self._forced = {"eta": options.pop("eta")} if tapped and "eta" in options else {}
        self._options = options
        self._thread: threading.Thread | None = None
        if getattr(pipeline.scheduler, "order", 1) != 1:
            raise self._unfit(schedulers.UnfitError(f"{type(pipeline.scheduler).__name__} takes several network calls a step"))

    def generators(self, noise: Noise) -> list[torch.Generator]:
        """Make a random generator for each particle slot; the pipeline alone, given these, makes what one particle makes."""
        seeds = (noise.uniform(streams.NORMAL, 0, 0) * 2**52).long().tolist()
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def call_options(self, noise: Noise) -> dict[str, Any]:
        """Return what the pipeline is called with."""
        accepts = inspect.signature(self.pipeline.__call__).parameters
        options: dict[str, Any] = {"num_inference_steps": self.num_steps, "generator": self.generators(noise), "output_type": "pt"}
        if "prompt_embeds" in self._options:  # of all particles, instead of prompts
            pass
        elif "prompt" in accepts:
            options |= {"prompt": self._prompts, "num_images_per_prompt": self._particles}
        elif any(self._prompts):
            raise UsageError(f"{type(self.pipeline).__name__} takes no prompt, got {self._prompts[0]!r}")
        else:
            options["batch_size"] = len(noise.key)
        if unknown := sorted(self._options.keys() - accepts.keys()):
            raise UsageError(f"{type(self.pipeline).__name__} takes no {unknown[0]!r}")
        return options | self._options

    def init(self, noise: Noise) -> ImageState:
        """Return the particles of a pipeline that has not begun."""
        self.close()
        if len(self._prompts) * self._particles != len(noise.key):
            raise UsageError(f"{len(self._prompts)} prompts with {self._particles} particles each, and noise for {len(noise.key)}")
        self._options_of_run = self.call_options(noise)
        empty = torch.empty(len(noise.key), 0)
        return ImageState(empty, empty, {})

    def advance(self, state: ImageState, k: int, k_next: int, noise: Noise) -> ImageState:
        """Let the pipeline go on until it has taken k_next steps."""
        with self.ledger.denoising():
            if k == 0:
                self._start(len(noise.key))
            else:
                schedulers.restore(self.pipeline.scheduler, state.history)
            after = self._resume((state.latents, k_next))
        self.ledger.denoiser_rows += (k_next - k) * len(noise.key)
        if not isinstance(after, ImageState):
            raise FktextError(f"{type(self.pipeline).__name__} ended after {self._taken} steps, expected {self.num_steps}")
        return after

    def predict(self, state: ImageState, k: int, noise: Noise, samples: int) -> tuple[Any, ImageState]:
        """Return the scheduler's own x0-hat, or at the last step the pipeline's images.

        Raises:
            UsageError: several guesses were asked for; the scheduler has one, the mean of x0.
        """
        if k < self.num_steps:
            if samples != 1:
                raise UsageError(f"an image pipeline has one guess of x0 per particle, {samples} were asked for")
            return _Latents(state.x0), state
        schedulers.restore(self.pipeline.scheduler, state.history)
        images = self._resume((state.latents, None))
        if isinstance(images, ImageState):
            self.close()
            raise FktextError(f"{type(self.pipeline).__name__} takes more than the {self.num_steps} steps it was asked for")
        return images, state

    def decode(self, x0: Any) -> list[Image]:
        """Return the images of guesses or of finished particles, M of them."""
        pixels = x0
        if isinstance(x0, _Latents):
            with torch.inference_mode():
                pixels = torch.cat([self._decoded(part) for part in x0.x0.split(self._batch_size)])
        pixels = torch.as_tensor(pixels).float().cpu()
        return [Image(each, self._prompts[index // self._particles]) for index, each in enumerate(pixels)]

    def close(self) -> None:
        """Stop a pipeline in mid-run."""
        if self._thread is not None and self._thread.is_alive():
            self._orders.put(_Stopped())
            self._thread.join()
        self._thread = None

    def __del__(self) -> None:
        if getattr(self, "_thread", None) is not None:
            self._orders.put(_Stopped())

    def _start(self, particles: int) -> None:
        self._orders: queue.Queue[Any] = queue.Queue(1)
        self._news: queue.Queue[Any] = queue.Queue(1)
        self._taken, self._target, self._size, self._scaled = 0, 0, particles, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _resume(self, order: tuple[Tensor, int | None]) -> Any:
        """Hand the pipeline its latents and how far to go; wait for what it says: a state, its images, or an error to raise."""
        self._orders.put(order)
        news = self._news.get()
        if isinstance(news, BaseException):
            raise news
        return news

    def _run(self) -> None:
        """Run the pipeline, in its thread."""
        scheduler = self.pipeline.scheduler
        options = self._options_of_run
        # Pipelines look at the signature to see whether the scheduler takes eta or a generator.
        scheduler.step = functools.wraps(self._step)(lambda *arguments, **given: self._tapped(*arguments, **given))
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input = self._noticed(scheduler.scale_model_input)
        try:
            order = self._orders.get()
            if isinstance(order, _Stopped):
                return
            _, self._target = order
            news = self.pipeline(**options).images
        except _Stopped:
            return
        except schedulers.UnfitError as error:
            news = self._unfit(error)
        except BaseException as error:
            news = error
        finally:
            for name in schedulers.TAPPED:
                vars(scheduler).pop(name, None)  # the class's own shows again
        self._news.put(news)

    def _noticed(self, scale: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Stand in for `scheduler.scale_model_input`: do the same, and note that the pipeline calls it."""

        @functools.wraps(scale)
        def noticed(*arguments: Any, **options: Any) -> Tensor:
            self._scaled = True
            return scale(*arguments, **options)

        return noticed

    def _unfit(self, error: schedulers.UnfitError) -> UsageError:
        """Make the error, with what would fit."""
        names = pipelines.fitting(self.pipeline, scales=not isinstance(error, schedulers.UnscaledError))
        fitting = ", ".join(names).replace("ddim", "ddim with eta above 0")
        return UsageError(f"{error}. What fits a {type(self.pipeline).__name__}: {fitting or 'nothing that is known here'}")

    def _tapped(self, *arguments: Any, **options: Any) -> Any:
        """Stand in for `scheduler.step`."""
        scheduler = self.pipeline.scheduler
        names = [name for name in self._accepts if name not in options]
        given = dict(zip(names, arguments, strict=False)) | options | self._forced
        if "generator" in self._accepts and given.get("generator") is None:
            given["generator"] = self._options_of_run["generator"]  # some pipelines draw from torch's global generator
        model_output, timestep, sample = (given[name] for name in ("model_output", "timestep", "sample"))
        if self._taken == 0:
            if len(sample) != self._size:
                raise UsageError(f"{type(self.pipeline).__name__} moves {len(sample)} samples, expected {self._size}")
            try:
                inspect.signature(self._step).bind(**given)
            except TypeError as error:
                raise schedulers.UnfitError(
                    f"{type(self.pipeline).__name__} calls {type(scheduler).__name__} wrongly: {error}"
                ) from error
            schedulers.check_law(scheduler, timestep, sample, self._scaled)
            rest = {key: value for key, value in given.items() if key not in ("model_output", "timestep", "sample", "generator")}
            if self._particles > 1 and self._target < self.num_steps:  # else nothing is ever resampled
                schedulers.check_clones_part(scheduler, type(scheduler).step, model_output, timestep, sample, **rest)
        sigma = schedulers.sigma_before(scheduler, timestep)
        output = self._step(**given)
        self._taken += 1
        if not self._orders.empty():  # in mid-window the only order is to stop
            raise self._orders.get()
        if self._taken != self._target:
            return output
        after = output[0] if isinstance(output, tuple) else output.prev_sample
        last = self._taken == self.num_steps  # then the images themselves are weighed
        x0 = after if last else schedulers.guess(scheduler, output, model_output, sample, sigma)
        self._news.put(ImageState(after, x0, schedulers.history(scheduler, len(after))))
        order = self._orders.get()
        if isinstance(order, _Stopped):
            raise order
        after, self._target = order
        return (after, *output[1:]) if isinstance(output, tuple) else replace_sample(output, after)

    def _decoded(self, latents: Tensor) -> Tensor:
        """Map (R, ...) latents to (R, channels, height, width) in [0, 1]."""
        vae = getattr(self.pipeline, "vae", None)
        if vae is None:
            return (latents / 2 + 0.5).clamp(0, 1)
        if latents.ndim == 3:  # packed, as Flux keeps them
            height, width = (self._options_of_run.get(name) or self._default_size() for name in ("height", "width"))
            latents = self.pipeline._unpack_latents(latents, height, width, self.pipeline.vae_scale_factor)
        mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is not None and std is not None:  # of some SDXL models
            mean, std = (torch.as_tensor(given).to(latents).reshape(1, -1, 1, 1) for given in (mean, std))
            latents = latents * std / vae.config.scaling_factor + mean
        else:
            latents = latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
        dtype = vae.dtype
        # SDXL's VAE overflows in float16; its pipelines, which say so by this method, decode in float32 too.
        wide = dtype == torch.float16 and hasattr(self.pipeline, "upcast_vae") and vae.config.force_upcast
        if wide:
            vae.to(dtype=torch.float32)
        images: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        if wide:
            vae.to(dtype=dtype)
        return (images / 2 + 0.5).clamp(0, 1)

    def _default_size(self) -> int:
        return int(self.pipeline.default_sample_size * self.pipeline.vae_scale_factor)


def replace_sample(output: Any, after: Tensor) -> Any:
    """Return a scheduler's output with another `prev_sample`."""
    return type(output)(**{**output, "prev_sample": after}) if hasattr(output, "keys") else replace(output, prev_sample=after)
