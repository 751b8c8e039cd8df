"""Uniform-state diffusion models of texts: of one window, and those that write canvas after canvas."""

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
    from fktext.text import Text
    from fktext.texts.templates import Template
    from fktext.uniform.canvas import CanvasNetwork

ETA = 0.2  # of the kernel "uniform-psi"
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
        """Tell whether a kernel has a law."""
        return kernel != "uniform-greedy-tail"

    def lawless(self, kernel: str) -> str:
        """See `TextModel.lawless`."""
        return "its last step takes the likeliest token everywhere, so its texts do not follow p(x)"

    def greedy(self, kernel: str | KernelLike) -> bool:
        """Return False: at temperature 0 nothing of p would be left to draw on the way."""
        return False

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
            corrections=int(run.kernel == "uniform-gibbs"),
            eta=ETA if run.kernel == "uniform-psi" else 0.0,
            greedy_tail=run.kernel == "uniform-greedy-tail",
        )

    def _filled(self, template: Template) -> Start:
        """See `TextModel`."""
        raise UsageError(
            f"model {self.name!r} cannot fill a template: it was never trained with the text behind a gap fixed. "
            "Choose a masked model, or give the beginning as a prompt"
        )


@dataclass(frozen=True)
class CanvasModel(TextModel):
    """A loaded DiffusionGemma: it writes a canvas of tokens at a time after what is there; steps are those of a canvas.

    Attributes:
        denoiser: a `fktext.uniform.canvas.CanvasNetwork`; its `mask_id` marks what a template or prediction leaves unwritten.
        ends: tokens that end a text.
    """

    ends: tuple[int, ...] = ()

    @property
    def network(self) -> CanvasNetwork:
        """The denoiser, as what it is."""
        return cast("CanvasNetwork", self.denoiser)

    def stride(self, length: int, wanted: int | None) -> int | None:
        """Return None: it writes by canvases; see `TextModel.stride`."""
        if wanted is not None:
            raise UsageError(f"model {self.name!r} writes {self.network.canvas} tokens at a time: a stride is for masked models")
        return None

    def template(self, prompt: Asked, length: int) -> Tensor:
        """Return the prompt's tokens, then -1 up to `length`; see `TextModel.template`.

        Raises:
            UsageError: beside the reasons there, nothing to go on from, or canvases that reach beyond what the network takes.
        """
        template, mask, size = super().template(prompt, length), self.denoiser.mask_id, self.network.canvas
        written = int((template != mask).sum())
        if not written:
            raise UsageError(f"model {self.name!r} has no start token: give it a prompt")
        end = written + -(-(length - written) // size) * size
        if end > (most := self.denoiser.max_length):
            raise UsageError(
                f"length {length} after a prompt of {written} tokens takes {end} tokens in canvases of {size}, but model "
                f"{self.name!r} takes {most}: choose a shorter length"
            )
        return template

    def steerable(self, kernel: str | KernelLike) -> bool:
        """Tell whether a kernel has a law."""
        return kernel != "entropy-bound"

    def lawless(self, kernel: str) -> str:
        """See `TextModel.lawless`."""
        return (
            "which tokens stay depends on how sure the network is of them, so its texts do not follow p(x), and predictions drawn "
            "from p(x0 | x_t) say nothing of how it goes on"
        )

    def greedy(self, kernel: str | KernelLike) -> bool:
        """Return False: at temperature 0 nothing of p would be left to draw."""
        return False

    def num_steps(self, template: Tensor, run: TextRun) -> int:
        """Count the steps of all canvases that are to be written."""
        from fktext.uniform.canvas import canvases_needed

        return canvases_needed(template, self.network.canvas) * run.steps

    def process(self, prompts: Sequence[Asked], templates: Sequence[Tensor], run: TextRun, batch_size: int) -> ReverseProcess[Any]:
        """Make a diffusion of canvases; see `TextModel.process`."""
        import torch

        from fktext.uniform.canvas import CanvasDiffusion
        from fktext.uniform.entropy_bound import EntropyBound

        self._check_memory(templates, run)
        kind = EntropyBound if run.kernel == "entropy-bound" else CanvasDiffusion
        return kind(
            self.network,
            torch.stack(list(templates)).to(torch.device(str(self.network.device))),
            run.particles,
            run.steps,
            self._decoder(prompts),
            ends=self.ends,
            forbidden=self.forbidden,
            temperature=run.temperature,
            top_p=run.top_p,
            batch_size=batch_size,
        )

    def decode(self, ids: Tensor, prompt: Asked) -> list[Text]:
        """Turn sequences into texts, up to the first end behind the prompt or what is unwritten (-1); see `TextModel.decode`."""
        start, stops = self.start(prompt), {self.denoiser.mask_id, *self.ends}
        size = len(start.ids)
        ends = ((row, next((at for at in range(size, len(row)) if row[at] in stops), None)) for row in ids.tolist())
        return self._texts([row[:end] for row, end in ends], start)
