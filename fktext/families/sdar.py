"""SDAR: a Qwen3 that was trained on to write block after block (Cheng et al. 2025, arXiv 2510.06303)."""

from __future__ import annotations

import re

from fktext.families.blocks import ByBlocks, block_of
from fktext.families.checkpoint import Checkpoint
from fktext.families.llm import LLM

BLOCK = 4  # tokens, where neither config.json nor the model's name says so


class SDAR(ByBlocks, LLM):
    """SDAR without experts: Qwen3's tensors under their own names; variants with larger blocks have them in their names."""

    name = model_type = "sdar"
    looks = "model_type 'sdar'"
    kind = "qwen3"
    kernels = (*ByBlocks.kernels, "block-confidence", "block-sequential", "sdar-dynamic")
    masks = ("<|MASK|>", "<MASK>")
    ends = ("<|im_end|>", "<|endoftext|>")
    tokenizer_class = "Qwen2TokenizerFast"

    def block(self, checkpoint: Checkpoint) -> int:
        """See `ByBlocks`: config.json's `block_size`, or what the model's name ends in (-b8 to -b64), or 4."""
        names = [part for part in checkpoint.path.absolute().parts if "sdar" in part.lower()]
        named = re.search(r"-b(\d+)$", names[-1]) if names else None
        return block_of(checkpoint, self.most(checkpoint), int(named[1]) if named else BLOCK)


class SDARMoE(SDAR):
    """SDAR with experts (30B-A3B), as a Qwen3-MoE: that its files have that model's tensor names is presumed, not verified."""

    name = "sdar-moe"
    model_type = "sdar_moe"
    looks = "model_type 'sdar_moe'"
    kind = "qwen3-moe"
