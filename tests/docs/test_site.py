"""The reference is of the public names and no others; `tox -e site` builds it."""

import importlib
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = [*runpy.run_path(str(ROOT / "tests" / "unit" / "test_public.py"))["MODULES"], "fktext.testing", "fktext_evals"]


def public():
    return {f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__}


def reference():
    """(what pages describe, what they call another name of what `fktext` has), both in full."""
    text = "\n".join(page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("*.md")) if page.name != "index.md")
    described = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    return described, set(re.findall(r"(?<!\[)`(fktext\.\w+\.\w+)`", text)) & public()


def test_the_reference_is_of_every_public_name_and_no_other():
    described, aliases = reference()
    assert len(set(described)) == len(described)
    assert not sorted(public() - {*described, *aliases}), "not in docs/reference/: add `::: NAME`"
    assert not sorted(set(described) - public()), "in docs/reference/ and not public"


def test_another_name_is_of_the_same_thing():
    for name in reference()[1]:
        module, attribute = name.rsplit(".", 1)
        assert getattr(importlib.import_module(module), attribute) is getattr(importlib.import_module("fktext"), attribute)
