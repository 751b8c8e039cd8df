"""Fit the learned values of `tiny-mdlm` that come with fktext.

    python recipes/values.py --data DATA --out weights/fktext_weights

One run of the network serves all rewards. The texts are 1,500 of the model's own, continuing beginnings of training texts, 3,500
training texts drawn at random, and 2,500 of the sources that hold toxic ones, which the model seldom writes by itself.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch

from corpus import read_snippets
from fktext import RewardContext, fit_values, load, load_plugins
from fktext.texts.values import Status
from fktext.values import Card, save

NAMES = {
    "tiny-mdlm-toxic": "toxicity",
    "tiny-mdlm-nontoxic": "toxicity:target=nontoxic",
    "tiny-mdlm-positive": "sentiment",
    "tiny-mdlm-negative": "sentiment:label=negative",
}
TOXIC = ("jigsaw", "edos", "civil", "wiki_talk", "stormfront")
OWN, GIVEN, GIVEN_TOXIC, PROMPTS = 1500, 3500, 2500, 300
CARD = """# {name}

A learned value: what `{reward}` of the finished text will be, read off the hidden states of `{model}`; see fktext's docs/values.md.

- Belongs to `{model}` with digest {model_digest} and to the reward with digest {reward_digest}; for others it is refused.
- Fitted to {own:,} texts of the model and {given:,} of its training texts (sources in the card of `tiny-mdlm`), judged once, masked
  twice at random times.
- Held-out loss {loss:.4f}, of the best constant {chance:.4f}. By share of unknown positions:

| unknown | texts | correlation with the final reward | mean exp(value) | mean exp(reward) |
|---|---|---|---|---|
{levels}

- Recipe: `python recipes/values.py --data DATA --out weights/fktext_weights`. `fktext value check {name}` measures it on new texts.
- Limits: texts of {length} tokens, as the model writes them at its own temperature; others were not tried.
- Licence of the weights: CC BY-SA 4.0, as that of the model.
"""


def texts_and_prompts(data: Path) -> tuple[list[str], list[str]]:
    """Return the texts to fit to, and what the model's own continue."""
    rng = random.Random(5)
    lines = list(read_snippets(data / "lm_mix/train.txt.gz"))
    toxic = [text for source, text in lines if source in TOXIC]
    texts = [text for _, text in rng.sample(lines, GIVEN)] + rng.sample(toxic, GIVEN_TOXIC)
    begun = [" ".join(text.split()[: rng.choice((1, 2, 2, 3, 3, 4))]) for _, text in rng.sample(lines, PROMPTS + 100)]
    begun = [text.replace("[", "").replace("]", "") for text in begun]
    return texts, [text for text in begun if text and text.isascii()][:PROMPTS]


def write_card(folder: Path, about: Card) -> None:
    """Write the card of a value beside it."""
    levels = "\n".join(
        f"| {level.low:.0%} to {level.high:.0%} | {level.texts} | {level.correlation:.2f} | {level.said:.4f} | {level.was:.4f} |"
        for level in about.levels
    )
    card = CARD.format(name=folder.name, **{**about.model_dump(), "levels": levels, "reward_digest": about.reward_digest or "none"})
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory holding lm_mix/train.txt.gz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    registry = load_plugins()
    terms = [registry.create(spec, RewardContext()) for spec in NAMES.values()]
    texts, prompts = texts_and_prompts(args.data)
    folders = iter(NAMES)
    for step in fit_values(load("tiny-mdlm"), terms, texts, own=OWN, prompts=prompts):
        if isinstance(step, Status):
            print(f"{step.doing}: {step.done} of {step.total}", flush=True)
        else:
            save(folder := args.out / next(folders), *step)
            write_card(folder, step[1])


if __name__ == "__main__":
    main()
