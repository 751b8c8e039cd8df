"""Models that come as files in installed distributions."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fktext import embedded
from fktext.errors import ModelError, UsageError
from fktext.models import find, load

TABLE = '[tiny-haiku]\nkind = "text"\nsummary = "a copy"\n'
Ship = Callable[..., Path]


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ship]:
    """Install a distribution with weights; returns its package's folder."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, table: str | None = TABLE, *folders: str) -> Path:
        package = tmp_path / name.replace("-", "_")
        for folder in folders:
            (package / folder).mkdir(parents=True)
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("raise SystemExit('code of a package of weights was run')\n")
        if table is not None:
            (package / "models.toml").write_text(table)
        info = tmp_path / f"{package.name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[fktext.weights]\nmodels = {package.name}\n")
        embedded.found.cache_clear()
        return package

    yield make
    embedded.found.cache_clear()


def test_what_comes_with_fktext() -> None:
    models, problems = embedded.found()
    assert problems == ()
    assert {entry.distribution for entry in models.values()} == {embedded.OWN}
    assert set(embedded.names("text")) == {"tiny-mdlm", "tiny-ssdlm"}
    assert embedded.names("pipeline") == ("tiny-digits",)
    assert len(embedded.names()) == len(list(embedded.path("tiny-mdlm").parent.glob("*/MODEL_CARD.md")))
    for name in embedded.names():
        card = (embedded.path(name) / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert models[name].licence.removeprefix("CC-").replace("-4.0", " 4.0") in card


def test_a_third_party_ships_a_model_without_code(ship: Ship) -> None:
    package = ship("haiku-weights", TABLE, "tiny-haiku")
    for file in embedded.path("tiny-mdlm").iterdir():
        (package / "tiny-haiku" / file.name).symlink_to(file)
    assert find("tiny-haiku") == package / "tiny-haiku"
    model = load("tiny-haiku")
    assert (model.family, model.digest) == ("mlm", load("tiny-mdlm").digest)
    assert "haiku_weights" not in sys.modules


@pytest.mark.parametrize(
    ("table", "folders", "problem"),
    [
        (None, (), "package bad_weights has no models.toml in a folder"),
        ("[tiny", (), "Expected"),
        (TABLE, (), ".* has no folder tiny-haiku"),
        (
            '[a]\nkind = "texts"\nsummary = "x"\n',
            ("a",),
            r"models\.toml has a\.kind: Input should be 'text', 'pipeline'",
        ),
        ('[a]\nkind = "text"\n', ("a",), r"models\.toml has a\.summary: Field required"),
        ('[a]\nkind = "text"\nsummary = "x"\ndistribution = "fktext-weights"\n', ("a",), "a says where it is"),
        ('[tiny-mdlm]\nkind = "text"\nsummary = "x"\n', ("tiny-mdlm",), "have tiny-mdlm, which is fktext-weights's"),
    ],
)
def test_a_bad_package_is_told_of_and_harms_no_other(ship: Ship, table: str | None, folders: tuple[str, ...], problem: str) -> None:
    ship("bad-weights", table, *folders)
    models, problems = embedded.found()
    assert len(problems) == 1
    assert re.match(f"weights of bad-weights (cannot be read: )?{problem}", problems[0])
    assert {entry.distribution for entry in models.values()} == {embedded.OWN}


def test_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown embedded model 'tiny-mdml'.*tiny-mdlm"):
        embedded.path("tiny-mdml")
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "found", lambda: ({}, ()))
        with pytest.raises(ModelError, match="'tiny-mdlm' comes with the distribution fktext-weights, which is not installed"):
            load("tiny-mdlm")
        with pytest.raises(UsageError, match="unknown model 'tiny-mdml'"):
            load("tiny-mdml")
