"""LLaDA2: a mixture of experts that writes block after block (Bie et al. 2025, arXiv 2512.15745), on GLM-4's class."""

from __future__ import annotations

from fktext.families.blocks import ByBlocks, block_of
from fktext.families.checkpoint import Checkpoint
from fktext.families.llm import LLM

BLOCK = 32  # tokens: what the published code writes at a time; no config.json says it


class LLaDA2(ByBlocks, LLM):
    """LLaDA2.0 and 2.1; neither the block nor the mask is in their config.json."""

    name = "llada2"
    model_type = "llada2_moe"
    looks = "model_type 'llada2_moe'"
    kind = "llada2"
    kernels = (*ByBlocks.kernels, "llada2-threshold", "llada2-edit")
    masks = ("<|mask|>",)
    ends = ("<|role_end|>", "<|endoftext|>")
    tokenizer_class = "PreTrainedTokenizerFast"

    def block(self, checkpoint: Checkpoint) -> int:
        """See `ByBlocks`."""
        return block_of(checkpoint, self.most(checkpoint), BLOCK)
