"""What the recipes of the acceptability judges share: the network, examples as tensors, an epoch, the files that ship."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForSequenceClassification

from corruption import Words, split_words
from toxicity_judge import length_batches

LABELS = ("unacceptable", "acceptable")


@dataclass(frozen=True)
class Example:
    """A text for training: its words, the probability that it is acceptable, and which words are wrong (None: not known)."""

    words: Words
    label: float
    touched: frozenset[int] | None


class Judge(nn.Module):
    """The classifier, and the head that says of each token whether it is wrong, which is not kept."""

    def __init__(self, model: BertForSequenceClassification) -> None:
        super().__init__()
        self.model, self.token_head = model, nn.Linear(model.config.hidden_size, 1)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(R, L) token ids -> (R, 2) logits of the text, (R, L) log-odds that a token is wrong."""
        hidden = self.model.bert(input_ids=ids, attention_mask=(ids != 0).long())
        text = self.model.classifier(self.model.dropout(hidden.pooler_output))
        return text, self.token_head(self.model.dropout(hidden.last_hidden_state))[..., 0]


def initial_model(encoder: Path, tokenizer_ids: list[int], layers: int, longest: int) -> BertForSequenceClassification:
    """The first `layers` layers of `encoder` with pruned embeddings and a fresh head."""
    settings = json.loads((encoder / "config.json").read_text())
    config = BertConfig(
        vocab_size=len(tokenizer_ids),
        hidden_size=settings["hidden_size"],
        num_hidden_layers=layers,
        num_attention_heads=settings["num_attention_heads"],
        intermediate_size=settings["intermediate_size"],
        max_position_embeddings=longest,
        pad_token_id=0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        problem_type="single_label_classification",
        attention_probs_dropout_prob=0.0,
        dtype="float32",
        attn_implementation="eager",  # for short texts: the backward pass of the fused kernel takes twice the time of all the rest
    )
    model = BertForSequenceClassification(config)
    weights = {name: tensor.float() for name, tensor in load_file(encoder / "model.safetensors").items()}
    for part, rows in (("word", tokenizer_ids), ("position", list(range(longest)))):
        name = f"embeddings.{part}_embeddings.weight"
        weights[name] = weights[name][rows]
    wanted = {name for name in model.bert.state_dict() if not name.startswith("pooler")}
    kept = {name: tensor for name, tensor in weights.items() if name in wanted}
    missing, unexpected = model.bert.load_state_dict(kept, strict=False)
    if unexpected or any(not name.startswith("pooler") for name in missing):
        raise SystemExit(f"encoder weights do not fit: missing {missing}, unexpected {unexpected}")
    return model


@dataclass(frozen=True)
class Encoded:
    """Examples as tensors: ids, probabilities of being acceptable, and 0/1 for each token (-1: not known)."""

    ids: list[Tensor]
    labels: Tensor
    tokens: list[Tensor]

    def __add__(self, other: Encoded) -> Encoded:
        return Encoded(self.ids + other.ids, torch.cat([self.labels, other.labels]), self.tokens + other.tokens)


def encode(tokenizer: Tokenizer, examples: Sequence[Example]) -> Encoded:
    """Tokenise examples; a word's label goes to all of its pieces."""
    ids, tokens = [], []
    encodings = tokenizer.encode_batch([list(example.words) for example in examples], is_pretokenized=True)
    for example, encoding in zip(examples, encodings, strict=True):
        ids.append(torch.tensor(encoding.ids))
        if example.touched is None:
            tokens.append(torch.full((len(encoding.ids),), -1.0))
        else:
            tokens.append(torch.tensor([-1.0 if word is None else float(word in example.touched) for word in encoding.word_ids]))
    return Encoded(ids, torch.tensor([float(example.label) for example in examples]), tokens)


def train_epoch(
    judge: nn.Module,
    data: Encoded,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[float], float],
    generator: torch.Generator,
    batch_tokens: int,
    smoothing: float,
    dropout: float,
    average: dict[str, Tensor] | None = None,
) -> None:
    """One epoch; `rate` maps progress in [0, 1] to the factor on each group's peak rate; `average` follows the weights slowly."""
    judge.train()
    for module in judge.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    batches = list(length_batches(torch.tensor([len(row) for row in data.ids]), batch_tokens, generator))
    bfloat16 = torch.cpu.get_capabilities().get("avx512_bf16", False)  # without it, bfloat16 is slower than float32
    started, running = time.process_time(), torch.zeros(2)
    for step, members in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate(step / len(batches))
        ids = pad_sequence([data.ids[i] for i in members.tolist()], batch_first=True)
        tokens = pad_sequence([data.tokens[i] for i in members.tolist()], batch_first=True, padding_value=-1.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            text, wrong = (out.float() for out in judge(ids))
        wanted = torch.stack([1 - data.labels[members], data.labels[members]], 1)
        losses = [functional.cross_entropy(text, wanted, label_smoothing=smoothing), torch.zeros(())]
        if (known := tokens >= 0).any():
            losses[1] = functional.binary_cross_entropy_with_logits(wrong[known], tokens[known])
        (losses[0] + 2 * losses[1]).backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            for name, tensor in judge.state_dict().items():
                average[name].lerp_(tensor, 0.01)
        running += torch.stack([loss.detach() for loss in losses])
        if (step + 1) % 100 == 0:
            text_loss, token_loss = (running / 100).tolist()
            seconds = time.process_time() - started
            print(f"step {step + 1}/{len(batches)} loss {text_loss:.3f}, tokens {token_loss:.3f}, {seconds:.0f} s", flush=True)
            running.zero_()


@torch.inference_mode()
def margins(judge: nn.Module, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """(n,) log-odds that the texts are acceptable."""
    judge.eval()
    ids = encode(tokenizer, [Example(split_words(text) or ["[UNK]"], 0, None) for text in texts]).ids
    out = torch.empty(len(ids))
    for members in length_batches(torch.tensor([len(row) for row in ids]), 4096, None):
        logits = judge(pad_sequence([ids[i] for i in members.tolist()], batch_first=True))[0]
        out[members] = logits[:, 1] - logits[:, 0]
    return out


def groups(judge: Judge, rate: float, head_rate: float) -> torch.optim.Optimizer:
    """AdamW, with a larger rate for what is new."""
    fresh = ("model.classifier", "model.bert.pooler", "token_head")
    body = [parameter for name, parameter in judge.named_parameters() if not name.startswith(fresh)]
    head = [parameter for name, parameter in judge.named_parameters() if name.startswith(fresh)]
    parts = [{"params": body, "peak": rate}, {"params": head, "peak": head_rate}]
    return torch.optim.AdamW(parts, lr=0.0, weight_decay=0.01, betas=(0.9, 0.98), fused=True)


def export(
    model: BertForSequenceClassification, tokenizer: Tokenizer, weights: dict[str, Tensor], folder: Path, longest: int
) -> None:
    """Write configuration, tokenizer and int8 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = ["BertForSequenceClassification"]
    model.config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # some versions of safetensors write files that only their owner can read
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    settings = {"tokenizer_class": "BertTokenizerFast", "do_lower_case": True, "model_max_length": longest, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
