"""Judge texts by sequence classifiers of transformers: detoxify checkpoints, and any folder or hub id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fktext.batches import Batches, judging
from fktext.errors import ModelError, UsageError, first_line, unknown_name
from fktext.files.pretrained import quiet
from fktext.files.weights import read_json
from fktext.rewards import RewardContext, TokenGradient, load_network
from fktext.text import well_formed

TOXIC_LABELS = ("toxic", "toxicity", "hate", "hateful", "hate speech", "abusive", "offensive")


class Classifier:
    """Give the log-odds of one class of a sequence classifier.

    Args:
        model: a transformers sequence classifier, in eval mode.
        tokenizer: its tokenizer.
        label: name of the class.
        index: its position among the logits.
        exclusive: True for a softmax over classes, False for a sigmoid per class.
        batch_size: most texts per forward pass.
    """

    def __init__(self, model: Any, tokenizer: Any, label: str, index: int, exclusive: bool, batch_size: int) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.label, self.index, self.exclusive = label, index, exclusive
        self.batches = Batches(batch_size)
        self.longest = max_tokens(model, tokenizer)
        self.pad: int = tokenizer.pad_token_id
        if self.pad is None:
            raise ModelError(f"the tokenizer of {model.name_or_path or type(model).__name__} has no padding token")

    def log_odds(self, texts: Sequence[str]) -> Tensor:
        """Return (M,) float64 log(p / (1 - p)) of the class.

        A logit of a sigmoid is that already. Of a softmax it is the logit minus logsumexp of the others, so that log sigmoid of it
        is the class's log_softmax and log sigmoid of its negative that of all others together.
        """
        if not texts:
            return torch.empty(0, dtype=torch.float64)
        cut = {"truncation": True, "max_length": self.longest} if self.longest else {}
        # Without special tokens "" has no token at all, which no network takes: it is then one padding token.
        rows = [row or [self.pad] for row in self.tokenizer(list(map(well_formed, texts)), **cut)["input_ids"]]
        return self._odds(self.batches.by_length(self._logits, rows))

    def _logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        tensors = [torch.tensor(row) for row in rows]
        ids = pad_sequence(tensors, batch_first=True, padding_value=self.pad)
        mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
        with judging(self.model.device):
            logits: Tensor = self.model(input_ids=ids.to(self.model.device), attention_mask=mask.to(self.model.device)).logits
        return logits

    @property
    def gradient(self) -> TokenGradient:
        """How the log-odds change with the tokens."""
        return TokenGradient(self.tokenizer.get_vocab(), self.model.get_input_embeddings().weight, self._embedded_odds)

    def _embedded_odds(self, embedded: Tensor, present: Tensor) -> Tensor:
        """Map (R, L, D) embedded tokens, of which (R, L) are present, to (R,) log-odds; the special ones are put around them."""
        table, device = self.model.get_input_embeddings().weight, self.model.device
        whole, bare = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
        at = whole.index(bare[0])
        begin, end = table[whole[:at]], table[whole[at + len(bare) :]]
        room = None if self.longest is None else max(0, self.longest - len(begin) - len(end))
        rows = [torch.cat([begin, row[here][:room], end]) for row, here in zip(embedded, present, strict=True)]
        mask = pad_sequence([torch.ones(len(row), dtype=torch.int64, device=device) for row in rows], batch_first=True)
        return self._odds(self.model(inputs_embeds=pad_sequence(rows, batch_first=True), attention_mask=mask).logits)

    def _odds(self, logits: Tensor) -> Tensor:
        if not self.exclusive:
            return logits[:, self.index]
        others = [index for index in range(logits.shape[1]) if index != self.index]
        return logits[:, self.index] - logits[:, others].logsumexp(1)


def shortened(judge: Any, model: str, tokens: int | None) -> Any:
    """Limit a judge to so many of a text's first tokens: its own, special ones and the prompt's among them.

    Args:
        judge: any that a reward may have.
        model: its name, for messages.
        tokens: None for all that it takes.

    Raises:
        UsageError: it is not a network of transformers, so it has no such tokens.
    """
    if tokens is None:
        return judge
    if not isinstance(judge, Classifier):
        raise UsageError(
            f"max_tokens came as {tokens}: {model} has no tokens to count; trim={tokens} counts words after the prompt"
        )
    judge.longest = min(tokens, judge.longest or tokens)
    return judge


def max_tokens(model: Any, tokenizer: Any) -> int | None:
    """Return the longest input, special tokens included, that tokenizer and position embeddings allow; None if unbounded."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < 1_000_000 else []  # "unknown" is 1e30
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa's positions start after the padding index; BERT's start at 0 and have none.
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    return min(limits, default=None)


def local_detoxify(checkpoint: Path, label: str | None, context: RewardContext) -> Classifier:
    """Load a detoxify checkpoint file, with configuration and tokenizer from beside it, or else from where it points.

    Raises:
        ModelError: not such a checkpoint, one that carries code, weights that do not fit, or a network is needed but not allowed.
    """
    loaded = _read_checkpoint(checkpoint)
    if all((checkpoint.parent / name).is_file() for name in ("config.json", "tokenizer_config.json")):
        base = str(checkpoint.parent)
    else:
        base = loaded["config"]["arch"]["args"]["model_type"]
        if context.offline and not Path(base).is_dir():
            raise ModelError(
                f"{checkpoint} needs the configuration and tokenizer of {base!r}, which is no folder here, and the run is offline: "
                f"put config.json, tokenizer_config.json and the tokenizer beside it"
            )
    return _detoxify_judge(str(checkpoint), loaded, base, label, context)


def released_detoxify(variant: str, label: str | None, context: RewardContext) -> Classifier:
    """Load a checkpoint that detoxify released, downloaded (or in torch's hub cache), with the base model it names.

    Raises:
        ModelError: the run is offline, or the download fails.
    """
    if context.offline:
        raise ModelError(
            f"toxicity model {variant!r} is downloaded by detoxify, and the run is offline: use the embedded tiny-toxicity, "
            f"or a checkpoint file with its configuration and tokenizer beside it"
        )
    from detoxify.detoxify import MODEL_URLS

    try:
        loaded = torch.hub.load_state_dict_from_url(MODEL_URLS[variant], map_location="cpu", weights_only=True)
        return _detoxify_judge(variant, loaded, loaded["config"]["arch"]["args"]["model_type"], label, context)
    except OSError as error:  # urllib's and huggingface_hub's errors are OSErrors
        raise ModelError(f"toxicity model {variant!r} cannot be downloaded ({error}); tiny-toxicity needs no network") from error


def released_file(variant: str) -> Path:
    """Return the place of a checkpoint that detoxify released in torch's hub cache."""
    from detoxify.detoxify import MODEL_URLS

    return Path(torch.hub.get_dir(), "checkpoints", MODEL_URLS[variant].rpartition("/")[2])


def load_detoxify(checkpoint: Mapping[str, Any], base: str, device: str = "cpu") -> Any:
    """Make a real `Detoxify` of a checkpoint's content, without executing a pickle and without losing weights.

    `Detoxify(checkpoint=...)` would unpickle any code in the file, look up the base model on the hub even where a local folder is
    given, and put random weights in place of names it does not find.

    Args:
        checkpoint: what the file holds: "config" and "state_dict", as read with `weights_only=True`.
        base: folder or hub id of configuration and tokenizer.
        device: where the model goes.

    Raises:
        ModelError: names of weights are missing or unexpected.
    """
    from detoxify import Detoxify
    from detoxify.detoxify import get_model_and_tokenizer

    weights = {
        name: tensor.float() if tensor.is_floating_point() else tensor  # may be stored in half precision
        for name, tensor in checkpoint["state_dict"].items()
        if not name.endswith("embeddings.position_ids")  # a constant that old transformers saved
    }
    arch = dict(checkpoint["config"]["arch"]["args"], model_type=base)
    detox = Detoxify.__new__(Detoxify)
    with quiet():  # its report of missing weights is an error here
        detox.model, detox.tokenizer = get_model_and_tokenizer(**arch, state_dict=weights)
    expected = {name for name in detox.model.state_dict() if not name.endswith("embeddings.position_ids")}
    if wrong := expected ^ weights.keys():
        missing, surplus = sorted(expected - weights.keys()), sorted(weights.keys() - expected)
        lightning = weights and all(name.startswith("model.") for name in weights)
        hint = ": every name begins with 'model.', as Lightning saves them; strip that" if lightning else ""
        raise ModelError(
            f"the checkpoint does not fit {arch['model_name']}: {len(missing)} of its weights are missing, {len(surplus)} are "
            f"unexpected, such as {min(wrong)!r}{hint}"
        )
    rename = {"toxic": "toxicity", "severe_toxic": "severe_toxicity", "identity_hate": "identity_attack"}  # as detoxify does
    detox.class_names = [rename.get(name, name) for name in checkpoint["config"]["dataset"]["args"]["classes"]]
    detox.device = device
    detox.model.float().to(device).eval()
    return detox


def toxic_index(name: str, labels: Sequence[str], wanted: str | None) -> int:
    """Return the position of `wanted`, or of the first of TOXIC_LABELS that is there; names must be equal, but for case."""
    lower = [str(label).lower() for label in labels]
    if wanted is not None:
        if wanted.lower() not in lower:
            raise unknown_name(f"label of {name}:", wanted, labels)
        return lower.index(wanted.lower())
    for label in TOXIC_LABELS:
        if label in lower:
            return lower.index(label)
    raise UsageError(
        f"the labels of {name} are {', '.join(labels)}: none says that it is toxic. "
        f"Name the one that does: toxicity:model={name},label={labels[-1]}"
    )


def sequence_classifier(
    place: Path | str,
    label: str | None,
    context: RewardContext,
    pick: Callable[[str, Sequence[str], str | None], int] = toxic_index,
    exclusive: bool | None = None,
    trust_remote_code: bool = False,
) -> Classifier:
    """Load any sequence classifier of transformers, by folder or hub id.

    Args:
        place: folder or hub id.
        label: the class as the user named it, or None.
        context: device, batch size, and whether a network may be used.
        pick: (name, the model's labels, label) -> the index of the class; raises UsageError where it cannot tell.
        exclusive: whether the classes exclude each other; None for what the model's config says.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelError: it cannot be loaded, has no trained head, or does not say whether its classes exclude each other.
        UsageError: its labels do not tell which one is meant.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = load_network(
        "sequence classifier",
        place,
        context,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        trust_remote_code=trust_remote_code,
    )
    name = str(place)
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    index = pick(name, labels, label)
    kind = model.config.problem_type
    if exclusive is None and kind is None and len(labels) > 2:
        raise ModelError(
            f"{name!r} has {len(labels)} labels and does not say whether they exclude each other: set problem_type in its "
            f"config.json to single_label_classification or multi_label_classification, or use the reward "
            f"classifier:model={name},label={labels[index]},activation=softmax (or sigmoid)"
        )
    if kind == "regression":
        raise ModelError(f"{name!r} is a regression, not a classifier")
    if exclusive is None:
        exclusive = len(labels) > 1 and kind != "multi_label_classification"
    elif exclusive and len(labels) == 1:
        raise ModelError(f"{name!r} has one label, {labels[0]!r}: a softmax over it is always 1")
    return Classifier(model, tokenizer, labels[index], index, exclusive, context.batch_size)


def model_type(place: Path | str) -> str | None:
    """Return what the config.json of a folder says it holds; None without one."""
    return read_json(Path(place) / "config.json").get("model_type")


def _detoxify_judge(name: str, loaded: Mapping[str, Any], base: str, label: str | None, context: RewardContext) -> Classifier:
    try:
        detox = load_detoxify(loaded, base, context.device)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    index = toxic_index(name, detox.class_names, label)
    return Classifier(detox.model, detox.tokenizer, detox.class_names[index], index, False, context.batch_size)


def _read_checkpoint(path: Path) -> Mapping[str, Any]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError where it carries code; zip, struct and key errors where it is another format
        raise ModelError(
            f"{path} is not a checkpoint of plain tensors, or carries code, which is never executed: {first_line(error)}"
        ) from error
    try:
        loaded["state_dict"], loaded["config"]["dataset"]["args"]["classes"], loaded["config"]["arch"]["args"]["model_type"]
    except (KeyError, TypeError, IndexError) as error:
        raise ModelError(
            f"{path} is not a detoxify checkpoint: expected state_dict, config.arch.args and config.dataset.args.classes"
        ) from error
    checked: Mapping[str, Any] = loaded
    return checked
