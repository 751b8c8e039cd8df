"""Templates: texts with gaps to fill, such as "The {5} sat on the {3}."."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from fktext.errors import UsageError, shorten

_BRACES = re.compile(r"\{\{|\}\}|\{([1-9][0-9]{0,8})\}|[{}]")


@dataclass(frozen=True)
class Template:
    """A text with gaps: `{n}` stands for n tokens to write, `{{` and `}}` for braces.

    Attributes:
        source: as it was written.

    Raises:
        UsageError: a brace that is neither, or no gap.

    Example:
        >>> Template("The {5} sat {{down}}.").parts
        ('The ', 5, ' sat {down}.')
    """

    source: str

    def __post_init__(self) -> None:
        if not any(isinstance(part, int) for part in self.parts):
            raise UsageError(f"template {shorten(self.source)!r} has no gap, such as {{3}} for three tokens")

    @cached_property
    def parts(self) -> tuple[str | int, ...]:
        """Its literal texts, none of them empty, and the sizes of its gaps in tokens, in order."""
        parts: list[str | int] = []
        for part in self._pieces():
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            else:
                parts.append(part)
        return tuple(parts)

    def __str__(self) -> str:
        return self.source

    def _pieces(self) -> Iterator[str | int]:
        end = 0
        for found in _BRACES.finditer(self.source):
            if found.start() > end:
                yield self.source[end : found.start()]
            end = found.end()
            if found[1]:
                yield int(found[1])
            elif len(found[0]) == 2:
                yield found[0][0]
            else:
                raise UsageError(
                    f"template {shorten(self.source)!r} has a stray {found[0]!r} at character {found.start() + 1} "
                    f"({self.source[found.start() : found.start() + 12]!r}): a gap is {{n}} with n tokens from 1 on, a brace is "
                    "{{ or }}"
                )
        if end < len(self.source):
            yield self.source[end:]
