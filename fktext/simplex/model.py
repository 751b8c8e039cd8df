"""SSD-LM as a text model: it writes block after block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from fktext.errors import UsageError
from fktext.texts.model import Asked, TextModel

if TYPE_CHECKING:
    from torch import Tensor

    from fktext.settings import KernelLike, TextRun
    from fktext.simplex.guidance import Guidance
    from fktext.simplex.ssdlm import SimplexLM
    from fktext.smc.process import ReverseProcess
    from fktext.text import Text

BLOCK = 25  # tokens that the published SSD-LM writes at a time


@dataclass(frozen=True)
class SimplexModel(TextModel):
    """A loaded SSD-LM, which writes `block` tokens at a time after a context that is not empty.

    Attributes:
        denoiser: a `fktext.simplex.ssdlm.SimplexLM`; its `mask_id` -1 marks what a template or prediction leaves unwritten.
        start_id: the whole context where there is no prompt, or None: a model without one needs a prompt.
        guidance: applied to the logits of every block, such as `fktext.simplex.guidance.ClassifierGuidance`; None for none.
    """

    block: int = BLOCK
    start_id: int | None = None
    guidance: Guidance | None = None

    def stride(self, length: int, wanted: int | None) -> int | None:
        """Return None: it writes by blocks; see `TextModel.stride`."""
        if wanted is not None:
            raise UsageError(f"model {self.name!r} writes by blocks of {self.block} tokens: a stride is for masked models")
        return None

    def template(self, prompt: Asked, length: int) -> Tensor:
        """Return the prompt's tokens, then -1 up to `length`; see `TextModel.template`.

        Raises:
            UsageError: beside the reasons there, an empty prompt without a start token, or blocks that reach beyond
                what the network takes.
        """
        from fktext.simplex.process import blocks_needed

        if length > self.denoiser.max_length:
            raise UsageError(f"length {length} is more than the {self.denoiser.max_length} tokens that model {self.name!r} takes")
        template = super().template(prompt, length)
        blocks = blocks_needed(template, self.block)
        context = length - int((template == self.denoiser.mask_id).sum())
        if not context:
            raise UsageError(f"model {self.name!r} has no start token: give it a prompt")
        if (end := context + blocks * self.block) > self.denoiser.max_length:
            longest = context + (self.denoiser.max_length - context) // self.block * self.block
            remedy = f"a length of at most {longest}" if longest > context else "a shorter prompt"
            raise UsageError(
                f"length {length} after a context of {context} tokens takes {blocks} blocks of {self.block}, {end} tokens in all, "
                f"but model {self.name!r} takes {self.denoiser.max_length}: choose {remedy}"
            )
        return template

    def decode(self, ids: Tensor, prompt: Asked) -> list[Text]:
        """Decode sequences that may be unwritten (-1) from some place on; see `TextModel.decode`."""
        from fktext.text import Text

        mask, start = self.denoiser.mask_id, self.start(prompt)
        texts = self._texts([row[: row.index(mask)] if mask in row else row for row in ids.tolist()], start)
        if str(start.prompt)[:1].isspace():
            return texts
        return [Text(text.removeprefix(" "), prompt=text.prompt.removeprefix(" ")) for text in texts]

    def steerable(self, kernel: str | KernelLike) -> bool:
        """Return True: every projection can be steered."""
        return True

    def num_steps(self, template: Tensor, run: TextRun) -> int:
        """Count the steps of all blocks that are to be written."""
        from fktext.simplex.process import blocks_needed

        return blocks_needed(template, self.block) * run.steps

    def process(self, prompts: Sequence[Asked], templates: Sequence[Tensor], run: TextRun, batch_size: int) -> ReverseProcess[Any]:
        """Make a simplex diffusion; the kernel names its projection."""
        import torch

        from fktext.simplex.process import SimplexDiffusion
        from fktext.simplex.projections import PROJECTIONS

        self._check_memory(templates, run)
        network = cast("SimplexLM", self.denoiser)
        return SimplexDiffusion(
            network,
            torch.stack(list(templates)).to(network.device),
            run.particles,
            run.steps,
            self._decoder(prompts),
            projection=PROJECTIONS[cast(str, run.kernel).removeprefix("simplex-")],
            temperature=run.temperature,
            top_p=run.top_p,
            guidance=self.guidance,
            block=self.block,
            batch_size=batch_size,
        )

    def spell(self, text: str) -> list[int]:
        """Return the tokens of a text as those of a continuing one (after a space); see `TextModel.spell`."""
        return super().spell(_spaced(text))

    def _start(self, prompt: str) -> list[int]:
        """Return the prompt's tokens as those of a continuing text (after a space), or the start token."""
        return super()._start(_spaced(prompt)) or ([] if self.start_id is None else [self.start_id])


def _spaced(text: str) -> str:
    """Put a space before a text that has none."""
    return text if not text or text[0].isspace() else " " + text
