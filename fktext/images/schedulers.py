"""Ask a scheduler of diffusers what the adapter needs to know.

Its guess of x0, what it keeps of each particle, whether clones part, and whether a pipeline runs it as it must be run.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fktext.errors import UsageError

TAPPED = ("step", "scale_model_input")  # methods that the adapter shadows on the object itself
_CHANCE = 1e-9  # of taking noise of the right size for noise that was not scaled
_NO_HISTORY = {"timesteps", "sigmas", "betas", "alphas", "alphas_cumprod"}
Path = tuple[str | int, ...]


class UnfitError(UsageError):
    """A pipeline cannot be steered with its scheduler; what would fit it is for the adapter to add."""


class UnscaledError(UnfitError):
    """A pipeline leaves out what schedulers that count in sigmas ask for."""


def sigma_before(scheduler: Any, timestep: Any) -> Tensor | None:
    """Return the noise level that a flow-matching scheduler is about to leave, () float; None for schedulers of other kinds."""
    if "FlowMatch" not in type(scheduler).__name__:
        return None
    if scheduler.step_index is None:
        scheduler._init_step_index(timestep)
    sigma: Tensor = scheduler.sigmas[scheduler.step_index]
    return sigma


def guess(scheduler: Any, output: Any, model_output: Tensor, sample: Tensor, sigma: Tensor | None) -> Tensor:
    """Return x0-hat, the mean of x0 given x_t, as the scheduler saw it in the step just taken.

    Args:
        scheduler: after the step.
        output: what its `step` returned.
        model_output, sample: what its `step` was given.
        sigma: from `sigma_before`.

    Returns:
        As `sample`.

    Raises:
        UnfitError: the scheduler does not say.
    """
    if sigma is not None:  # x_t = (1 - sigma) x0 + sigma noise, and the network says noise - x0
        return (sample.float() - sigma.to(sample.device).float() * model_output.float()).to(sample.dtype)
    kind = type(scheduler).__name__
    found: Any = None
    kept = getattr(scheduler, "model_outputs", None)
    if kept and (getattr(scheduler.config, "algorithm_type", "").endswith("++") or getattr(scheduler, "predict_x0", False)):
        found = kept[-1]
    elif not isinstance(output, tuple):
        found = next(
            (value for name in ("pred_original_sample", "denoised") if (value := getattr(output, name, None)) is not None), None
        )
    elif len(output) > 1 and kind != "TCDScheduler":  # TCD's second item is another sample
        found = output[1]
    if not isinstance(found, Tensor) or found.shape != sample.shape:
        raise UnfitError(f"{kind} does not say what it takes x0 to be")
    return found


def history(scheduler: Any, particles: int) -> dict[Path, Tensor]:
    """Return every tensor that the scheduler keeps with a row per particle (past outputs, say), by where it is kept.

    Raises:
        UnfitError: it keeps a tensor of several dimensions with another number of rows, so what follows a particle is unknown.
    """
    found: dict[Path, Tensor] = {}

    def look(value: Any, path: Path) -> None:
        if isinstance(value, Tensor) and value.ndim > 1:
            if value.shape[0] != particles:
                raise UnfitError(
                    f"{type(scheduler).__name__}.{path[0]} has shape {tuple(value.shape)} for {particles} particles: what follows "
                    "a particle cannot be told"
                )
            found[path] = value
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                look(item, (*path, index))

    for name, value in vars(scheduler).items():
        if name not in _NO_HISTORY:
            look(value, (name,))
    return found


def restore(scheduler: Any, kept: Mapping[Path, Tensor]) -> None:
    """Put what `history` found, reordered perhaps, back in its place."""

    def put(value: Any, path: Path, tensor: Tensor) -> Any:
        if not path:
            return tensor
        index = path[0]
        items = list(value)
        items[int(index)] = put(items[int(index)], path[1:], tensor)
        return items if isinstance(value, list) else tuple(items)

    for path, tensor in kept.items():
        name = str(path[0])
        setattr(scheduler, name, put(getattr(scheduler, name), path[1:], tensor))


def check_clones_part(
    scheduler: Any, step: Callable[..., Any], model_output: Tensor, timestep: Any, sample: Tensor, **options: Any
) -> None:
    """Refuse a sampler in which two copies of a particle stay equal forever: resampling would do nothing but lose particles.

    Tried on the scheduler itself: one step of two copies of the first particle, on a copy of the scheduler.

    Args:
        scheduler: before its first step.
        step: its class's `step`, as a function of the scheduler.
        model_output, timestep, sample: of that step; `options` whatever else the pipeline gives it.

    Raises:
        UnfitError: the copies come out equal.
    """
    trial = _copied(scheduler)
    if "generator" in inspect.signature(step).parameters:
        options["generator"] = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    output = step(trial, torch.cat([model_output[:1]] * 2), timestep, torch.cat([sample[:1]] * 2), **options)
    after = output[0] if isinstance(output, tuple) else output.prev_sample
    if torch.equal(after[0], after[1]):
        kind = type(scheduler).__name__
        raise UnfitError(f"{kind} is deterministic as it is set: copies of a particle would never part")


def rescales(scheduler: Any, sample: Tensor, timestep: Any) -> bool:
    """Tell whether the network is to see something other than the sample (`scale_model_input`), as where sigmas are counted."""
    if not hasattr(type(scheduler), "scale_model_input"):
        return False
    return not torch.equal(_copied(scheduler).scale_model_input(sample, timestep), sample)


def check_law(scheduler: Any, timestep: Any, sample: Tensor, scaled: bool) -> None:
    """Refuse a pipeline that does not run its scheduler as that asks for: diffusers would sample another law.

    Args:
        scheduler: before its first step.
        timestep, sample: of that step.
        scaled: whether the pipeline has called `scale_model_input`.

    Raises:
        UnscaledError: it has not where it must, or its first latents are too small for the noise that the scheduler begins with.
    """
    kind = type(scheduler).__name__
    if not scaled and rescales(scheduler, sample, timestep):
        raise UnscaledError(
            f"the network is not shown what {kind} asks for (scale_model_input is never called): the law would be another"
        )
    level = float(getattr(scheduler, "init_noise_sigma", 1.0))
    if level == 1:
        return
    if (index := getattr(scheduler, "step_index", None)) is not None:  # an image that is changed begins further down
        level = float(scheduler.sigmas[index])
    square = sample.double().square().sum().cpu()
    # Of pure noise the sum of squares is chi-squared, and an image below the noise adds to it.
    if torch.special.gammainc(torch.tensor(sample.numel() / 2).double(), square / level**2 / 2) < _CHANCE:
        spread = (float(square) / sample.numel()) ** 0.5
        raise UnscaledError(
            f"the first latents have a spread of {spread:.3g}, {kind} begins with one of {level:.3g}: the law would be another"
        )


def _copied(scheduler: Any) -> Any:
    """Copy a scheduler, to try things on."""
    trial = copy.copy(scheduler)
    trial.__dict__ = copy.deepcopy({name: value for name, value in vars(scheduler).items() if name not in TAPPED})
    return trial
