"""How good a causal language model judges texts: any `model` of the reward `perplexity`.

    python recipes/causal_scores.py tiny-causal --data DATA

Prints what held-out snippets cost, by source; WikiText-2's test set in bits per character, which can be compared across tokenizers;
and how often a sentence is worth more than its words shuffled, and than as many random words.

WikiText-2 is tokenised text. Here its marks are undone (" @-@ " is "-", spaces around punctuation go), it is cut into sentences,
and those with <unk> or fewer than four words are left out. Each is scored alone, as the short texts are that the model is to judge;
its end is not scored. The embedded models read lower case only, so their bits are those of lower-case text.
"""

from __future__ import annotations

import argparse
import gzip
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from corpus import read_snippets, well_formed
from fktext.rewards import RewardContext
from fktext_plugins.perplexity import Perplexity, perplexity


def wikitext(path: Path) -> list[str]:
    """The sentences of a WikiText file as they are written elsewhere."""
    sentences: list[str] = []
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and not line.strip().startswith("="):
                sentences += re.split(r"(?<= [.!?]) ", line.strip())
    return [written(text) for text in sentences if "<unk>" not in text and len(text.split()) >= 4]


def written(text: str) -> str:
    """Tokenised text with its spaces where a reader expects them."""
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    text = re.sub(r" ([.,;:!?)\]%]|'s\b|n't\b|'\w+\b)", r"\1", text)
    text = re.sub(r"([(\[$]) ", r"\1", text)
    return re.sub(r'" ([^"]*) "', r'"\1"', text)


def cost(reward: Perplexity, texts: Sequence[str]) -> tuple[float, float, int]:
    """Nats per token, nats per character, and how many texts."""
    values, tokens = reward.score(texts), torch.tensor(reward.tokens(texts))
    nats = -(values * tokens).sum().item()
    return nats / tokens.sum().item(), nats / sum(map(len, texts)), len(texts)


def above(reward: Perplexity, better: Sequence[str], worse: Sequence[str]) -> str:
    """In which share of pairs the first is worth more: per token, and as a whole."""
    values, tokens = (
        [reward.score(texts) for texts in (better, worse)],
        [torch.tensor(reward.tokens(texts)) for texts in (better, worse)],
    )
    mean = (values[0] > values[1]).double().mean().item()
    total = (values[0] * tokens[0] > values[1] * tokens[1]).double().mean().item()
    return f"{mean:.3f} ({total:.3f} by the sum)"


def main() -> None:
    """Print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="as in --reward perplexity:model=MODEL")
    parser.add_argument("--data", type=Path, required=True, help="directory holding lm_mix/ and lm/wikitext2/")
    args = parser.parse_args()
    reward = perplexity(RewardContext(offline=True), model=args.model)
    valid = [(source, text) for source, text in read_snippets(args.data / "lm_mix/valid.txt.gz") if well_formed(source, text)]
    for source in sorted({source for source, _ in valid}):
        token, character, size = cost(reward, [text for origin, text in valid if origin == source])
        print(f"lm_mix {source}: {token:.3f} nats/token, {character:.3f} nats/character ({size} texts)")
    token, character, size = cost(reward, [text for _, text in valid])
    print(f"lm_mix, all: {token:.3f} nats/token, {character:.3f} nats/character ({size} texts)")
    (test,) = (args.data / "lm/wikitext2").glob("*test*")
    sentences = wikitext(test)
    token, character, size = cost(reward, sentences)
    print(f"WikiText-2 test: {character / math.log(2):.3f} bits/character, {token:.3f} nats/token ({size} sentences)")

    chooser = random.Random(0)
    for name, texts in (("lm_mix", [text for _, text in valid]), ("WikiText-2", sentences)):
        real = [text for text in texts if 6 <= len(text.split()) <= 20][:2000]
        words = sorted({word for text in real for word in text.split()})
        shuffled = [" ".join(chooser.sample(text.split(), len(text.split()))) for text in real]
        blind = [" ".join(chooser.choices(words, k=len(text.split()))) for text in real]
        print(
            f"{name}, {len(real)} sentences: sentence above its shuffled words {above(reward, real, shuffled)}, above random words "
            f"{above(reward, real, blind)}; shuffled above random {above(reward, shuffled, blind)}"
        )


if __name__ == "__main__":
    main()
