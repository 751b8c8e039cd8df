"""A masked-diffusion model of texts: it sees both sides of a gap, so it fills templates, and texts longer than its network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from fktext.errors import UsageError, shorten
from fktext.texts.model import Asked, Start, TextModel
from fktext.texts.templates import Template

if TYPE_CHECKING:
    from torch import Tensor

    from fktext.masked.denoiser import Denoiser
    from fktext.masked.process import MaskedDiffusion
    from fktext.settings import KernelLike, TextRun
    from fktext.smc.process import ReverseProcess
    from fktext.text import Text

_SPACES = ("\u0120", "\u2581")  # how byte-level and SentencePiece tokens write the space they begin with


@dataclass(frozen=True)
class MaskedModel(TextModel):
    """A `TextModel` whose network is a `fktext.masked.denoiser.Denoiser`; its kernels are rows of `fktext.masked.kernels`."""

    def stride(self, length: int, wanted: int | None) -> int | None:
        """Tell how far the window moves where a text is longer than the network (see `fktext.masked.strides`), else None.

        None wanted takes half of what the network takes; for the rest see `TextModel.stride`.
        """
        size = self.denoiser.max_length
        if length <= size:
            if wanted is not None:
                raise UsageError(f"stride {wanted} has no use: length {length} fits into the {size} tokens of model {self.name!r}")
            return None
        room = size - (self.bos_id is not None) - (self.closing_id is not None)
        stride = max(1, size // 2) if wanted is None else wanted
        if not 0 < stride < room:
            raise UsageError(f"stride {stride} is out of range: model {self.name!r} takes strides of 1 to {room - 1} tokens")
        return stride

    def compiled(self) -> MaskedModel:
        """Return this model with its network compiled by torch: slow at first, then faster (see `fktext.masked.compiled`)."""
        from fktext.masked.compiled import Compiled

        return replace(self, denoiser=Compiled(cast("Denoiser", self.denoiser)))

    def takes(self, kernel: str | KernelLike) -> bool:
        """See `TextModel`: its own by name, and any kernel of masked models as an object."""
        from fktext.masked.kernels import Kernel

        return super().takes(kernel) or isinstance(kernel, Kernel)

    def guidable(self, kernel: str | KernelLike) -> bool:
        """See `TextModel`."""
        from fktext.masked.denoiser import Embedding
        from fktext.masked.kernels import kernel_of

        return kernel_of(kernel).guidable and isinstance(self.denoiser, Embedding)

    def guided(
        self, process: ReverseProcess[Any], values: Sequence[Any], weights: Sequence[float], run: TextRun
    ) -> ReverseProcess[Any]:
        """See `TextModel`."""
        from fktext.masked.guided import Gradient, Guided, Scores
        from fktext.masked.straight_through import StraightThrough

        denoiser = cast("Denoiser", self.denoiser)
        scores: Scores
        if run.proposal == "straight-through":
            special = {denoiser.mask_id, *self.forbidden, *self._endings, *self._special}
            tokens = {token: index for token, index in self.tokenizer.get_vocab().items() if index not in special}
            scores = StraightThrough(denoiser, values, weights, run.lam, tokens, self._endings)
        else:
            scores = Gradient(denoiser, values, weights, run.lam)
        return Guided(process, scores, run.guidance, corrected=run.proposal != "d-cbg")

    def steerable(self, kernel: str | KernelLike) -> bool:
        """Tell whether a kernel can be steered."""
        from fktext.masked.kernels import kernel_of

        return kernel_of(kernel).steerable

    def num_steps(self, template: Tensor, run: TextRun) -> int:
        """Count the reverse steps of a run from this template."""
        return len(self._windows(template, run)) * run.steps

    def process(self, prompts: Sequence[Asked], templates: Sequence[Tensor], run: TextRun, batch_size: int) -> ReverseProcess[Any]:
        """Make the process of the run's kernel, in strides where texts are longer than the network; see `TextModel.process`."""
        import torch

        from fktext.masked.kernels import kernel_of

        self._check_memory(templates, run)
        denoiser = cast("Denoiser", self.denoiser)
        ids, columns = torch.stack(list(templates)), self._windows(templates[0], run)
        ids = ids.to(torch.device(str(denoiser.device)))
        starts = [self.start(prompt) for prompt in prompts]
        infilling = [start for start in starts if isinstance(start.prompt, Template)]
        process = kernel_of(run.kernel).build(
            denoiser,
            ids[:, columns[0].to(ids.device)],
            run.particles,
            run.steps,
            self._decoder(starts),
            # A template says how long its text is: nothing ends or pads it.
            forbidden=(*self.forbidden, *(self._endings if infilling else ())),
            barred=self._barred(infilling, ids) if infilling else None,
            temperature=run.temperature,
            top_p=run.top_p,
            batch_size=batch_size,
        )
        if not self._equip(process) and ids.shape[1] == len(columns[0]):
            return process
        from fktext.masked.strides import Strides

        decode = self._decoder(starts)
        return Strides(process, ids, columns, run.particles, decode, endings=self._endings)

    def _equip(self, process: MaskedDiffusion) -> bool:
        """Change what a process runs its network with; return whether that sees no more than the end of a window."""
        return False

    def _windows(self, template: Tensor, run: TextRun) -> Sequence[Tensor]:
        """List the columns of each window that a sequence is written in."""
        import torch

        if run.stride is None or len(template) <= self.denoiser.max_length:
            return [torch.arange(len(template))]
        from fktext.masked.strides import windows

        frame = int(self.bos_id is not None), int(self.closing_id is not None)
        return windows(template, self.denoiser.mask_id, self.denoiser.max_length, run.stride, *frame)

    def _filled(self, template: Template) -> Start:
        """See `TextModel`."""
        ids, begins = self._infilling(template)
        return Start(template, tuple(ids), "", tuple(begins))

    def decode(self, ids: Tensor, prompt: Asked) -> list[Text]:
        """See `TextModel.decode`; what is longer than the network may hold masks: its text is what comes before them."""
        if ids.shape[1] <= self.denoiser.max_length:
            return super().decode(ids, prompt)
        rows, mask = ids.tolist(), self.denoiser.mask_id
        return self._texts([row[: row.index(mask)] if mask in row else row for row in rows], self.start(prompt))

    def _infilling(self, template: Template) -> tuple[list[int], list[int]]:
        """Return BOS and the tokens of a template, masks in its gaps; and the places of masks that have to begin a word."""
        where = f"template {shorten(template.source)!r}"
        size, most = (self.bos_id is not None) + (self.closing_id is not None), self.denoiser.max_length
        ids: list[int] = [] if self.bos_id is None else [self.bos_id]
        begins = []
        for place, part in enumerate(template.parts):
            if isinstance(part, int):
                size += part
                ids += [self.denoiser.mask_id] * min(part, most)  # a gap of millions is refused below
                continue
            # A space before a gap is no token of its own in the texts that models learn from: it belongs to the next word.
            begin = place + 1 < len(template.parts) and self._ends_in_space(part)
            literal = self._inside(part[:-1] if begin else part, place, where)
            size, ids = size + len(literal), ids + literal
            begins += [len(ids)] if begin else []
        if size > most:
            raise UsageError(f"{where} takes {size} tokens, but model {self.name!r} takes {most}")
        return ids, begins

    def _inside(self, text: str, place: int, where: str) -> list[int]:
        """Return the tokens of a part of a template, as they are after a gap where it is not the first.

        A tokenizer may write a beginning text otherwise than one that goes on: with a space, or as a word of its own. So the text
        is also encoded after a letter, and the tokens taken are those that spell it there.
        """
        alone = self._ids(text, where)
        if place == 0 or not text:
            return alone
        for before in "ae1)":
            with suppress(UsageError):  # not every tokenizer has every letter
                start, joined = self._ids(before, ""), self._ids(before + text, "")
                offsets = self.tokenizer.encode(before + text, add_special_tokens=False).offsets
                cut = next((index for index, (first, _) in enumerate(offsets) if first >= len(before)), len(joined))
                wanted = (self.tokenizer.decode(start) + text).strip().casefold()
                for ids in (alone, joined[cut:]):
                    if self.tokenizer.decode(start + ids).strip().casefold() == wanted:
                        return ids
        return alone

    def _ends_in_space(self, text: str) -> bool:
        """Tell whether the text ends in a space that would be a token of its own, which tokens of words begin with otherwise."""
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        rest = self.tokenizer.encode(text[:-1], add_special_tokens=False).ids
        return text.endswith(" ") and ids[:-1] == rest and (self.tokenizer.id_to_token(ids[-1]) if ids else "") in _SPACES

    def _barred(self, infilling: Sequence[Start], ids: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the places of templates that must begin a word, and the tokens that do not; None where there are none."""
        import torch

        places = torch.zeros(ids.shape, dtype=torch.bool)
        for row, start in enumerate(infilling):
            places[row, list(start.begins)] = True
        return (places.to(ids.device), self._inner.to(ids.device)) if places.any() else None

    @cached_property
    def _inner(self) -> Tensor:
        """(V,) bool: tokens that do not begin with a space."""
        import torch

        tokens = (self.tokenizer.id_to_token(index) for index in range(self.denoiser.vocab_size))
        return torch.tensor([token is None or not token.startswith(_SPACES) for token in tokens])
