"""A loaded text model: what its sequences look like, and which reverse processes it can be run with.

`fktext.models` makes one from a name. torch is imported only when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from fktext.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from fktext.masked.denoiser import Denoiser, Network
    from fktext.masked.process import MaskedDiffusion
    from fktext.process import ReverseProcess
    from fktext.rewards import Text
    from fktext.settings import Settings
    from fktext.simplex.ssdlm import SimplexLM

BLOCK = 25  # tokens that the published SSD-LM writes at a time


@dataclass(frozen=True)
class TextModel:
    """A loaded text model: the network, its tokenizer, and the conventions of its sequences.

    Attributes:
        name: as the user gave it.
        family: "dit" (MDLM's network), "sedd", "mlm" (a masked LM of transformers), "llada", "dream" or "ssdlm".
        denoiser: the network.
        tokenizer: between text and token ids.
        digest: first 16 hex digits of the sha256 over the weight files; the same weights give the same digest anywhere.
        default_length: tokens per sequence (prompt and special tokens included) where the user names none.
        default_steps: reverse steps where the user names none.
        kernels: the reverse processes it can be run with, the one to take where the user names none first.
        default_temperature: of p(x0) where the user names none; 1 unless the model's config.json says otherwise.
        bos_id: the token every sequence starts with, or None.
        end_id: the token that ends a text, or None where texts fill their length.
        pad_id: the token that may follow `end_id`, or None.
        closing_id: a token fixed at the last position, or None: the `[SEP]` without which BERT sees a sentence cut off.
        forbidden: sorted token ids that p(x0) never gives mass: the mask always.
        default_top_p: nucleus of p(x0) where the user names none.
    """

    name: str
    family: str
    denoiser: Network
    tokenizer: Tokenizer
    digest: str
    default_length: int
    default_steps: int
    kernels: tuple[str, ...]
    bos_id: int | None
    end_id: int | None
    pad_id: int | None
    closing_id: int | None
    forbidden: tuple[int, ...]
    default_temperature: float = 1.0
    default_top_p: float = 1.0

    def num_steps(self, template: Tensor, settings: Settings) -> int:
        """Reverse steps of a run from this template; settings that name every number (`Settings.for_model`)."""
        assert settings.steps is not None
        return settings.steps

    def process(
        self, prompts: Sequence[str], templates: Sequence[Tensor], settings: Settings, batch_size: int
    ) -> ReverseProcess[Any]:
        """The reverse process of a population for each template, all of the same `num_steps`.

        Args:
            prompts: of each population, for `decode`.
            templates: what `template` made of them.
            settings: those that name every number (`Settings.for_model`).
            batch_size: most rows per network call.
        """
        import torch

        assert settings.kernel is not None
        assert settings.steps is not None
        assert settings.temperature is not None
        assert settings.top_p is not None
        denoiser = cast("Denoiser", self.denoiser)
        return _masked_kernel(settings.kernel)(
            denoiser,
            torch.stack(list(templates)).to(torch.device(str(denoiser.device))),
            settings.particles,
            settings.steps,
            self._decoder(prompts),
            forbidden=self.forbidden,
            temperature=settings.temperature,
            top_p=settings.top_p,
            batch_size=batch_size,
        )

    def _decoder(self, prompts: Sequence[str]) -> Callable[[Tensor, Tensor], list[Text]]:
        """`decode` for rows of several populations."""

        def decode(ids: Tensor, population: Tensor) -> list[Text]:
            parts = (self.decode(ids[population == place], prompt) for place, prompt in enumerate(prompts))
            return [text for part in parts for text in part]

        return decode

    def template(self, prompt: str, length: int) -> Tensor:
        """The start of a run: BOS, the prompt's tokens, then masks (and `closing_id` at the end where the model has one).

        Args:
            prompt: text to continue; "" for none.
            length: L, tokens of the whole sequence.

        Returns:
            (L,) int64 on the CPU; positions that hold `denoiser.mask_id` are to be generated, the others stay.

        Raises:
            UsageError: no room for a new token, more tokens than the network takes, or a prompt the tokenizer cannot express.
        """
        import torch

        if length > self.denoiser.max_length:
            raise UsageError(f"length {length} is more than the {self.denoiser.max_length} tokens that model {self.name!r} takes")
        start = self._start(prompt)
        closing = [] if self.closing_id is None else [self.closing_id]
        room = length - len(start) - len(closing)
        if room < 1:
            raise UsageError(
                f"prompt {_short(prompt)} leaves no room for a new token: it takes {len(start)} tokens of model {self.name!r}"
                f"{' and the closing token one more' if closing else ''}, the length is {length}"
            )
        return torch.tensor(start + [self.denoiser.mask_id] * room + closing)

    def decode(self, ids: Tensor, prompt: str) -> list[Text]:
        """Finished sequences as texts, up to the first end token after the prompt, special tokens dropped.

        Args:
            ids: (R, L) int64 without masks.
            prompt: what `template` was given, or "" where positions were fixed by other means.

        Returns:
            R texts; their `prompt` is the prompt as the tokenizer spells it, so that `continuation` is what was generated.
        """
        rows = ids.tolist()
        if any(self.denoiser.mask_id in row for row in rows):
            raise ValueError(f"cannot decode ids that hold the mask token {self.denoiser.mask_id}: reveal every position first")
        return self._texts(rows, prompt)

    def _texts(self, rows: list[list[int]], prompt: str) -> list[Text]:
        from fktext.rewards import Text

        start = self._start(prompt)
        if self.end_id is not None:
            rows = [row[: row.index(self.end_id, len(start))] if self.end_id in row[len(start) :] else row for row in rows]
        spelled = self.tokenizer.decode(start)
        # A decoder may join the prompt's end with what follows; what both spell alike is the prompt.
        texts = self.tokenizer.decode_batch(rows)
        return [Text(text, prompt=os.path.commonprefix([spelled, text])) for text in texts]  # noqa: RUF071, no paths

    def _start(self, prompt: str) -> list[int]:
        """BOS and the prompt's tokens."""
        encoding = self.tokenizer.encode(prompt, add_special_tokens=False)
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        if unknown is not None and (index := self.tokenizer.token_to_id(unknown)) in encoding.ids:
            first, last = encoding.offsets[encoding.ids.index(index)]
            raise UsageError(f"prompt {_short(prompt)} holds {prompt[first:last]!r}, which model {self.name!r} has no token for")
        if self.denoiser.mask_id in encoding.ids:
            raise UsageError(f"prompt {_short(prompt)} holds the mask token of model {self.name!r}")
        return ([] if self.bos_id is None else [self.bos_id]) + encoding.ids


@dataclass(frozen=True)
class SimplexModel(TextModel):
    """A loaded SSD-LM, which writes `block` tokens at a time after a context that is not empty.

    Attributes:
        denoiser: a `fktext.simplex.ssdlm.SimplexLM`; its `mask_id` -1 marks what a template or prediction leaves unwritten.
        start_id: the whole context where there is no prompt, or None: a model without one needs a prompt.
    """

    block: int = BLOCK
    start_id: int | None = None

    def template(self, prompt: str, length: int) -> Tensor:
        """The prompt's tokens, then -1 up to `length`; see `TextModel.template`.

        Raises:
            UsageError: beside the reasons there, an empty prompt without a start token, or blocks that reach beyond what the
                network takes.
        """
        from fktext.simplex.process import blocks_needed

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

    def decode(self, ids: Tensor, prompt: str) -> list[Text]:
        """Texts of sequences that may be unwritten (-1) from some place on; see `TextModel.decode`."""
        from fktext.rewards import Text

        mask = self.denoiser.mask_id
        texts = self._texts([row[: row.index(mask)] if mask in row else row for row in ids.tolist()], prompt)
        if prompt[:1].isspace():
            return texts
        return [Text(text.removeprefix(" "), prompt=text.prompt.removeprefix(" ")) for text in texts]

    def num_steps(self, template: Tensor, settings: Settings) -> int:
        """As many times the steps of a block as blocks are to be written."""
        from fktext.simplex.process import blocks_needed

        return blocks_needed(template, self.block) * super().num_steps(template, settings)

    def process(
        self, prompts: Sequence[str], templates: Sequence[Tensor], settings: Settings, batch_size: int
    ) -> ReverseProcess[Any]:
        """A simplex diffusion; the kernel names its projection."""
        import torch

        from fktext.simplex.process import SimplexDiffusion
        from fktext.simplex.projections import PROJECTIONS

        assert settings.kernel is not None
        assert settings.steps is not None
        assert settings.temperature is not None
        assert settings.top_p is not None
        network = cast("SimplexLM", self.denoiser)
        return SimplexDiffusion(
            network,
            torch.stack(list(templates)).to(network.device),
            settings.particles,
            settings.steps,
            self._decoder(prompts),
            projection=PROJECTIONS[settings.kernel.removeprefix("simplex-")],
            temperature=settings.temperature,
            top_p=settings.top_p,
            block=self.block,
            batch_size=batch_size,
        )

    def _start(self, prompt: str) -> list[int]:
        """The prompt's tokens as those of a continuing text (after a space), or the start token."""
        spaced = prompt if not prompt or prompt[0].isspace() else " " + prompt
        return super()._start(spaced) or ([] if self.start_id is None else [self.start_id])


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _masked_kernel(name: str) -> Callable[..., MaskedDiffusion]:
    """The reverse process of a masked model by its name in `TextModel.kernels`."""
    if name.startswith("remdm-"):
        from fktext.masked.remdm import ReMDM

        return partial(ReMDM, strategy=name.removeprefix("remdm-"))
    if name == "sedd-analytic":
        from fktext.masked.sedd import AnalyticSEDD

        return AnalyticSEDD
    from fktext.masked.process import MaskedDiffusion

    return MaskedDiffusion  # "ancestral", and the same for SEDD's normalised scores
