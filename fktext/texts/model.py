"""A loaded text model: what its sequences look like, and which reverse processes it can be run with.

`fktext.models` makes one from a name. torch is imported only when it is used.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from fktext.errors import UsageError, shorten, unknown_name
from fktext.text import Tokens, vocabulary_digest
from fktext.texts.templates import Template

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from fktext.settings import KernelLike, Settings, TextRun
    from fktext.smc.process import ReverseProcess
    from fktext.text import Text
    from fktext.texts.chat import Chat


class Network(Protocol):
    """What is known of every network that a text process runs.

    Attributes:
        vocab_size: V, the width of its head.
        mask_id: what marks a place of a sequence that is to be written.
        max_length: most positions the network takes.
    """

    vocab_size: int
    mask_id: int
    max_length: int

    @property
    def device(self) -> object:
        """Where its tensors live."""
        ...


@dataclass(frozen=True)
class Start:
    """What a population begins with: a prompt or a template, encoded once.

    Attributes:
        prompt: as it was asked for.
        ids: BOS and the prompt's tokens; of a template all of them, masks in its gaps.
        spelled: the prompt as the tokenizer spells it, "" for a template.
        begins: places of a template's masks that have to begin a word.
    """

    prompt: str | Template
    ids: tuple[int, ...]
    spelled: str
    begins: tuple[int, ...] = ()


Asked = str | Template | Start


@dataclass(frozen=True)
class TextModel(ABC):
    """A loaded text model: the network, its tokenizer, and the conventions of its sequences.

    Attributes:
        name: as the user gave it.
        family: "dit" (MDLM's network), "bd3lm", "duo", "sedd", "mlm" (a masked LM of transformers), "llada", "dream",
            "diffusiongemma" or "ssdlm".
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
        chat: puts a prompt as a question, so that texts are answers; None where prompts are continued.
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
    chat: Chat | None = None

    @abstractmethod
    def stride(self, length: int, wanted: int | None) -> int | None:
        """Tell how far the window moves where a text is longer than the network, None where none is needed.

        Args:
            length: tokens of the whole sequence.
            wanted: tokens; None leaves it to the model.

        Raises:
            UsageError: there is no use for the one wanted, or it leaves no context.
        """

    @abstractmethod
    def steerable(self, kernel: str | KernelLike) -> bool:
        """Tell whether one of the model's kernels can be steered."""

    def lawless(self, kernel: str) -> str:
        """Say why a kernel cannot be steered."""
        return (
            "which positions stay masked depends on the model's own guesses, so it does not reverse a masking process: its texts "
            "do not follow p(x), and predictions drawn from p(x0 | x_t) say nothing of how it goes on"
        )

    def greedy(self, kernel: str | KernelLike) -> bool:
        """Tell whether one of the model's kernels takes temperature 0."""
        return not self.steerable(kernel)

    def takes(self, kernel: str | KernelLike) -> bool:
        """Tell whether the model can be run with a kernel."""
        return kernel in self.kernels

    @abstractmethod
    def num_steps(self, template: Tensor, run: TextRun) -> int:
        """Count the reverse steps of a run from this template."""

    @abstractmethod
    def process(self, prompts: Sequence[Asked], templates: Sequence[Tensor], run: TextRun, batch_size: int) -> ReverseProcess[Any]:
        """Make the reverse process of a population for each template, all of the same length and `num_steps`.

        Args:
            prompts: of each population, for `decode`: texts or templates, best as `start` made them.
            templates: what `template` made of them.
            run: what `resolve` made of the settings.
            batch_size: most rows per network call.

        Raises:
            UsageError: the whole memory would not hold the particles' tokens, let alone the network's states.
        """

    def guidable(self, kernel: str | KernelLike) -> bool:
        """Tell whether texts of one window can be drawn by guided proposals with this kernel; see `Settings.proposal`."""
        return False

    def guided(
        self, process: ReverseProcess[Any], values: Sequence[Any], weights: Sequence[float], run: TextRun
    ) -> ReverseProcess[Any]:
        """Let a process of this model draw its tokens by the gradient of values or rewards; only where it is `guidable`.

        Args:
            process: of `process`.
            values: of the rewards, such as `fktext.values.head.Head`; or `TokenGradient`s of theirs, for "straight-through".
            weights: of the rewards.
            run: gives lambda, the strength of guidance, and whether the weights correct for it.
        """
        raise NotImplementedError(f"model {self.name!r} has no guided proposals")

    def compiled(self) -> TextModel:
        """Return this model with its network compiled by torch: slow at first, then faster.

        Raises:
            UsageError: the model is not a masked one.
        """
        raise UsageError(f"model {self.name!r} is not compiled: that is for masked models")

    def resolve(self, asked: Settings) -> TextRun:
        """Name all that was not asked for: the model's own values in the place of None, the cadence and the particles named.

        Raises:
            UsageError: the model has no such kernel, or no use for the stride; or the kernel cannot be steered or guided.
        """
        from fktext.settings import STEERING, TextRun, given

        kernel = given(asked.kernel) or self.kernels[0]
        name = kernel if isinstance(kernel, str) else kernel.name
        if not self.takes(kernel):
            raise unknown_name(f"kernel of model {self.name!r}:", name, self.kernels)
        temperature = self.default_temperature if asked.temperature is None else asked.temperature
        steerable = self.steerable(kernel)
        if not steerable and asked.method in STEERING:
            raise UsageError(
                f"kernel {name!r} cannot be steered by method {asked.method!r}: {self.lawless(name)}. "
                f"Use kernel {self.kernels[0]!r}, or method 'best-of-n' or 'base'"
            )
        if temperature == 0 and not self.greedy(kernel):
            raise UsageError(f"temperature 0 leaves kernel {name!r} nothing to draw: only the confidence kernels take it")
        length = asked.length or self.default_length
        stride = self.stride(length, asked.stride)
        if asked.proposal != "base" and (stride or not self.guidable(kernel)):
            raise UsageError(
                f"proposal {asked.proposal!r} goes with kernels that reveal by a clock of their own, texts that fit one window, "
                f"and networks that take embeddings; not with kernel {name!r} of model {self.name!r} at length {length}"
            )
        return TextRun.of(
            asked,
            asked.steps or self.default_steps,
            length=length,
            stride=stride,
            kernel=asked.kernel or kernel,
            temperature=temperature,
            top_p=asked.top_p or self.default_top_p,
        )

    def _check_memory(self, templates: Sequence[Tensor], run: TextRun) -> None:
        """Refuse a run whose tokens alone are more than all memory: a system may promise it and then kill the process."""
        import torch

        from fktext.batches import check_memory
        from fktext.settings import STEERING

        particles, length = len(templates) * run.particles, len(templates[0])
        draws = run.x0_samples if run.method in STEERING else 0
        # Of a token its id; of a prediction's token its id and the uniform that it is drawn by; of a step its time: 8 bytes each.
        needed = 8 * (particles * length * (1 + 2 * draws) + run.steps)
        try:
            check_memory(needed, torch.device(str(self.denoiser.device)))
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"memory does not hold {particles} particles of {length} tokens at once, with {draws} predictions of each and "
                f"{run.steps} steps: {error}. Give fewer of what is most, or a smaller batch size"
            ) from error

    @property
    def _endings(self) -> tuple[int, ...]:
        """The tokens behind which nothing belongs to a text, the one to fill it up with last."""
        closing = self.chat.closing_id if self.chat else None
        return tuple(index for index in (closing, self.end_id, self.pad_id) if index is not None)

    def _decoder(self, prompts: Sequence[Asked]) -> Callable[[Tensor, Tensor], list[Text]]:
        """Make a `decode` for rows of several populations."""
        starts = [self.start(prompt) for prompt in prompts]

        def decode(ids: Tensor, population: Tensor) -> list[Text]:
            ids, population = ids.cpu(), population.cpu()  # once, not for each prompt
            parts = (self.decode(ids[population == place], start) for place, start in enumerate(starts))
            return [text for part in parts for text in part]

        return decode

    def start(self, prompt: Asked) -> Start:
        """Encode a prompt or a template; one that has been is returned as it is.

        Raises:
            UsageError: a text the tokenizer cannot express, a template of more tokens than the network takes, or one that the model
                cannot fill.
        """
        if isinstance(prompt, Start):
            return prompt
        if isinstance(prompt, Template):
            if self.chat:
                raise UsageError("a chat takes a question: leave out --chat to fill the gaps of a template")
            return self._filled(prompt)
        ids = self._start(prompt)
        return Start(prompt, tuple(ids), self.tokenizer.decode(ids))

    def _filled(self, template: Template) -> Start:
        """Encode a template, in a model that can fill one."""
        raise UsageError(
            f"model {self.name!r} cannot fill a template: it writes from left to right and sees nothing of what comes behind. "
            "Choose a masked model, or give the beginning as a prompt"
        )

    def template(self, prompt: Asked, length: int) -> Tensor:
        """Lay out the start of a run: BOS, the prompt's tokens, then masks (and `closing_id` at the end where the model has one).

        Args:
            prompt: text to continue, "" for none; or a template, whose length is its own.
            length: L, tokens of the whole sequence; may be more than the network takes (see `stride`).

        Returns:
            (L,) int64 on the CPU; positions that hold `denoiser.mask_id` are to be generated, the others stay.

        Raises:
            UsageError: no room for a new token, a template of more tokens than the network takes, or a text the tokenizer cannot
                express.
        """
        import torch

        closing = [] if self.closing_id is None else [self.closing_id]
        start = self.start(prompt)
        if isinstance(start.prompt, Template):
            return torch.tensor([*start.ids, *closing])
        room = length - len(start.ids) - len(closing)
        if room < 1:
            raise UsageError(
                f"prompt {shorten(start.prompt)!r} leaves no room for a new token: it takes {len(start.ids)} tokens of model "
                f"{self.name!r}"
                f"{' and the closing token one more' if closing else ''}, the length is {length}"
            )
        return torch.tensor([*start.ids, *[self.denoiser.mask_id] * room, *closing])

    def decode(self, ids: Tensor, prompt: Asked) -> list[Text]:
        """Turn sequences into texts, up to the first end or padding token after the prompt, special tokens dropped.

        Args:
            ids: (R, L) int64.
            prompt: what `template` was given, best what `start` made of it, or "" where positions were fixed by other means.

        Returns:
            R texts; their `prompt` is the prompt as the tokenizer spells it, so that `continuation` is what was generated. The text
            of a template has none, nor has an answer in a chat.
        """
        rows, mask = ids.tolist(), self.denoiser.mask_id
        if any(mask in row for row in rows):
            raise ValueError(f"cannot decode ids that hold the mask token {mask}: reveal every position first")
        return self._texts(rows, self.start(prompt))

    def _texts(self, rows: list[list[int]], start: Start) -> list[Text]:
        from fktext.text import Text

        if isinstance(start.prompt, Template):
            return [Text(text) for text in self.tokenizer.decode_batch(rows)]
        ends, size = set(self._endings), len(start.ids)
        rows = [row[: next((at for at in range(size, len(row)) if row[at] in ends), None)] for row in rows]
        if self.chat:
            return [Text(text.strip(), prompt="") for text in self.tokenizer.decode_batch([row[size:] for row in rows])]
        # A decoder may join the prompt's end with what follows; what both spell alike is the prompt.
        texts = self.tokenizer.decode_batch(rows)
        prompts = [os.path.commonprefix([start.spelled, text]) for text in texts]  # noqa: RUF071, no paths
        tokens = [self._tokens(row, size) for row in rows]
        return [Text(*item) for item in zip(texts, prompts, tokens, strict=True)]

    def _tokens(self, row: list[int], start: int) -> Tokens | None:
        """Return what a text is written in, BOS left out; None where there are tokens that its string does not show."""
        first = int(self.bos_id is not None)
        ids = row[first:]
        return None if self._special.intersection(ids) else Tokens(tuple(ids), start - first, self.vocabulary)

    @cached_property
    def vocabulary(self) -> str:
        """Which tokens its ids mean: equal for models that share a tokenizer; see `fktext.text.vocabulary_digest`."""
        return vocabulary_digest(self.tokenizer.get_vocab())

    @cached_property
    def _special(self) -> frozenset[int]:
        """Tokens that `decode` drops."""
        return frozenset(index for index, token in self.tokenizer.get_added_tokens_decoder().items() if token.special)

    def spell(self, text: str) -> list[int]:
        """Return the tokens of a text that has no prompt, special ones left out."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _start(self, prompt: str) -> list[int]:
        """Return BOS and the prompt's tokens; in a chat the whole conversation up to where the answer begins."""
        first = [] if self.bos_id is None else [self.bos_id]
        asked = self.chat.ask(prompt) if self.chat else prompt
        ids = self._ids(asked, f"prompt {shorten(asked)!r}")
        return ids if self.chat and ids[:1] == first else first + ids  # a chat template may write BOS itself

    def _ids(self, text: str, where: str) -> list[int]:
        """Return the tokens of a text; an error calls it `where`."""
        try:
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # tokenizers raises plain Exception, where there is no token for what is unknown
            raise UsageError(f"{where} cannot be expressed in the tokens of model {self.name!r}: {error}") from error
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        if unknown is not None and (index := self.tokenizer.token_to_id(unknown)) in encoding.ids:
            first, last = encoding.offsets[encoding.ids.index(index)]
            raise UsageError(f"{where} holds {text[first:last]!r}, which model {self.name!r} has no token for")
        if self.denoiser.mask_id in encoding.ids:
            raise UsageError(f"{where} holds the mask token of model {self.name!r}")
        return encoding.ids
