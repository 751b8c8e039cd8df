"""Read docstrings as the site's renderer has to be given them."""

from typing import Any

from griffe import Extension, Object


class Docstrings(Extension):
    """Make sections of examples and Markdown of literal blocks."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of an object that was read: an `Example:` is doctests, and `::` announces code."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n").replace("::\n", ":\n")
