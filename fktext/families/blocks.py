"""What families have in common that write block after block."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from fktext.errors import ModelError
from fktext.families.checkpoint import Checkpoint
from fktext.families.family import Family
from fktext.families.words import Frame

if TYPE_CHECKING:
    from fktext.texts.model import TextModel


def block_of(checkpoint: Checkpoint, most: int, usual: int) -> int:
    """Read how many tokens a block has: `block` of config.json's section, or its block_size, or else what is usual.

    Args:
        checkpoint: of a family that writes by blocks.
        most: tokens that the network takes.
        usual: for a config.json that says nothing.

    Raises:
        ModelError: it is no number of tokens, or more than the network takes.
    """
    block = checkpoint.section.get("block", checkpoint.settings.get("block_size", usual))
    if type(block) is not int or not 0 < block <= most:
        name = "fktext.block" if "block" in checkpoint.section else "block_size"
        raise ModelError(
            f"{checkpoint.path} has {name} {block!r} in its config.json, expected a whole number of tokens up to the {most} "
            "that the network takes"
        )
    return block


class ByBlocks(Family):
    """A family of masked models whose texts are written by blocks, from left to right (`fktext.masked.blocks`)."""

    kernels: ClassVar[tuple[str, ...]] = ("ancestral", "first-hitting", "any-order")

    @abstractmethod
    def block(self, checkpoint: Checkpoint) -> int:
        """Tell how many tokens a block has."""

    def defaults(self, checkpoint: Checkpoint, most: int) -> dict[str, Any]:
        """See `Family`: a length of whole blocks, and steps of a block, as many as it has tokens."""
        block = self.block(checkpoint)
        usual = {"length": max(block, min(self.length, most) // block * block), "steps": min(self.steps, block)}
        given = {name for name in usual if f"default_{name}" in checkpoint.section}
        return super().defaults(checkpoint, most) | {name: value for name, value in usual.items() if name not in given}

    def model(self, checkpoint: Checkpoint, frame: Frame, **common: Any) -> TextModel:
        """See `Family`."""
        from fktext.masked.blocks import BlockModel

        return BlockModel(block=self.block(checkpoint), **common)
