"""What is known of a model before it is loaded: read from its files' headers, not from their tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from fktext.errors import ModelError
from fktext.families import Checkpoint
from fktext.files import hub
from fktext.files.catalogue import catalogue
from fktext.files.weights import digest
from fktext.models.find import HUB_ID, family_of, find, plugin_entry
from fktext.models.loading import DTYPES, weighed

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Facts:
    """A model at rest.

    Attributes:
        name, summary: as listed.
        family: see `fktext.texts.model.TextModel`; "" where only its files would tell.
        source: "embedded", a hub id, a folder, or the plugin that makes it.
        licence: as listed, or else as its card says.
        files: its folder or weight file, None where it is not on this machine.
        why: why there are no files, "" where there are.
        size: bytes of its weight files.
        digest: of them, see `fktext.files.weights.digest`.
        parameters: how many numbers the network holds; tied ones count once.
        memory: dtype -> bytes that they take.
        most: tokens that the network takes at once.
        defaults: length, steps, temperature, top_p of a run that names none.
        kernels: the reverse processes it can be run with, the default first.
    """

    name: str
    summary: str
    family: str
    source: str
    licence: str
    files: Path | None = None
    why: str = ""
    size: int = 0
    digest: str = ""
    parameters: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    most: int = 0
    defaults: dict[str, float] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()


def facts(name: str) -> Facts:
    """Tell what is known of a model; no network is used.

    Raises:
        UsageError: nobody knows the name.
        ModelError: its files are damaged or of no known family.
        PluginError: it belongs to a broken plugin.
    """
    known = _listed(name)
    if known.why:
        return known
    try:
        path = find(name, offline=True)
    except ModelError as error:
        # A wrong source of a plugin's model has no cure; one that is not here has.
        if "stay offline" not in str(error):
            raise
        return replace(known, why=f"not on this machine; `fktext models pull {name}` fetches it")
    checkpoint = Checkpoint.read(path)
    family = family_of(name, checkpoint)
    parameters, most = family.parameters(checkpoint), family.most(checkpoint)
    files = weighed(checkpoint, family)
    return replace(
        known,
        family=family.name,
        licence=_licence(path) if known.licence == "not stated" else known.licence,
        files=path,
        size=sum(file.stat().st_size for file in files),
        digest=digest(files),
        parameters=parameters,
        memory={dtype: parameters * BYTES[dtype] for dtype in DTYPES},
        most=most,
        defaults=family.defaults(checkpoint, most),
        kernels=family.kernels,
    )


def _listed(name: str) -> Facts:
    """Tell what the lists say."""
    for entry in catalogue():
        if entry.name == name:
            return Facts(entry.name, entry.summary, entry.family, entry.source, entry.licence)
    if Path(name).expanduser().exists():
        return Facts(name, "", "", "folder", "not stated")
    if HUB_ID.fullmatch(name):
        return Facts(name, "", "", name, "not stated")
    own = plugin_entry(name)
    assert own is not None  # else it would be one of the others
    source = own.source or f"plugin {own.distribution}"
    return Facts(name, own.summary, own.family, source, own.licence, why="" if own.source else "made by its plugin")


def _licence(path: Path) -> str:
    """Read the licence in the front matter of a folder's README.md."""
    card = (path if path.is_dir() else path.parent) / "README.md"
    return hub.front_matter(card).get("license") or "not stated"
