"""What the adapter asks of a scheduler of diffusers: its guess of x0, what it keeps of each particle, and whether clones part."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fktext.errors import UsageError

WORKS = "DDPM, DDIM with eta > 0, Euler ancestral, SDE-DPM-Solver++ or flow matching with stochastic_sampling=True"
_NO_HISTORY = {"timesteps", "sigmas", "betas", "alphas", "alphas_cumprod"}
Path = tuple[str | int, ...]


def sigma_before(scheduler: Any, timestep: Any) -> Tensor | None:
    """The noise level that a flow-matching scheduler is about to leave, () float; None for schedulers of other kinds."""
    if "FlowMatch" not in type(scheduler).__name__:
        return None
    if scheduler.step_index is None:
        scheduler._init_step_index(timestep)
    sigma: Tensor = scheduler.sigmas[scheduler.step_index]
    return sigma


def guess(scheduler: Any, output: Any, model_output: Tensor, sample: Tensor, sigma: Tensor | None) -> Tensor:
    """x0-hat, the mean of x0 given x_t, as the scheduler saw it in the step just taken.

    Args:
        scheduler: after the step.
        output: what its `step` returned.
        model_output, sample: what its `step` was given.
        sigma: from `sigma_before`.

    Returns:
        As `sample`.

    Raises:
        UsageError: the scheduler does not say.
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
        raise UsageError(f"{kind} does not say what it takes x0 to be. What works: {WORKS}")
    return found


def history(scheduler: Any, particles: int) -> dict[Path, Tensor]:
    """Every tensor that the scheduler keeps with a row per particle (outputs of past steps, say), by where it is kept.

    Raises:
        UsageError: it keeps a tensor of several dimensions with another number of rows, so what follows a particle is unknown.
    """
    found: dict[Path, Tensor] = {}

    def look(value: Any, path: Path) -> None:
        if isinstance(value, Tensor) and value.ndim > 1:
            if value.shape[0] != particles:
                raise UsageError(
                    f"{type(scheduler).__name__}.{path[0]} has shape {tuple(value.shape)} for {particles} particles: what follows "
                    f"a particle cannot be told. What works: {WORKS}"
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
    """Refuse a sampler in which two copies of a particle stay equal for ever: resampling would do nothing but lose particles.

    Tried on the scheduler itself: one step of two copies of the first particle, on a copy of the scheduler.

    Args:
        scheduler: before its first step.
        step: its class's `step`, as a function of the scheduler.
        model_output, timestep, sample: of that step; `options` whatever else the pipeline gives it.

    Raises:
        UsageError: the copies come out equal.
    """
    trial = copy.copy(scheduler)
    trial.__dict__ = copy.deepcopy({name: value for name, value in vars(scheduler).items() if name != "step"})
    if "generator" in inspect.signature(step).parameters:
        options["generator"] = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    output = step(trial, torch.cat([model_output[:1]] * 2), timestep, torch.cat([sample[:1]] * 2), **options)
    after = output[0] if isinstance(output, tuple) else output.prev_sample
    if torch.equal(after[0], after[1]):
        kind = type(scheduler).__name__
        raise UsageError(f"{kind} is deterministic as it is set: copies of a particle would never part. What works: {WORKS}")
