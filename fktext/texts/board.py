"""Show the particles of a text model, position by position, while they are being written; see `fktext.trace`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from fktext.texts.templates import Template

if TYPE_CHECKING:
    from torch import Tensor

    from fktext.texts.model import Start, TextModel


class Pieces(dict[int, str]):
    """Look up what a token adds to a text that goes on with it: "##s" adds "s", "cat" adds " cat"; special ones add nothing.

    Args:
        model: whose tokens.

    Example:
        >>> import fktext
        >>> model = fktext.load("tiny-mdlm")
        >>> pieces = Pieces(model)
        >>> [pieces[token] for token in model.spell("the lakes.")]
        [' the', ' lakes', '.']
    """

    def __init__(self, model: TextModel) -> None:
        super().__init__()
        tokenizer = model.tokenizer
        self._decode, self._special = (
            tokenizer.decode,
            {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special},
        )
        size = tokenizer.get_vocab_size()
        anchors: list[int] = []
        with suppress(Exception):  # plain ones, from a tokenizer that has neither such a letter nor a token for what it lacks
            anchors = [i for i in tokenizer.encode("a", add_special_tokens=False).ids if i not in self._special]
        self._anchor = (anchors or [i for i in range(size) if i not in self._special])[-1:]
        self._before = self._decode(self._anchor)

    def __missing__(self, token: int) -> str:
        alone = "" if token in self._special else self._decode([token])
        after = self._decode([*self._anchor, token]) if alone else ""
        self[token] = after.removeprefix(self._before) if after.startswith(self._before) else alone
        return self[token]


class TextView:
    """Show the texts of a batch; see `fktext.runs.View`.

    Args:
        model: what writes them.
        starts, templates: of each population.
        particles: N.
        pieces: of the model's tokens.
    """

    modality: Literal["text"] = "text"

    def __init__(
        self, model: TextModel, starts: Sequence[Start], templates: Sequence[Tensor], particles: int, pieces: Pieces
    ) -> None:
        self._mask, self._pieces, self._particles = model.denoiser.mask_id, pieces, particles
        endings = {model.end_id, model.pad_id, model.chat.closing_id if model.chat else None} - {None}
        # a template says how long its text is, and what ends a text in a prompt does not end what is written
        self._written = [(len(start.ids), set() if isinstance(start.prompt, Template) else endings) for start in starts]
        self.given = [tuple(self._board(row.tolist(), len(row), set())) for row in templates]

    def boards(self, state: Any) -> list[list[str | None]]:
        """Return what each position of the particles says, "" from a text's end on; nothing where a state has no `ids`."""
        rows = state.ids.tolist() if hasattr(state, "ids") else []
        return [self._board(row, *self._written[place // self._particles]) for place, row in enumerate(rows)]

    def show(self, sample: Any, *, last: bool) -> str:
        """Return what was written of a text."""
        return str(sample.continuation)

    def _board(self, row: list[int], size: int, endings: set[Any]) -> list[str | None]:
        end = next((at for at in range(size, len(row)) if row[at] in endings), len(row))
        pieces, mask = self._pieces, self._mask
        return [None if token == mask else pieces[token] for token in row[:end]] + [""] * (len(row) - end)
