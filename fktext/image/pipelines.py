"""Loading a pipeline of diffusers: embedded, a folder, or a hub id; with a sampler that can be steered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fktext import embedded, hub
from fktext.errors import ModelError, UsageError, unknown_name

INSTALL = "images need diffusers and Pillow: pip install 'fktext[image]'"
# name -> the scheduler's class and what its configuration must say
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "sde-dpmsolver": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "flow-sde": ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
}
INDEX = "model_index.json"  # what makes a folder a pipeline


def is_pipeline(name: str) -> bool:
    """Whether a name is that of an embedded pipeline or of a folder that holds one."""
    return name in embedded.pipelines() or (Path(name).expanduser() / INDEX).is_file()


def load(
    name: str, *, device: str = "cpu", dtype: str = "float32", offline: bool = False, scheduler: str | None = None
) -> tuple[Any, str | None]:
    """Load a pipeline.

    Args:
        name: an embedded pipeline, a folder that holds one, or a hub id.
        device: where to put it.
        dtype: of its weights.
        offline: when true, never touch a network.
        scheduler: one of `SCHEDULERS` in the place of its own.

    Returns:
        The pipeline, and the digest of its weights where they lie in files that can be found.

    Raises:
        UsageError: diffusers is not installed, an unknown name, or a scheduler of another kind of diffusion than the pipeline's.
        ModelError: it cannot be loaded.
    """
    try:
        import diffusers
        import PIL  # noqa: F401  what the images are written by
    except ImportError as error:
        raise UsageError(f"{INSTALL} ({error})") from error
    import torch
    from safetensors import SafetensorError
    from transformers.utils import logging

    if scheduler is not None and scheduler not in SCHEDULERS:
        raise unknown_name("scheduler", scheduler, SCHEDULERS)
    folder = Path(embedded.path(name) if name in embedded.pipelines() else name).expanduser()
    if not folder.exists() and "/" not in name:
        raise unknown_name("image model", name, [*embedded.pipelines(), "a folder", "a hub id"])
    if folder.is_dir() and not (folder / INDEX).is_file():
        raise ModelError(f"{str(folder)!r} has no {INDEX}: expected a pipeline as diffusers saves it")
    local = offline or hub.is_offline()
    verbosity, bar = diffusers.logging.get_verbosity(), logging.is_progress_bar_enabled()
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    logging.disable_progress_bar()  # its warnings stay: they name weights of a text encoder that are missing
    try:
        source = str(folder) if folder.is_dir() else name
        pipeline = diffusers.DiffusionPipeline.from_pretrained(source, dtype=getattr(torch, dtype), local_files_only=local)
    except (OSError, ValueError, SafetensorError) as error:
        where = " (the run is offline: only folders and the local hub cache count)" if local else ""
        raise ModelError(f"cannot load the pipeline {name!r}{where}: {str(error).strip().splitlines()[0]}") from error
    finally:
        diffusers.logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
    for part, network in pipeline.components.items():
        tensors = network.named_parameters() if isinstance(network, torch.nn.Module) else ()
        if missing := [key for key, tensor in tensors if tensor.is_meta]:
            raise ModelError(f"the pipeline {name!r} lacks weights of its {part}, such as {missing[0]}")
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        if scheduler not in (fitting := _fitting(pipeline.scheduler)):
            raise UsageError(
                f"scheduler {scheduler!r} is of another kind of diffusion than {name!r}, whose own is a "
                f"{type(pipeline.scheduler).__name__}. What fits: {', '.join(fitting) or 'only its own'}"
            )
        kind, settings = SCHEDULERS[scheduler]
        pipeline.scheduler = getattr(diffusers, kind).from_config(pipeline.scheduler.config, **settings)
    return pipeline.to(device), _digest(folder)


def _fitting(scheduler: Any) -> list[str]:
    """Which of `SCHEDULERS` take the outputs of a network made for this one: diffusers itself would take any and draw nonsense."""
    flow, known = "FlowMatch" in type(scheduler).__name__, {kind.__name__ for kind in scheduler.compatibles}
    return [name for name, (kind, _) in SCHEDULERS.items() if kind in known or (flow and "FlowMatch" in kind)]


def _digest(folder: Path) -> str | None:
    from fktext.checkpoint_files import digest

    files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    return digest(files) if files else None
