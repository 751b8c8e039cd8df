"""DiffusionGemma: uniform-state diffusion of canvases after a causal prefix, on transformers' own class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fktext.errors import ModelError
from fktext.families.checkpoint import Checkpoint
from fktext.families.family import Family
from fktext.families.words import Frame, Words

if TYPE_CHECKING:
    import torch

    from fktext.texts.model import Network, TextModel

CANVAS = 256  # tokens of a canvas where config.json says nothing
LONGEST = 131_072  # tokens that the network takes, likewise


class DiffusionGemma(Family):
    """DiffusionGemma, an instruct model: no mask token, and its texts end with any of several tokens."""

    name = "diffusiongemma"
    looks = "model_type 'diffusion_gemma'"
    steps = 48
    kernels = ("uniform-ancestral", "entropy-bound")
    spreads = True

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """See `Family`."""
        return checkpoint.settings.get("model_type") == "diffusion_gemma"

    def network(
        self, checkpoint: Checkpoint, words: Words, dtype: torch.dtype, device: torch.device, *, spread: bool = False
    ) -> Network:
        """See `Family`."""
        from fktext.uniform import gemma

        _canvas(checkpoint)
        _text(checkpoint)
        return gemma.load(checkpoint.path, dtype, device, spread=spread)

    def most(self, checkpoint: Checkpoint) -> int:
        """See `Family`."""
        return int(_text(checkpoint).get("max_position_embeddings", LONGEST))

    def usual_frame(self, words: Words) -> Frame:
        """See `Family`."""
        start = words.before if words.before is not None else words.first("bos_token", "<bos>")
        return Frame(start, words.first("eos_token", "<eos>"), words.first("pad_token", "<pad>"))

    def forbidden(self, words: Words, frame: Frame, mask_id: int, vocab_size: int) -> set[int]:
        """See `Family`; there is no mask."""
        return set(range(vocab_size)) - words.ids

    def defaults(self, checkpoint: Checkpoint, most: int) -> dict[str, Any]:
        """See `Family`: a length of one canvas, prompt included."""
        own = {"length": _canvas(checkpoint)} if "default_length" not in checkpoint.section else {}
        return super().defaults(checkpoint, most) | own

    def model(self, checkpoint: Checkpoint, frame: Frame, **common: Any) -> TextModel:
        """See `Family`."""
        from fktext.uniform.model import CanvasModel

        ends = _ends(checkpoint) | (set() if frame.end is None else {frame.end})
        return CanvasModel(ends=tuple(sorted(ends)), **common)


def _canvas(checkpoint: Checkpoint) -> int:
    """Return how many tokens a canvas has."""
    canvas = checkpoint.settings.get("canvas_length", CANVAS)
    if type(canvas) is not int or canvas < 1:
        raise ModelError(f"{checkpoint.path / 'config.json'} has canvas_length {canvas!r}: expected a number of tokens")
    return canvas


def _text(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what config.json says of the part that writes."""
    text = checkpoint.settings.get("text_config")
    if not isinstance(text, dict):
        raise ModelError(f"{checkpoint.path / 'config.json'} has no text_config, which says what a DiffusionGemma's network is")
    return text


def _ends(checkpoint: Checkpoint) -> set[int]:
    """Collect the tokens that end a text: generation_config.json has more of them than config.json."""
    from fktext.files.weights import read_json

    ends: set[int] = set()
    for settings in (read_json(checkpoint.folder / "generation_config.json"), checkpoint.settings, _text(checkpoint)):
        found = settings.get("eos_token_id")
        ends.update(found if isinstance(found, list) else [] if found is None else [found])
    if not all(type(end) is int and end >= 0 for end in ends):
        raise ModelError(f"{checkpoint.path} has eos_token_id {', '.join(sorted(map(str, ends)))}: expected ids of tokens")
    return ends
