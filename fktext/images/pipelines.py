"""Loading a pipeline of diffusers: embedded, a folder, or a hub id; with a sampler that can be steered."""

from __future__ import annotations

import inspect
import logging as stdlib_logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fktext.batches import usable_device
from fktext.errors import ModelError, UsageError, unknown_name
from fktext.files import hub
from fktext.files.catalogue import image_catalogue
from fktext.images import schedulers
from fktext.images.names import INDEX, place

INSTALL = "images need diffusers and Pillow: pip install 'fktext[image]'"
# name -> the scheduler's class and what its configuration must say
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "sde-dpmsolver": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "flow-sde": ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
}


def load(
    name: str, *, device: str = "cpu", dtype: str = "float32", offline: bool = False, scheduler: str | None = None
) -> tuple[Any, str | None]:
    """Load a pipeline.

    Args:
        name: an embedded pipeline, a folder that holds one, an alias (`fktext models`) or a hub id.
        device: where to put it.
        dtype: of its weights.
        offline: when true, never touch a network.
        scheduler: one of `SCHEDULERS` in the place of its own.

    Returns:
        The pipeline, and the digest of its weights where they lie in files that can be found.

    Raises:
        UsageError: diffusers is not installed, an unknown name or device, or a scheduler that does not fit the pipeline.
        ModelError: it cannot be loaded.
    """
    try:
        import diffusers
        import PIL  # noqa: F401  what the images are written by
    except ImportError as error:
        raise UsageError(f"{INSTALL} ({error})") from error
    from safetensors import SafetensorError

    where = usable_device(device)
    if scheduler is not None and scheduler not in SCHEDULERS:
        raise unknown_name("scheduler", scheduler, SCHEDULERS)
    source = place(name)
    folder = Path(source)
    if not folder.exists() and "/" not in source:
        raise unknown_name("image model", name, [*(entry.name for entry in image_catalogue()), "a folder", "a hub id"])
    if folder.is_dir() and not (folder / INDEX).is_file():
        raise ModelError(f"{str(folder)!r} has no {INDEX}: expected a pipeline as diffusers saves it")
    local = offline or hub.is_offline()
    try:
        with _quiet():
            pipeline = diffusers.DiffusionPipeline.from_pretrained(source, dtype=getattr(torch, dtype), local_files_only=local)
    except (OSError, ValueError, SafetensorError) as error:
        why = " (the run is offline: only folders and the local hub cache count)" if local else ""
        raise ModelError(f"cannot load the pipeline {name!r}{why}: {str(error).strip().splitlines()[0]}") from error
    for part, network in pipeline.components.items():
        tensors = network.named_parameters() if isinstance(network, torch.nn.Module) else ()
        if missing := [key for key, tensor in tensors if tensor.is_meta]:
            raise ModelError(f"the pipeline {name!r} lacks weights of its {part}, such as {missing[0]}")
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipeline.scheduler = _scheduler(scheduler, pipeline, name)
    return pipeline.to(where), digest_of(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and diffusers' remarks off stderr; transformers' name weights of a text encoder that are missing."""
    import diffusers
    from transformers.utils import logging

    verbosity, bar = diffusers.logging.get_verbosity(), logging.is_progress_bar_enabled()
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    logging.disable_progress_bar()
    imports = stdlib_logging.getLogger("transformers.utils.import_utils")
    imports.addFilter(_not_of_torchvision)
    try:
        yield
    finally:
        imports.removeFilter(_not_of_torchvision)
        diffusers.logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _not_of_torchvision(record: stdlib_logging.LogRecord) -> bool:
    """Tell whether a log record is something else than that transformers takes an image processor that needs no torchvision.

    diffusers imports image processors by the names of those that need torchvision. Without it transformers gives diffusers those
    that need Pillow alone, which is what fktext asks to be installed, and tells whoever runs diffusers to change its imports.
    """
    text = record.getMessage()
    return not ("requires torchvision (not installed); falling back to" in text and text.startswith("`"))


def _scheduler(wanted: str, pipeline: Any, name: str) -> Any:
    """Make the scheduler wanted in the place of a pipeline's own.

    Raises:
        UsageError: it does not fit the pipeline, which the message calls `name`.
    """
    import diffusers

    if wanted not in (fits := fitting(pipeline)):
        why = (
            f"is not what a {type(pipeline).__name__} runs as it must be run"
            if wanted in _of_one_kind(pipeline.scheduler)
            else f"is of another kind of diffusion than {name!r}, whose own is a {type(pipeline.scheduler).__name__}"
        )
        raise UsageError(f"scheduler {wanted!r} {why}. What fits: {', '.join(fits) or 'only its own'}")
    kind, settings = SCHEDULERS[wanted]
    return getattr(diffusers, kind).from_config(pipeline.scheduler.config, **settings)


def fitting(pipeline: Any, *, scales: bool = True) -> list[str]:
    """Return those of `SCHEDULERS` with which a pipeline samples the right law.

    Those of its own kind of diffusion that it runs as they ask for, as far as its code tells: for some it must scale what the
    network sees and the noise that they begin with, and DDIM's own options are nothing to others.

    Args:
        pipeline: with a scheduler of that kind of diffusion.
        scales: false where a run has shown that it does not scale them.
    """
    import diffusers

    code = _names(type(pipeline))
    scales = scales and "scale_model_input" in code and bool(code & {"init_noise_sigma", "add_noise"})
    ddim = "use_clipped_model_output" in inspect.signature(pipeline.__call__).parameters
    found = []
    for name in _of_one_kind(pipeline.scheduler):
        scheduler = getattr(diffusers, SCHEDULERS[name][0])()
        scheduler.set_timesteps(2)
        asks = schedulers.rescales(scheduler, torch.ones(1), scheduler.timesteps[0])
        if (scales or not asks) and (not ddim or "use_clipped_model_output" in inspect.signature(scheduler.step).parameters):
            found.append(name)
    return found


def _names(kind: type) -> set[Any]:
    """Return all that the methods of a class name, attributes and literals."""
    codes = [inspect.unwrap(method).__code__ for _, method in inspect.getmembers(kind, inspect.isfunction)]
    return {name for code in codes for name in (*code.co_names, *code.co_consts)}


def _of_one_kind(scheduler: Any) -> list[str]:
    """Return those of `SCHEDULERS` that fit a network made for this one: diffusers would take any and draw nonsense."""
    flow, known = "FlowMatch" in type(scheduler).__name__, {kind.__name__ for kind in getattr(scheduler, "compatibles", ())}
    return [name for name, (kind, _) in SCHEDULERS.items() if kind in known or (flow and "FlowMatch" in kind)]


def digest_of(folder: Path) -> str | None:
    """Return the digest of a folder's weights, None where there is none with weights."""
    from fktext.files.weights import digest

    files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    return digest(files) if files else None
