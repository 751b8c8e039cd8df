"""Keep learned values as files, and find the one that belongs to a model and a reward.

A value is a folder: `value.safetensors`, the head's weights, and `value.json`, which says what it belongs to and how good it was.
It belongs to one model and one reward, told by the digests of their weights: for any others it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from fktext import embedded
from fktext.errors import ModelError, UsageError, one_line

if TYPE_CHECKING:  # these import torch
    from fktext.rewards import Weighted
    from fktext.values.head import Head

WEIGHTS, CARD = "value.safetensors", "value.json"


class Owner(Protocol):
    """What is asked of a model: `fktext.texts.model.TextModel` is one."""

    @property
    def name(self) -> str:
        """As the user gave it."""
        ...

    @property
    def digest(self) -> str:
        """Of its weights."""
        ...

    @property
    def denoiser(self) -> Any:
        """The network, which has a `device`."""
        ...


class Level(BaseModel):
    """How good a value is where between `low` and `high` of a text's positions are unknown; on texts it was not fitted to.

    Attributes:
        texts: how many.
        correlation: of the value and the reward of the finished text.
        said, was: means of exp(value) and exp(reward), which agree where it is calibrated.
    """

    low: float
    high: float
    texts: int
    correlation: float
    said: float
    was: float


class Card(BaseModel):
    """What a value belongs to, and what it was fitted on.

    Attributes:
        model, model_digest: the network whose hidden states it reads.
        reward, reward_digest: the reward's spec without its weight, and its model's weights; "" where it has none.
        link, center, scale: see `fktext.values.head.Head`.
        size: D, the width of the hidden states.
        own, given: texts that it was fitted on: the model's own, and given ones.
        length, temperature: of the model's own texts, in tokens.
        loss, chance: on held-out texts, the value's and that of the best constant.
        levels: by share of unknown positions.
        seconds: the fit took, judging and sampling included.
        version: of fktext.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str
    model_digest: str
    reward: str
    reward_digest: str
    link: str
    center: float
    scale: float
    size: int
    own: int
    given: int
    length: int
    temperature: float
    loss: float
    chance: float
    levels: list[Level]
    seconds: float
    version: str

    def belongs(self, model: Owner, term: Weighted) -> bool:
        """Tell whether this is a value of that model and that reward."""
        return (self.model_digest, self.reward, self.reward_digest) == (model.digest, term.name, digest_of(term))


def digest_of(term: Weighted) -> str:
    """Return the digest of the weights that a reward uses, "" where it says none."""
    return term.provenance().get("digest", "")


def save(folder: Path, head: Head, card: Card) -> None:
    """Write a value.

    Raises:
        UsageError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.half().contiguous() for name, tensor in head.state_dict().items()}, folder / WEIGHTS)
        (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the value {str(folder)!r}: {error.strerror or error}") from error


def card(folder: Path) -> Card:
    """Read what a value's folder says of it.

    Raises:
        ModelError: it is not there or damaged.
    """
    try:
        return Card.model_validate_json((folder / CARD).read_bytes())
    except OSError as error:
        raise ModelError(f"{folder} holds no learned value: {CARD} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"{folder / CARD} is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def load(folder: Path, device: Any = "cpu") -> tuple[Head, Card]:
    """Read a value.

    Raises:
        ModelError: files are missing, damaged or contradict each other.
    """
    from fktext.files.weights import read_tensors
    from fktext.values.head import Head

    about = card(folder)
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} holds no learned value: it has no {WEIGHTS}")
    head = Head(about.size, about.link, about.center, about.scale)
    tensors = {name: tensor.float() for name, tensor in read_tensors(folder / WEIGHTS).items()}
    try:
        head.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"{folder / WEIGHTS} contradicts {CARD}: {one_line(error, 200)}") from error
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ModelError(f"{folder / WEIGHTS} holds numbers that are not finite")
    return head.requires_grad_(False).eval().to(device), about


def installed() -> dict[str, Path]:
    """Return the values that installed distributions bring, by name."""
    return {name: embedded.path(name) for name in embedded.names("value")}


def find(model: Owner, terms: Sequence[Weighted]) -> list[Path] | None:
    """Return the folder of a value for each reward, of those installed; None where one of them has none."""
    known = [(folder, card(folder)) for folder in installed().values()]
    found = [next((folder for folder, about in known if about.belongs(model, term)), None) for term in terms]
    whole = [folder for folder in found if folder is not None]
    return whole if whole and len(whole) == len(terms) else None


def heads(model: Owner, terms: Sequence[Weighted], folders: Sequence[Path]) -> list[Head]:
    """Load a head for each reward, in the rewards' order.

    Raises:
        UsageError: a reward has no value among the folders, or a folder's value belongs to another model or reward.
        ModelError: a folder's files are missing or damaged.
    """
    cards = [(folder, card(folder)) for folder in folders]
    for folder, about in cards:
        if about.model_digest != model.digest:
            raise UsageError(
                f"value {str(folder)!r} belongs to model {about.model!r} with digest {about.model_digest}, not to {model.name!r} "
                f"with {model.digest}: fit one by `fktext value fit`"
            )
    chosen = []
    for term in terms:
        mine = next((folder for folder, about in cards if about.belongs(model, term)), None)
        if mine is None:
            offered = "; ".join(f"{about.reward} (digest {about.reward_digest or 'none'})" for _, about in cards) or "none"
            raise UsageError(
                f"no value of reward {term.name!r} (digest {digest_of(term) or 'none'}) is given: got {offered}. Fit one by "
                f"`fktext value fit`"
            )
        chosen.append(load(mine, str(model.denoiser.device))[0])
    return chosen
