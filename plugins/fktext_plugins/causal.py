"""Judge texts by causal language models of transformers: any folder or hub id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from fktext.batches import Batches, judging
from fktext.errors import ModelError, UsageError
from fktext.rewards import RewardContext, load_network
from fktext.text import vocabulary_digest, well_formed

LOGITS = 1 << 26  # most logits held at once: 256 MiB in float32


class NetworkLM:
    """Give log-probabilities of tokens by a network that looks only back.

    Before every text stands the model family's first token, which the tokenizer or the config names (`bos_token`, BERT's
    `cls_token`); where there is none, a text's first token has no probability and does not count.

    Args:
        model: a transformers causal language model, in eval mode.
        tokenizer: its tokenizer.
        stride: tokens scored at a time of a text longer than the model takes; None for half of what it takes.
        batch_size: most windows per forward pass.

    Raises:
        UsageError: the stride leaves no context, or has no use.
        ModelError: the network looks ahead.
    """

    def __init__(self, model: Any, tokenizer: Any, stride: int | None, batch_size: int) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.token_digest = vocabulary_digest(tokenizer.get_vocab())
        self.bos = _first_token(model, tokenizer, self.vocabulary)
        self.begins = self.bos is not None
        self.longest = _longest(model, tokenizer)
        if stride is not None and (self.longest is None or not stride < self.longest):
            limit = "texts of any length" if self.longest is None else f"strides of 1 to {self.longest - 1} tokens"
            raise UsageError(f"stride came as {stride}: {model.name_or_path or type(model).__name__} takes {limit}")
        self.stride = stride or (self.longest or 2) // 2
        self.batches = Batches(batch_size)
        self._check()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without any special token around them."""
        if not texts:
            return []
        # Texts longer than the model takes are expected here: no warning.
        found = self.tokenizer(list(map(well_formed, texts)), add_special_tokens=False, verbose=False)
        return [list(row) for row in found["input_ids"]]

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return (n,) float64 log-probabilities of each row of n >= 1 tokens; (n - 1,), without the first, if there is no BOS."""
        whole = [[*([] if self.bos is None else [self.bos]), *row] for row in rows]
        windows = [(owner, first, last, new) for owner, row in enumerate(whole) for first, last, new in self._windows(len(row))]
        cuts = [whole[owner][first:last] for owner, first, last, _ in windows]
        width = max((len(cut) for cut in cuts), default=1) - 1

        def compute(batch: Sequence[Sequence[int]]) -> Tensor:
            size = max(1, LOGITS // (self.vocabulary * max(map(len, batch))))
            parts = [self._forward(batch[start : start + size], width) for start in range(0, len(batch), size)]
            return torch.cat(parts)

        found = self.batches.by_length(compute, cuts) if cuts else torch.empty(0, 0)
        out: list[list[Tensor]] = [[] for _ in rows]
        for (owner, first, last, new), values in zip(windows, found, strict=True):
            out[owner].append(values[last - first - 1 - new : last - first - 1])
        return [torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64) for parts in out]

    def _windows(self, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (first, last, new): the tokens [first, last) of a row that share a forward pass; the last `new` are scored."""
        size = self.longest or length
        if length > 1:
            yield 0, min(size, length), min(size, length) - 1
        done = size
        while done < length:
            last = min(done + self.stride, length)
            yield last - size, last, last - done
            done = last

    def _forward(self, rows: Sequence[Sequence[int]], width: int) -> Tensor:
        """Return (R, width) log p of the second token of each row, the third, and so on; nothing meaningful behind its end."""
        longest = max(map(len, rows))
        # Padding comes behind the text, where nothing looks, and is masked for networks that count it.
        ids = torch.tensor([[*row, *[row[0]] * (longest - len(row))] for row in rows])
        mask = (torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]).long()
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        with judging(self.model.device):
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        found = log_softmax(logits.float(), -1).gather(-1, ids[:, 1:, None])[..., 0]
        return torch.nn.functional.pad(found, (0, width - found.shape[1]))

    def _check(self) -> None:
        """Refuse a network that looks ahead, such as a BERT that was not made a decoder: it sees the token it is asked for."""
        ids = (torch.arange(4, device=self.model.device)[None] + self.vocabulary // 2) % self.vocabulary
        other = ids.clone()
        other[0, -1] = ids[0, 0]
        with judging(self.model.device):
            before, after = (self.model(input_ids=row).logits[:, :-1].float() for row in (ids, other))
        if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
            raise ModelError(
                f"{self.model.name_or_path or type(self.model).__name__} looks ahead: it is no causal language model (a BERT needs "
                "is_decoder in its config.json)"
            )


def load(place: Path | str, stride: int | None, trust_remote_code: bool, context: RewardContext) -> NetworkLM:
    """Load any causal language model of transformers, by folder or hub id; a folder's matrices may be stored as int8.

    Raises:
        UsageError: the stride leaves no context, or has no use.
        ModelError: it cannot be loaded, or is not a causal language model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network, tokenizer = load_network(
        "causal language model", place, context, AutoModelForCausalLM, AutoTokenizer, trust_remote_code=trust_remote_code
    )
    return NetworkLM(network, tokenizer, stride, context.batch_size)


def _first_token(model: Any, tokenizer: Any, vocabulary: int) -> int | None:
    """Return the token that begins every text of the model's family."""
    for token in (tokenizer.bos_token_id, tokenizer.cls_token_id, model.config.bos_token_id):
        if token is not None and token < vocabulary:  # configs have ids of another vocabulary by default
            return int(token)
    return None


def _longest(model: Any, tokenizer: Any) -> int | None:
    """Return the most tokens the network takes; None where its config sets no limit."""
    from fktext_plugins.classifiers import max_tokens

    limits = [max_tokens(model, tokenizer), getattr(model.config, "max_position_embeddings", None)]
    return min((limit for limit in limits if limit), default=None)
