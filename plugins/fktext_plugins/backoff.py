"""An n-gram language model with back-off: what `heldout-causal` is, and a second opinion on texts that a network steered.

log p(w | h) is read off the longest n-gram of the history h that the model holds; each word by which the history had to be
shortened adds that history's back-off weight (Katz 1987). How the numbers are estimated is the recipe's business
(`recipes/backoff_lm.py`: interpolated modified Kneser-Ney, Chen and Goodman 1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fktext.errors import ModelError
from fktext.files.weights import read_json
from fktext.text import vocabulary_digest, well_formed

MODEL_TYPE = "fktext-backoff"


@dataclass(frozen=True)
class Order:
    """The n-grams of one length n, sorted by the (n-1)-gram they begin with, then by their last word.

    Attributes:
        words: (E,) last word of each.
        log_p: (E,) log p(last word | the words before), nats.
        children: (E,) how many longer n-grams begin with it.
        log_backoff: (E,) what it adds, as a history, to the log-probability of a word that does not follow it in the next order.
    """

    words: Tensor
    log_p: Tensor
    children: Tensor
    log_backoff: Tensor


class BackoffLM:
    """Give log-probabilities of token sequences.

    Args:
        orders: unigrams (one for each token, in their order), bigrams, and so on.

    Raises:
        ModelError: their sizes contradict each other.
    """

    def __init__(self, orders: Sequence[Order]) -> None:
        self.orders = tuple(orders)
        self.vocabulary = len(orders[0].words)
        self._keys: list[Tensor] = []  # of order n >= 2: place of the history among the (n-1)-grams * V + word, ascending
        for lower, order in zip(self.orders, self.orders[1:], strict=False):
            if int(lower.children.sum()) != len(order.words):
                raise ModelError(f"{len(order.words)} n-grams have {int(lower.children.sum())} places: the model is damaged")
            history = torch.arange(len(lower.words)).repeat_interleave(lower.children.long())
            self._keys.append(history * self.vocabulary + order.words)

    def log_probs(self, ids: Tensor, first: Tensor) -> Tensor:
        """Return log p of each token given those before it in its row, at most n-1 of them.

        Args:
            ids: (T,) rows of tokens, one behind the other.
            first: (T,) bool, where a row begins; its first token has no history.

        Returns:
            (T,) float64, nats.
        """
        found = ids.long()  # where the n-gram that ends at each position stands in its order, -1 where it is not held
        log_p = self.orders[0].log_p[found].double()
        for lower, order, keys in zip(self.orders, self.orders[1:], self._keys, strict=False):
            history = found.roll(1).masked_fill(first, -1)
            wanted = history * self.vocabulary + ids
            place = torch.searchsorted(keys, wanted).clamp(max=max(0, len(keys) - 1))
            held = (history >= 0) & (keys[place] == wanted) if len(keys) else torch.zeros_like(first)
            backed = log_p + torch.where(history >= 0, lower.log_backoff[history.clamp(min=0)].double(), 0.0)
            log_p = torch.where(held, order.log_p[place].double() if len(keys) else 0.0, backed)
            found = torch.where(held, place, -1)
        return log_p

    @classmethod
    def load(cls, folder: Path) -> BackoffLM:
        """Read `model.safetensors`, where log-probabilities are places in a table of 256 values and only histories have weights.

        Raises:
            ModelError: files are missing or damaged, or contradict each other.
        """
        try:
            tensors = load_file(folder / "model.safetensors")
            orders = []
            for n in range(1, int(read_json(folder / "config.json")["order"]) + 1):
                children = tensors.get(f"{n}.children", torch.zeros(len(tensors[f"{n}.log_p"]), dtype=torch.int32)).int()
                log_backoff = torch.zeros(len(children))
                if f"{n}.log_backoff" in tensors:
                    log_backoff[children > 0] = tensors[f"{n}.log_backoff"].float()
                words = tensors[f"{n}.words"].int() if n > 1 else torch.arange(len(children), dtype=torch.int32)
                orders.append(Order(words, tensors[f"{n}.table"][tensors[f"{n}.log_p"].long()], children, log_backoff))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise ModelError(f"{folder} cannot be loaded as an n-gram model: {type(error).__name__}: {error}") from error
        return cls(orders)


class BackoffJudge:
    """Judge texts by a `BackoffLM` and its tokenizer; see `fktext_plugins.perplexity.CausalLM`.

    Args:
        model: the n-grams.
        tokenizer: a `tokenizers.Tokenizer`.
        bos: the token that begins every text.

    Raises:
        ModelError: tokenizer and model do not belong together.
    """

    begins = True

    def __init__(self, model: BackoffLM, tokenizer: Any, bos: str) -> None:
        self.model, self.tokenizer, self.vocabulary = model, tokenizer, model.vocabulary
        self.token_digest = vocabulary_digest(tokenizer.get_vocab())
        found = tokenizer.token_to_id(bos)
        if found is None or tokenizer.get_vocab_size() != model.vocabulary:
            raise ModelError(
                f"the tokenizer has {tokenizer.get_vocab_size()} tokens and {'a' if found is not None else 'no'} {bos!r}, but the "
                f"n-grams are of {model.vocabulary} tokens and begin with {bos!r}"
            )
        self.bos = int(found)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without any special token around them."""
        found = self.tokenizer.encode_batch_fast(list(map(well_formed, texts)), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return (n,) float64 log-probabilities of each row of n tokens."""
        if not rows:
            return []
        ids = torch.tensor([token for row in rows for token in (self.bos, *row)])
        first = torch.zeros(len(ids), dtype=torch.bool)
        ends = torch.tensor([len(row) + 1 for row in rows]).cumsum(0)
        first[0], first[ends[:-1]] = True, True
        return list(self.model.log_probs(ids, first)[~first].split([len(row) for row in rows]))

    @classmethod
    def load(cls, folder: Path) -> BackoffJudge:
        """Read a folder that `recipes/backoff_lm.py` wrote.

        Raises:
            ModelError: files are missing or damaged, or contradict each other.
        """
        from tokenizers import Tokenizer

        model = BackoffLM.load(folder)
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises plain Exception
            raise ModelError(f"the tokenizer of {folder} cannot be loaded: {error}") from error
        return cls(model, tokenizer, str(read_json(folder / "config.json").get("bos_token")))
