"""dllm's models: Qwen3, Qwen2 and Llama that were trained on to unmask whole texts (mdlm) or block after block (bd3lm)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fktext.errors import ModelError
from fktext.families.blocks import ByBlocks, block_of
from fktext.families.checkpoint import Checkpoint
from fktext.families.llm import LLM
from fktext.families.words import Frame, Words

KINDS = {"a2d-qwen3": "qwen3", "a2d-qwen2": "qwen2", "a2d-llama": "llama"}  # of networks, by model type
BLOCK = 32  # tokens of the published models that write by blocks; no config.json says it


class A2D(LLM):
    """A Qwen3, Qwen2 or Llama with full attention."""

    name = "a2d-mdlm"
    model_type = "a2d-qwen3"
    looks = "model_type 'a2d-qwen3', 'a2d-qwen2' or 'a2d-llama'"
    kind = "qwen3"
    masks = ("<|mask|>",)
    tokenizer_class = "Qwen2TokenizerFast"
    template: ClassVar[Mapping[str, Any]] = {"enable_thinking": False}  # as it was trained: an empty thought before an answer

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """See `Family`; the files of both kinds are alike, so their name has to tell which they are.

        Raises:
            ModelError: it does not.
        """
        if checkpoint.settings.get("model_type") not in KINDS:
            return False
        if "block" in checkpoint.section:
            return self.name == A2DBlocks.name
        kinds = (("bd3lm", A2DBlocks.name), ("mdlm", A2D.name))
        named = (family for part in reversed(checkpoint.path.absolute().parts) for word, family in kinds if word in part.lower())
        if (found := next(named, None)) is None:
            raise ModelError(
                f"{checkpoint.path} does not say whether it was trained on whole texts or on blocks: put mdlm or bd3lm into the "
                'name of its folder, or "fktext": {"block": 32} into its config.json'
            )
        return found == self.name

    def usual_frame(self, words: Words) -> Frame:
        """See `Family`; Qwen's ends of a turn and of a text, or Llama's."""
        return Frame(words.before, words.first("", "<|im_end|>", "<|eot_id|>"), words.first("", "<|endoftext|>", "<|end_of_text|>"))

    def built(self, checkpoint: Checkpoint) -> str:
        """See `LLM`."""
        return KINDS[checkpoint.settings["model_type"]]


class A2DBlocks(ByBlocks, A2D):
    """The same network where it was trained to write by blocks."""

    name = "a2d-bd3lm"
    looks = ""
    kernels = (*ByBlocks.kernels, "block-confidence")

    def block(self, checkpoint: Checkpoint) -> int:
        """See `ByBlocks`."""
        return block_of(checkpoint, self.most(checkpoint), BLOCK)
