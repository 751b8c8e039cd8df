"""A uniform-state diffusion model of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from fktext.errors import UsageError
from fktext.texts.model import Asked, Start, TextModel

if TYPE_CHECKING:
    from torch import Tensor

    from fktext.masked.denoiser import Denoiser
    from fktext.settings import KernelLike, TextRun
    from fktext.smc.process import ReverseProcess
    from fktext.texts.templates import Template

UNWRITTEN = -1  # the `mask_id` of a network that has no mask: no token, so it never reaches the network


@dataclass(frozen=True)
class UniformModel(TextModel):
    """A `TextModel` without a mask: its texts begin as random tokens, and all of them may change until the end."""

    def stride(self, length: int, wanted: int | None) -> int | None:
        """Return None: one window holds the text; see `TextModel.stride`."""
        if wanted is not None:
            raise UsageError(f"model {self.name!r} writes a text in one window: a stride is for masked models")
        if length > (most := self.denoiser.max_length):
            raise UsageError(f"length {length} is more than the {most} tokens that model {self.name!r} takes")
        return None

    def steerable(self, kernel: str | KernelLike) -> bool:
        """Return True: its kernel has a law."""
        return True

    def num_steps(self, template: Tensor, run: TextRun) -> int:
        """Return the steps asked for."""
        return run.steps

    def process(self, prompts: Sequence[Asked], templates: Sequence[Tensor], run: TextRun, batch_size: int) -> ReverseProcess[Any]:
        """Make a uniform-state diffusion; see `TextModel.process`."""
        import torch

        from fktext.uniform.process import UniformDiffusion

        self._check_memory(templates, run)
        network = cast("Denoiser", self.denoiser)
        return UniformDiffusion(
            network,
            torch.stack(list(templates)).to(torch.device(str(network.device))),
            run.particles,
            run.steps,
            self._decoder(prompts),
            forbidden=self.forbidden,
            temperature=run.temperature,
            top_p=run.top_p,
            batch_size=batch_size,
        )

    def _filled(self, template: Template) -> Start:
        """See `TextModel`."""
        raise UsageError(
            f"model {self.name!r} cannot fill a template: it was never trained with the text behind a gap fixed. "
            "Choose a masked model, or give the beginning as a prompt"
        )
