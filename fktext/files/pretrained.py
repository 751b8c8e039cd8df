"""Load a local folder in the layout of transformers' `save_pretrained`, without remote code, network or chatter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fktext.errors import ModelError, one_line
from fktext.files.weights import int8_weights

if TYPE_CHECKING:
    import torch


def pretrained(folder: Path, auto: Any, what: str, *, dtype: torch.dtype | None = None, spread: bool = False) -> Any:
    """Load the model of a folder in evaluation mode; its matrices may be stored as int8 (`weights.quantised`).

    Args:
        folder: config.json and weights.
        auto: the class to load with, such as transformers.AutoModelForMaskedLM.
        what: what it is loaded as, for errors, such as "a masked language model".
        dtype: of the weights; buffers stay as they are made. None makes all of it float32.
        spread: over all devices, by accelerate.

    Raises:
        ModelError: files are damaged, contradict each other or lack weights.
    """
    from transformers import AutoConfig

    # Shapes that do not fit are refused below: transformers names them in a report that is not part of its error.
    options = {"local_files_only": True, "trust_remote_code": False, "output_loading_info": True, "ignore_mismatched_sizes": True}
    given = ({} if dtype is None else {"dtype": dtype}) | ({"device_map": "auto"} if spread else {})
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            if (weights := int8_weights(folder)) is None:
                model, report = auto.from_pretrained(folder, config=config, **options, **given)
            else:  # only a concrete class takes weights without a file
                model, report = type(auto.from_config(config)).from_pretrained(None, config=config, state_dict=weights, **options)
    except Exception as error:  # transformers and safetensors raise many kinds
        raise ModelError(f"{folder} cannot be loaded as {what}: {type(error).__name__}: {one_line(error)}") from error
    if wrong := sorted(report["mismatched_keys"]):
        name, found, needed = wrong[0]
        raise ModelError(f"{folder} contradicts itself: {name} has shape {tuple(found)}, config.json asks for {tuple(needed)}")
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{folder} lacks weights of {type(model).__name__}, such as {', '.join(missing[:3])}")
    return (model if dtype is not None else model.float()).eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bar and remarks off stderr: what matters of them is an error here."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
