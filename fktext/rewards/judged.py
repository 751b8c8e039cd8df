"""Share what rewards by a model need: where it is, how it is loaded, and what results keep of it.

Everything here is public, for a third party's rewards as for the built-in ones; nothing of it imports torch before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Protocol

from fktext import embedded
from fktext.errors import ModelError, first_line, unknown_name

if TYPE_CHECKING:  # these import torch
    from torch import Tensor

    from fktext.rewards.reward import RewardContext, TokenGradient


class Judge(Protocol):
    """A classifier that says how likely a text is of the class `label`."""

    label: str

    def log_odds(self, texts: Sequence[str]) -> Tensor:
        """Return (M,) float64 log(p / (1 - p)), in nats."""
        ...


class Judged:
    """Tell results which model a reward's values come from: its base class.

    Args:
        model: its name, as the user wrote it.
        goal: which way the reward steers, on one line.
        weights: where they are: a folder, a file, or a hub id that is in the local cache; None where nothing is to be told.

    Attributes:
        revision: the commit of a model of the hub, None for any other.
    """

    def __init__(self, model: str, goal: str, weights: Path | str | None = None) -> None:
        from fktext.files.provenance import hub_revision

        self.model, self.goal, self.weights = model, goal, weights
        self.revision = None if weights is None else hub_revision(str(weights))

    @cached_property
    def digest(self) -> str | None:
        """First 16 hex digits of the sha256 over the weight files; None where they are not found."""
        from fktext.files.provenance import weights_digest

        return None if self.weights is None else weights_digest(self.weights, self.revision)


class LogProbability(Judged):
    """Score texts by log p of a judge's class, log sigmoid(z) of its log-odds z, or by log(1 - p) = log sigmoid(-z); in nats.

    Both come from the log-odds: log(1 - p) would lose every digit where p is near 1.

    Args:
        judge: gives z.
        model, goal, weights: as for `Judged`.
        opposite: whether the value is log(1 - p).
        empty: the value of a text of white space, which the judge is then not asked about; None to ask it.
    """

    def __init__(
        self,
        judge: Judge,
        model: str,
        goal: str,
        weights: Path | str | None = None,
        *,
        opposite: bool = False,
        empty: float | None = None,
    ) -> None:
        super().__init__(model, goal, weights)
        self.judge, self.opposite, self.empty = judge, opposite, empty

    def score(self, samples: Sequence[str]) -> Tensor:
        """Return (M,) float64 log-probabilities."""
        import torch
        from torch.nn.functional import logsigmoid

        asked = [index for index, text in enumerate(samples) if self.empty is None or text.strip()]
        values = torch.full((len(samples),), self.empty or 0.0, dtype=torch.float64)
        if asked:
            z = self.judge.log_odds([samples[index] for index in asked])
            values[asked] = logsigmoid(-z if self.opposite else z)
        return values

    @property
    def gradient(self) -> TokenGradient | None:
        """How the value of a text that is not empty changes with the judge's tokens; None where the judge's cannot be told."""
        found: TokenGradient | None = getattr(self.judge, "gradient", None)
        if found is None:
            return None
        z = found.value

        def value(embedded: Tensor, present: Tensor) -> Tensor:
            from torch.nn.functional import logsigmoid

            return logsigmoid(z(embedded, present) * (-1 if self.opposite else 1))

        return replace(found, value=value)


def locate(model: str, own: Sequence[str], kind: str | None = None, known: Sequence[str] = ()) -> Path | str:
    """Return the folder or file of a model's weights, or its hub id where it is neither.

    Args:
        model: an embedded model, a folder or file, or a hub id, in this order; a folder named like an embedded model is `./name`.
        own: the embedded models that are meant.
        kind: what is looked for, such as "toxicity model": what cannot be a hub id, `owner/name`, is then refused.
        known: other names that are let through, and listed.

    Raises:
        UsageError: it is none of these.
    """
    if model in own or model in embedded.names("judge"):
        return embedded.path(model)
    if (path := Path(model).expanduser()).exists():
        return path
    if kind and model not in known and (model.count("/") != 1 or model.startswith((".", "/", "~"))):
        raise unknown_name(kind, model, (*own, *known, "a folder", "a hub id"))
    return model


def load_network(
    kind: str,
    place: Path | str,
    context: RewardContext,
    network: Any,
    *readers: Any,
    trust_remote_code: bool = False,
    readers_from: str | None = None,
) -> tuple[Any, ...]:
    """Load a network of transformers in float32 and evaluation mode, on its device, and what reads its input.

    Args:
        kind: what it is loaded as, for errors, such as "sequence classifier".
        place: a folder, whose matrices may be stored as int8 (`fktext.files.weights.quantised`), or a hub id.
        context: the device, and whether a network may be used.
        network: the class to load it with, such as transformers.AutoModelForSequenceClassification.
        readers: those of what reads its input, such as transformers.AutoTokenizer.
        trust_remote_code: run Python code that comes with the model.
        readers_from: a folder or hub id of theirs, where that is another.

    Returns:
        The network, and one of each reader.

    Raises:
        ModelError: it cannot be loaded, or lacks weights.
    """
    from fktext.files.pretrained import pretrained
    from fktext.files.weights import int8_weights

    # False, and not unset: transformers would ask on the terminal.
    options = {"local_files_only": context.offline, "trust_remote_code": trust_remote_code}
    with loading(kind, place, context):
        found = [reader.from_pretrained(readers_from or str(place), **options) for reader in readers]
        if (folder := Path(place)).is_dir() and int8_weights(folder) is not None:
            model = pretrained(folder, network, f"a {kind}")
        else:
            model, info = network.from_pretrained(str(place), output_loading_info=True, **options)
            if info["missing_keys"]:
                raise ModelError(f"{str(place)!r} is no trained {kind}: it lacks {min(info['missing_keys'])!r}")
    return model.float().to(context.device).eval(), *found


@contextmanager
def loading(kind: str, place: Path | str, context: RewardContext) -> Iterator[None]:
    """Keep transformers quiet, and turn what it and the hub's client raise into one line.

    Args:
        kind, place, context: as for `load_network`.

    Raises:
        ModelError: an OSError, ValueError or UnpicklingError was raised within.
    """
    from fktext.files.pretrained import quiet

    wrong = f"cannot load the {kind} {str(place)!r}"
    try:
        with quiet():
            yield
    except UnpicklingError as error:
        raise ModelError(f"{wrong}: its weights are a pickle of more than tensors; nothing was executed") from error
    except (OSError, ValueError) as error:  # the hub client's errors are OSErrors
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{wrong}: it comes with Python code of its own, which is run only by a reward that takes the option "
                "trust_remote_code=true (such as classifier, perplexity and similarity); read the code first"
            ) from error
        where = " (the run is offline: only folders and the local hub cache count)" if context.offline else ""
        raise ModelError(f"{wrong}{where}: {first_line(error)}") from error
