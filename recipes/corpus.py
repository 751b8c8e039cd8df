"""The training texts of the embedded models: reading, weighting, tokenising and batching by length.

Input is a directory holding `lm_mix/train.txt.gz` and `lm_mix/valid.txt.gz`, one `source<TAB>text` a line. The sources and their
licences are listed in each model card.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

# Expected copies of each snippet per epoch. Short everyday registers and comments up, dated prose down.
SOURCE_WEIGHTS = {
    "tatoeba": 1.0,
    "stories": 2.0,
    "goemotions": 1.5,
    "sgd": 0.7,
    "onestop": 0.5,
    "wikipedia": 0.15,
    "books": 0.05,
    "civil": 2.0,
    "jigsaw": 2.0,
    "wiki_talk": 1.0,
}
WHOLE_SENTENCES = {"stories", "onestop", "wikipedia", "books", "civil"}  # cut from longer texts: drop what a cut left half
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BUCKET = 4  # canvas lengths are multiples of this many tokens


@dataclass(frozen=True)
class Texts:
    """Token ids of many texts, `[CLS] ... [SEP]` each, as one flat tensor with offsets."""

    ids: Tensor  # (total,) int32
    offsets: Tensor  # (n + 1,) int64
    characters: int  # of all texts together

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self) -> Tensor:
        """(n,) tokens of each text."""
        return self.offsets[1:] - self.offsets[:-1]


def read_snippets(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (source, text) from a gzipped `source<TAB>text` file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            source, _, text = line.rstrip("\n").partition("\t")
            if source in SOURCE_WEIGHTS and text:
                yield source, text


def well_formed(source: str, text: str) -> bool:
    """Whether a snippet is mostly words, its quotation marks pair up, and it is not the half of a cut sentence."""
    words = sum(character.isalpha() or character == " " for character in text)
    if words < 0.85 * len(text) or text.count('"') % 2:
        return False
    return source not in WHOLE_SENTENCES or (not text[0].islower() and text[-1] in ".!?\"'")


def prune_tokenizer(
    full: Tokenizer, snippets: Iterator[tuple[str, str]], size: int, source_weights: Mapping[str, float] = SOURCE_WEIGHTS
) -> tuple[Tokenizer, list[int]]:
    """Keep the `size` WordPiece pieces that the weighted corpus uses most, and every single character it has.

    Returns:
        The smaller tokenizer and, for each of its ids, the id that piece has in `full`.
    """
    counts: Counter[int] = Counter()
    chunk: list[str] = []
    weights: list[float] = []

    def count() -> None:
        for encoding, weight in zip(full.encode_batch_fast(chunk, add_special_tokens=False), weights, strict=True):
            for index in encoding.ids:
                counts[index] += weight
        chunk.clear()
        weights.clear()

    for source, text in snippets:
        chunk.append(text)
        weights.append(source_weights[source])
        if len(chunk) == 20_000:
            count()
    count()
    pieces = {index: piece for piece, index in full.get_vocab().items()}
    keep = list(SPECIAL_TOKENS)
    characters = [piece for index, piece in sorted(pieces.items()) if counts[index] and len(piece.removeprefix("##")) == 1]
    common = [pieces[index] for index, _ in counts.most_common() if pieces[index] not in (*SPECIAL_TOKENS, *characters)]
    keep += characters + common[: size - len(SPECIAL_TOKENS) - len(characters)]
    return wordpiece(keep), [full.token_to_id(piece) for piece in keep]


def wordpiece(pieces: list[str]) -> Tokenizer:
    """An uncased BERT tokenizer over `pieces`, which begin with SPECIAL_TOKENS."""
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # "don ' t" -> "don't": after pieces are joined, an apostrophe between spaces belongs inside a word
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(), decoders.Fuse(), decoders.Replace(" ' ", "'")])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def encode_texts(
    tokenizer: Tokenizer,
    snippets: Iterator[tuple[str, str]],
    longest: int,
    generator: torch.Generator,
    source_weights: Mapping[str, float] = SOURCE_WEIGHTS,
) -> Texts:
    """Tokenise, drop texts that are malformed, too long or have unknown pieces, and repeat each source by its weight."""
    unknown = tokenizer.token_to_id("[UNK]")
    flat: list[Tensor] = []
    lengths: list[int] = []
    characters = 0
    chunk: list[tuple[str, str]] = []

    def encode() -> None:
        nonlocal characters
        for (source, text), encoding in zip(chunk, tokenizer.encode_batch_fast([text for _, text in chunk]), strict=True):
            ids = encoding.ids
            if len(ids) < 6 or len(ids) > longest or unknown in ids:
                continue
            weight = source_weights[source]
            copies = int(weight) + int(torch.rand((), generator=generator).item() < weight % 1)
            for _ in range(copies):
                flat.append(torch.tensor(ids, dtype=torch.int32))
                lengths.append(len(ids))
                characters += len(text)
        chunk.clear()

    for snippet in snippets:
        if well_formed(*snippet):
            chunk.append(snippet)
        if len(chunk) == 20_000:
            encode()
    encode()
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    offsets[1:] = torch.tensor(lengths).cumsum(0)
    return Texts(torch.cat(flat), offsets, characters)


def epoch(texts: Texts, tokens: int, pad: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield every text once, in (rows, length) batches of about `tokens` tokens; all texts of a batch share one length bucket.

    A canvas is at most BUCKET - 1 tokens longer than its text, so the model learns that a canvas of n tokens holds a text that
    ends within it, and no compute goes into padding.
    """
    canvas = (texts.lengths() + BUCKET - 1) // BUCKET * BUCKET
    order = torch.randperm(len(texts), generator=generator)
    order = order[torch.sort(canvas[order], stable=True).indices]
    parts: list[Tensor] = []
    for length in canvas.unique().tolist():
        members = order[canvas[order] == length]
        parts += list(members.split(max(1, tokens // length)))
    for index in torch.randperm(len(parts), generator=generator).tolist():
        yield gather(texts, parts[index], int(canvas[parts[index][0]]), pad)


def batches(texts: Texts, tokens: int, pad: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the batches of one epoch after another, for ever."""
    while True:
        yield from epoch(texts, tokens, pad, generator)


def gather(texts: Texts, members: Tensor, length: int, pad: int) -> Tensor:
    """The texts `members` as a (rows, length) int64 tensor, padded at the end."""
    position = torch.arange(length)
    start, size = texts.offsets[members], texts.lengths()[members]
    index = (start[:, None] + position).clamp(max=len(texts.ids) - 1)
    return torch.where(position < size[:, None], texts.ids[index].long(), pad)
