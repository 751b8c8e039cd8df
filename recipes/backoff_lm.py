"""Train the embedded n-gram language models: `heldout-causal`, which judges, and a small `tiny-causal`, which steers.

    python recipes/backoff_lm.py heldout-causal --data DATA --out weights/fktext_weights/heldout-causal
    python recipes/backoff_lm.py tiny-causal --data DATA --out weights/fktext_weights/tiny-causal

Interpolated modified Kneser-Ney (Chen and Goodman 1998), pruned to a size. `tiny-causal` counts the texts and the tokens of
`tiny-mdlm`. `heldout-causal` counts the documents of `lm_b`, which neither of them saw, in byte-level tokens of its own.

Pruning is Seymore and Rosenfeld's (1996): an n-gram is worth how often it occurs times what its log-probability loses when it is
left out; the least worth go first. The back-off weights are then computed anew, so that probabilities still add up to one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from corpus import Texts, encode_texts, read_snippets, well_formed
from fktext_plugins.backoff import MODEL_TYPE, BackoffLM, Order

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

VOCABULARY = 6_000  # of heldout-causal
LONGEST = {"tiny-causal": 64, "heldout-causal": 512}  # tokens of a text
MEGABYTES = {"tiny-causal": 10.6, "heldout-causal": 5.6}  # of the weights
RUN = re.compile(r"([^\w\s])\s?\1")  # a mark twice in a row
ENDS = {"tiny-causal": ("[CLS]", "[SEP]"), "heldout-causal": ("<s>", "</s>")}


def masked_texts(data: Path, start: Path, generator: torch.Generator) -> tuple[Tokenizer, dict[str, Texts]]:
    """The texts of `tiny-mdlm` by its tokenizer, each once: repetitions would spoil the discounts.

    Texts with runs of a mark ("....", "!!!") are left out: where dot after dot costs little, steering finds that out.
    """
    tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
    splits = {}
    for name in ("train", "valid"):
        snippets = ((source, text) for source, text in read_snippets(data / f"lm_mix/{name}.txt.gz") if not RUN.search(text))
        splits[name] = distinct(encode_texts(tokenizer, snippets, LONGEST["tiny-causal"], generator))
    return tokenizer, splits


def distinct(texts: Texts) -> Texts:
    """Without copies of a text next to it."""
    ids, offsets = texts.ids.numpy(), texts.offsets.numpy()
    rows = [ids[first:last] for first, last in pairwise(offsets)]
    kept = [row for before, row in zip([None, *rows], rows, strict=False) if before is None or not np.array_equal(before, row)]
    found = np.concatenate(([0], np.cumsum([len(row) for row in kept])))
    return Texts(torch.from_numpy(np.concatenate(kept)), torch.from_numpy(found), texts.characters)


def other_texts(data: Path, seed: int) -> tuple[Tokenizer, dict[str, Texts]]:
    """Pieces of one to five sentences of the documents in `lm_b`, every twentieth document held out, and a tokenizer for them."""
    chooser = random.Random(seed)
    rows: dict[str, list[str]] = {"train": [], "valid": []}
    for source in ("wikipedia", "books"):
        for index, document in enumerate(documents(data / f"lm_b/{source}_b.txt.gz")):
            pieces = (piece for line in document for piece in cut(line, chooser) if well_formed(source, piece))
            rows["valid" if index % 20 == 19 else "train"] += pieces
    tokenizer = byte_pairs(iter(rows["train"]))
    return tokenizer, {name: encode_all(tokenizer, found) for name, found in rows.items()}


def documents(path: Path) -> Iterator[list[str]]:
    """The lines of each document; a blank line stands between two."""
    lines: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line.strip():
                lines.append(line.strip())
            elif lines:
                yield lines
                lines = []
    if lines:
        yield lines


def cut(paragraph: str, chooser: random.Random) -> Iterator[str]:
    """One to five sentences at a time; every other piece is a single one, since short texts are what will be judged."""
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])", paragraph)
    start = 0
    while start < len(sentences):
        size = chooser.choice((1, 1, 1, 1, 2, 3, 4, 5))
        yield " ".join(sentences[start : start + size])
        start += size


def byte_pairs(texts: Iterator[str]) -> Tokenizer:
    """A lower-case byte-level BPE tokenizer: no text is unknown to it."""
    first, last = ENDS["heldout-causal"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[first, last], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)]
    )
    return tokenizer


def encode_all(tokenizer: Tokenizer, texts: list[str]) -> Texts:
    """Token ids of the texts that are not too long."""
    encoded = zip(tokenizer.encode_batch_fast(texts), texts, strict=True)
    kept = [(encoding.ids, len(text)) for encoding, text in encoded if len(encoding) <= LONGEST["heldout-causal"]]
    offsets = np.concatenate(([0], np.cumsum([len(ids) for ids, _ in kept])))
    ids = np.concatenate([np.array(ids, np.int32) for ids, _ in kept])
    return Texts(torch.from_numpy(ids), torch.from_numpy(offsets), sum(size for _, size in kept))


@dataclass
class Grams:
    """All n-grams of one length: packed words (ascending), how often each occurs, log p, and what leaving it out would cost."""

    keys: Ints
    counts: Ints
    log_p: Floats
    worth: Floats


def estimate(ids: Tensor, offsets: Tensor, vocabulary: int, order: int, start: int) -> tuple[list[Grams], int]:
    """Kneser-Ney probabilities of all n-grams up to a length.

    Args:
        ids: (T,) texts one behind the other, each beginning with `start`, which is never predicted.
        offsets: (n + 1,) where they begin.
        vocabulary: V.
        order: the longest.
        start: a token.

    Returns:
        The n-grams of each length, and how many bits a word takes in their keys.
    """
    words = ids.numpy().astype(np.int64)
    bits = int(vocabulary - 1).bit_length()
    assert bits * order < 63, "keys are 64-bit integers"
    place = np.arange(len(words)) - np.repeat(offsets[:-1].numpy(), np.diff(offsets.numpy()))
    raw: list[tuple[Ints, Ints]] = []
    keys = words.copy()
    for n in range(1, order + 1):
        if n > 1:
            keys = keys[:-1] << bits | words[n - 1 :]
        whole = place[n - 1 :] >= n - 1
        raw.append(np.unique(keys[whole], return_counts=True))
    levels: list[Grams] = []
    uniform = -np.log(vocabulary)  # what a token that was never seen shares with the others; the first one, too
    for n, (found, counts) in enumerate(raw, 1):
        adjusted = counts if n == order else continuations(found, counts, raw[n][0], bits, n, start)
        if n == 1:
            adjusted = np.where(found == start, 0, adjusted)
        history = found >> bits if n > 1 else np.zeros_like(found)
        begins = np.flatnonzero(np.diff(history, prepend=-1))
        discount = discounts(adjusted)[np.minimum(adjusted, 3)]
        total = np.add.reduceat(adjusted, begins)
        left = np.add.reduceat(np.where(adjusted > 0, discount, 0.0), begins) / total
        size = np.diff(begins, append=len(found))
        if n == 1:
            log_p = np.full(vocabulary, np.log(left[0]) + uniform)
            log_p[found] = np.logaddexp(log_p[found], log_of((adjusted - discount).clip(0) / total[0]))
            every = np.arange(vocabulary)
            occurs = np.zeros(vocabulary, np.int64)
            occurs[found] = counts
            levels.append(Grams(every, occurs, log_p, np.full(vocabulary, np.inf)))
            continue
        lower = levels[-1]
        below = lower.log_p[np.searchsorted(lower.keys, found & ((1 << bits * (n - 1)) - 1))] + np.log(np.repeat(left, size))
        log_p = np.logaddexp(log_of((adjusted - discount) / np.repeat(total, size)), below)
        levels.append(Grams(found, counts, log_p, counts * (log_p - below)))
    return levels, bits


def continuations(keys: Ints, counts: Ints, longer: Ints, bits: int, n: int, start: int) -> Ints:
    """How many different words come before each n-gram; for one that begins a text, how often it does."""
    suffixes, different = np.unique(longer & ((1 << bits * n) - 1), return_counts=True)
    adjusted = np.zeros_like(counts)
    adjusted[np.searchsorted(keys, suffixes)] = different
    return np.where(keys >> bits * (n - 1) == start, counts, adjusted)


def discounts(counts: Ints) -> Floats:
    """(4,) what is taken off counts of 0, 1, 2, and 3 or more (Chen and Goodman, eq. 26)."""
    n1, n2, n3, n4 = (max(1, int((counts == count).sum())) for count in (1, 2, 3, 4))
    share = n1 / (n1 + 2 * n2)
    found = [0.0, 1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3]
    return np.array([min(max(value, 0.0), float(top)) for top, value in enumerate(found)])


def log_of(values: Floats) -> Floats:
    """log, -inf for 0."""
    with np.errstate(divide="ignore"):
        return np.log(values)


def prune(levels: list[Grams], bits: int, threshold: float) -> list[Grams]:
    """Without the n-grams worth less, unless a longer one that is kept begins with them."""
    kept: list[Grams] = []
    needed = np.zeros(0, np.int64)
    for level in reversed(levels):
        keep = level.worth >= threshold
        keep[np.searchsorted(level.keys, needed)] = True
        kept.insert(0, Grams(level.keys[keep], level.counts[keep], level.log_p[keep], level.worth[keep]))
        needed = np.unique(kept[0].keys >> bits)
    return kept


def tensors(levels: list[Grams], bits: int, vocabulary: int) -> dict[str, Tensor]:
    """What `BackoffLM.load` reads: log-probabilities in a table of 256, back-off weights that make up for that and for pruning."""
    out: dict[str, Tensor] = {}
    orders: list[Order] = []
    for n, level in enumerate(levels, 1):
        table, codes = quantise(level.log_p)
        words = torch.from_numpy(level.keys & ((1 << bits) - 1)).int()
        children = np.zeros(len(level.keys), np.int64)
        if n < len(levels):
            histories, number = np.unique(levels[n].keys >> bits, return_counts=True)
            children[np.searchsorted(level.keys, histories)] = number
        orders.append(Order(words, table[codes.long()], torch.from_numpy(children), torch.zeros(len(words))))
        out |= {f"{n}.table": table, f"{n}.log_p": codes}
        if n < len(levels):
            out[f"{n}.children"] = torch.from_numpy(children).to(torch.uint16)
        if n > 1:
            out[f"{n}.words"] = words.to(torch.uint16)
            leaves = replace(orders[-2], children=torch.zeros_like(orders[-2].children))
            weight = backoffs(BackoffLM([*orders[:-2], leaves]), orders[-1], level.keys, bits, n)
            has = orders[-2].children > 0
            orders[-2].log_backoff[has] = weight.half().float()
            out[f"{n - 1}.log_backoff"] = weight.half()
    return out


def quantise(log_p: Floats) -> tuple[Tensor, Tensor]:
    """256 equally full bins, each with its mean probability, and the bin of each value."""
    order = np.argsort(log_p)
    codes = np.empty(len(log_p), np.uint8)
    parts = np.array_split(order, 256)
    for code, part in enumerate(parts):
        codes[part] = code
    table = [np.log(np.exp(log_p[part]).mean()) if len(part) else 0.0 for part in parts]
    return torch.tensor(table, dtype=torch.float32), torch.from_numpy(codes)


def backoffs(below: BackoffLM, order: Order, keys: Ints, bits: int, n: int) -> Tensor:
    """log of (1 - sum of p over the words held) / (1 - sum of their p one order below), of each history that has any."""
    suffix = np.stack([keys >> bits * (n - 1 - column) & ((1 << bits) - 1) for column in range(1, n)], 1)
    first = torch.zeros(suffix.shape, dtype=torch.bool)
    first[:, 0] = True
    lower = below.log_probs(torch.from_numpy(suffix).flatten(), first.flatten()).view(suffix.shape)[:, -1].numpy()
    begins = np.flatnonzero(np.diff(keys >> bits, prepend=-1))
    held = np.add.reduceat(order.log_p.double().exp().numpy(), begins)
    missed = np.add.reduceat(np.exp(lower), begins)
    return torch.from_numpy(np.log((1 - held).clip(1e-4) / (1 - missed).clip(1e-4)))


def fit(levels: list[Grams], bits: int, vocabulary: int, megabytes: float) -> dict[str, Tensor]:
    """The largest pruned model of at most that size."""
    low, high = 0.0, 64.0
    for _ in range(12):
        middle = (low + high) / 2
        kept = prune(levels, bits, middle)
        # a word takes 2 bytes, a log-probability 1; a history 2 for its children, and 2 for its weight where it has any
        size = sum(3 * len(level.keys) for level in kept) + sum(2 * len(level.keys) for level in kept[:-1])
        size += sum(2 * len(np.unique(level.keys >> bits)) for level in kept[1:])
        low, high = (low, middle) if size <= megabytes * 1e6 else (middle, high)
    return tensors(prune(levels, bits, high), bits, vocabulary)


def main() -> None:
    """Count, prune, write, and print what held-out texts cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=LONGEST)
    parser.add_argument(
        "--data", type=Path, required=True, help="directory holding lm_b/ (heldout-causal) or lm_mix/ (tiny-causal)"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--start", type=Path, default=Path("weights/fktext_weights/tiny-mdlm"), help="whose tokenizer tiny-causal has"
    )
    parser.add_argument("--order", type=int, default=4)
    args = parser.parse_args()
    started, seed = time.time(), list(LONGEST).index(args.model)
    if args.model == "tiny-causal":
        tokenizer, splits = masked_texts(args.data, args.start, torch.Generator().manual_seed(seed))
    else:
        tokenizer, splits = other_texts(args.data, seed)
    train, valid, vocabulary = splits["train"], splits["valid"], tokenizer.get_vocab_size()
    print(f"{len(train):,} texts, {len(train.ids):,} tokens, {time.time() - started:.0f} s", flush=True)
    begin, end = ENDS[args.model]
    levels, bits = estimate(train.ids, train.offsets, vocabulary, args.order, tokenizer.token_to_id(begin))
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(fit(levels, bits, vocabulary, MEGABYTES[args.model]), args.out / "model.safetensors")
    (args.out / "model.safetensors").chmod(0o644)
    settings = {"model_type": MODEL_TYPE, "order": args.order, "vocab_size": vocabulary, "bos_token": begin, "end_token": end}
    (args.out / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    tokenizer.save(str(args.out / "tokenizer.json"))

    model = BackoffLM.load(args.out)  # what ships is what is measured
    first = torch.zeros(len(valid.ids), dtype=torch.bool)
    first[valid.offsets[:-1]] = True
    found = model.log_probs(valid.ids, first)[~first]
    sizes = [len(order.words) for order in model.orders]
    print(f"{sizes} n-grams, {(args.out / 'model.safetensors').stat().st_size / 1e6:.2f} MB, {time.time() - started:.0f} s")
    print(f"held out: {-found.mean():.4f} nats/token, the end of each text included")


if __name__ == "__main__":
    main()
