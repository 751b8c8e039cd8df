"""What a family of text models is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fktext.families.checkpoint import Checkpoint
from fktext.families.words import Frame, Words

if TYPE_CHECKING:
    import torch

    from fktext.texts.model import Network, TextModel

REMASKING = ("remdm-cap", "remdm-rescale", "remdm-conf", "remdm-loop")
CONFIDENCE = ("confidence", "confidence-maskgit-plus", "confidence-topk-margin", "confidence-entropy")


class Family(ABC):
    """The record of a family: how its files are known, what network they make, and what its sequences look like.

    Attributes:
        name: what lists and config files call it.
        looks: what `recognises` looks for, for an error.
        length, steps, top_p: of a run, where neither the user nor the model's config.json names them.
        kernels: the reverse processes it can be run with (`fktext.masked.kernels`), the default first.
        layers: files that belong to the weights and lie beside them.
        tokenizers: hub ids whose tokenizer serves where a folder has none.
        tokenizer_class: of transformers, for a folder without tokenizer.json.
        spreads: whether `device_map` can spread the network over devices.
        chats: whether a chat template can be put around prompts.
        template: what its chat template is told beside the conversation.
    """

    name: ClassVar[str]
    looks: ClassVar[str]
    length: ClassVar[int] = 128
    steps: ClassVar[int] = 128
    top_p: ClassVar[float] = 1.0
    kernels: ClassVar[tuple[str, ...]] = ("ancestral", "first-hitting", "any-order", *REMASKING, *CONFIDENCE)
    layers: ClassVar[tuple[str, ...]] = ()
    tokenizers: ClassVar[tuple[str, ...]] = ()
    tokenizer_class: ClassVar[str] = "AutoTokenizer"
    spreads: ClassVar[bool] = False
    chats: ClassVar[bool] = True
    template: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Tell whether a checkpoint is of this family; those before it in the table have declined."""

    @abstractmethod
    def network(
        self, checkpoint: Checkpoint, words: Words, dtype: torch.dtype, device: torch.device, *, spread: bool = False
    ) -> Network:
        """Make the network of a checkpoint.

        Args:
            checkpoint: of this family.
            words: the tokens of its tokenizer.
            dtype, device: of the weights.
            spread: over all devices; only where `spreads`.

        Raises:
            ModelError: files are damaged or contradict each other.
        """

    @abstractmethod
    def most(self, checkpoint: Checkpoint) -> int:
        """Tell how many tokens the network takes, without making it."""

    def parameters(self, checkpoint: Checkpoint) -> int:
        """Count the numbers that the network holds, tied ones once, without making it."""
        from fktext.files.weights import tensor_shapes

        shapes = {name: shape for file in checkpoint.files for name, shape in tensor_shapes(file).items()}
        return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith("inv_freq"))

    def frame(self, words: Words) -> Frame:
        """Choose the special tokens around a text: those of config.json's section, or else what is usual in the family."""
        return words.own if words.section else self.usual_frame(words)

    def usual_frame(self, words: Words) -> Frame:
        """See `frame`; here as the tokenizer frames a text."""
        return Frame(words.before, words.first("eos_token"), words.first("pad_token"))

    def forbidden(self, words: Words, frame: Frame, mask_id: int, vocab_size: int) -> set[int]:
        """List the token ids that p(x0) never gives mass: the mask, and the network's ids that are no token."""
        return {mask_id, *(set(range(vocab_size)) - words.ids)}

    def spare(self, vocab_size: int) -> int:
        """Tell how many ids the network may have beyond its tokenizer's: networks round their vocabulary up."""
        return vocab_size // 20

    def defaults(self, checkpoint: Checkpoint, most: int) -> dict[str, Any]:
        """Give length, steps, temperature and top_p of a run that names none.

        Args:
            checkpoint: its section `fktext` comes first.
            most: tokens that the network takes.
        """
        section = checkpoint.section
        return {
            "length": section.get("default_length", min(self.length, most)),
            "steps": section.get("default_steps", self.steps),
            "temperature": float(section.get("default_temperature", 1.0)),
            "top_p": section.get("default_top_p", self.top_p),
        }

    def model(self, checkpoint: Checkpoint, frame: Frame, **common: Any) -> TextModel:
        """Put network, tokenizer and conventions together.

        Args:
            checkpoint, frame: see above.
            common: the attributes of a `TextModel`.
        """
        from fktext.masked.model import MaskedModel

        return MaskedModel(**common)
