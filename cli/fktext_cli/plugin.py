"""`fktext plugin new`: start a package with a reward of your own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from fktext.errors import FktextError, UsageError
from fktext_cli.common import group, load_registry

app = group("Start a package with a reward of your own.")

FILES = {
    "pyproject.toml": """[build-system]
requires = ["hatchling>=1.24"]
build-backend = "hatchling.build"

[project]
name = "$distribution"
version = "0.1.0"
description = "The reward `$reward` for fktext"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["fktext"]

[project.optional-dependencies]
test = ["pytest>=8"]

[project.entry-points.fktext]
$reward = "$module"

[tool.hatch.build.targets.wheel]
packages = ["$module"]
""",
    "README.md": """# $distribution

The reward `$reward` for [fktext](https://pypi.org/project/fktext/).

```sh
pip install -e ".[test]"
pytest
fktext generate --reward $reward:word=lake --particles 4 "the"
```

- `$module/reward.py` has the reward: what `score` returns is larger for a better text.
- `$module/__init__.py` is the entry point: it registers the reward's name and says what its options are.
- `tests/test_$module.py` runs the tests that every reward passes. Add what your reward says of texts you know.
""",
    "$module/__init__.py": '''"""The entry point. Cheap to import: fktext imports it whenever it lists rewards."""

from fktext.plugins import hookimpl


@hookimpl
def fktext_register_rewards(register):
    """Say what there is; the factory is imported when it is used."""
    register(
        "$reward",
        "$module.reward:create",
        summary="how often a word occurs",
        options={"word": "the word"},
        values="0, 1, 2 ...",
        # models={"name": "licence, and where it comes from"},
    )
''',
    "$module/reward.py": '''"""The reward, and the factory that makes it from its options."""

from collections.abc import Sequence

from fktext import RewardContext


class Reward:
    """How often a word occurs; any object with a `score` is a reward."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.goal = f"towards {word}"  # printed on stderr when it steers

    def score(self, samples: Sequence[str]) -> list[float]:
        """A value per text, finite or -inf. Where it is a probability, return its natural logarithm."""
        return [float(text.lower().split().count(self.word)) for text in samples]


def create(context: RewardContext, *, word: str = "the") -> Reward:
    """The factory: its keyword-only parameters are the options, `context` has the device and the batch size."""
    return Reward(word.lower())
''',
    "tests/test_$module.py": """import functools

import pytest
from fktext import RewardContext
from fktext.testing import RewardConformance

from $module.reward import create


class TestConformance(RewardConformance):
    imports = ("$module", "$module.reward")

    @pytest.fixture
    def factory(self):
        return functools.partial(create, word="lake")


def test_counts():
    assert create(RewardContext(), word="Lake").score(["the lake", "a lake, a lake lake", ""]) == [1, 2, 0]
""",
}


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The reward's name; the package is fktext-NAME.")],
    out: Annotated[Path, typer.Option(help="The folder to put it in.", show_default="here")] = Path(),
) -> None:
    """Write an installable package with a reward, its tests and a README.

    Example: fktext plugin new politeness
    """
    name = name.removeprefix("fktext-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"plugin name {name!r}: expected small letters and digits, words of them joined by '-'")
    if name in (rewards := load_registry().rewards):
        raise UsageError(f"{rewards[name].distribution} already has a reward {name!r}: choose another name")
    words = {"distribution": f"fktext-{name}", "reward": name, "module": f"fktext_{name.replace('-', '_')}"}
    folder = out / words["distribution"]
    if folder.exists():
        raise UsageError(f"{str(folder)!r} exists")
    if not out.is_dir():
        raise UsageError(f"--out: there is no folder {str(out)!r}")
    try:
        for path, text in FILES.items():
            file = folder / Template(path).substitute(words)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(Template(text).substitute(words), encoding="utf-8")
    except OSError as error:  # such as a full disk; half a package would be in the way of the next try
        shutil.rmtree(folder, ignore_errors=True)
        raise FktextError(f"cannot write {str(folder)!r}: {error.strerror}") from error
    print(f"{folder}\nnext: pip install -e {folder}; fktext generate --reward {name}")
