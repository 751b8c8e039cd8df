"""What remembering finished blocks saves in block diffusion: the same sampler over a cache and without one, in one run.

    OMP_NUM_THREADS=1 python benchmarks/blocks.py   # a quarter of Qwen3-0.6B's layers with random weights; minutes on a core
    python benchmarks/blocks.py --size small --blocks 2 8 --length 32   # seconds

Particles are written over the cache and replaced by others at the end of every block, at random. Of its network calls every few are
made without the cache too, on the same rows in between, timed and compared; what all would take is scaled by positions. On a CPU
with one thread seconds are those of the processor. Layers cost the same, so the network's ratio is that of the whole depth.

- rows: of a block and particle that went through the network; a lone particle has so many steps that reveal something, on average,
  and those that begin a block alike share its first row.
- positions: that the network computed, and what it would compute without the cache.
- network: seconds over the cache, and without; ratio.
- bytes: of keys and values at the end, by formula and as held; without sharing: what a copy for each particle would take.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from fktext.masked.block_llm import BlockCausalLM
from fktext.masked.blocks import blocks
from fktext.masked.cache import Cached
from fktext.masked.denoiser import Denoiser
from fktext.masked.process import MaskedDiffusion
from fktext.masked.strides import Strides
from fktext.smc.noise import Noise, population_key
from fktext.smc.process import gather
from setting import hardware

QWEN3 = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
SMALL = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES = {"qwen3-0.6b": (QWEN3, 28), "small": (SMALL | {"head_dim": 16}, 2)}


def network(size: str, layers: int, block: int, length: int, device: str, dtype: torch.dtype) -> BlockCausalLM:
    """A Qwen3 under a block-causal mask, random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(**SIZES[size][0], num_hidden_layers=layers, max_position_embeddings=length)
    return BlockCausalLM(Qwen3ForCausalLM(config).to(device, dtype), config.vocab_size - 1, block)


class Both:
    """Run a denoiser over a cache, and every few calls without it too: how long each takes, and how far they are apart."""

    time_dependent = False

    def __init__(self, net: BlockCausalLM, every: int) -> None:
        self.net, self.cached, self.every = net, Cached(net, net.block), every
        self.mask_id, self.vocab_size, self.logits = net.mask_id, net.vocab_size, net.logits
        self.calls = self.positions = self.sampled = 0
        self.seconds, self.without, self.apart = 0.0, 0.0, 0.0

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        seconds, hidden = timed(self.cached, ids, t)
        self.seconds += seconds
        self.positions += ids.numel()
        if self.calls % self.every == self.every // 2:
            seconds, whole = timed(self.net, ids, t)
            self.without += seconds
            self.sampled += ids.numel()
            gap = (whole[:, -self.net.block :].double() - hidden).abs().max() / hidden.abs().max()
            self.apart = max(self.apart, float(gap))
        self.calls += 1
        return hidden


def timed(net: Denoiser | Cached, ids: Tensor, t: Tensor) -> tuple[float, Tensor]:
    """Encode rows: seconds, of the processor where that is what one thread runs on."""
    cpu = ids.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if cpu else time.perf_counter
    if ids.device.type == "cuda":
        torch.cuda.synchronize()
    started = clock()
    hidden = net.encode(ids, t)
    if ids.device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started, hidden


def measure(net: BlockCausalLM, length: int, particles: int, steps: int, every: int) -> list[str]:
    """Write a population, and say what it took."""
    both, template = Both(net, every), torch.full((1, length), net.mask_id, device=net.device)
    columns = blocks(template[0].cpu(), net.mask_id, net.block, length)
    process = MaskedDiffusion(both, template[:, columns[0].to(net.device)], particles, steps, lambda ids, population: [])  # type: ignore[arg-type]
    own, noise = Strides(process, template, columns, particles, process._decode), Noise.of([population_key(0, "blocks")], particles)
    generator, state = torch.Generator().manual_seed(0), own.init(noise)
    most, count = 0, len(columns)
    for k in range(0, own.num_steps, steps):
        state = own.advance(state, k, k + steps, noise)
        state = gather(state, torch.randint(particles, (particles,), generator=generator).to(net.device))
        most = max(most, both.cached.nbytes)
    config, cached = net.model.config, both.cached
    page = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * net.block * net.model.dtype.itemsize
    without = both.without * both.positions / both.sampled
    floor = steps * (1 - (1 - 1 / steps) ** net.block)
    return [
        f"block {net.block}, {count} blocks, T={steps} each:",
        f"  rows:      {process.ledger.denoiser_rows / particles / count:.2f} a block and particle (a lone one {floor:.2f}), "
        f"{both.calls} calls",
        f"  positions: {cached.computed} computed, {both.positions} without: {both.positions / cached.computed:.1f}x",
        f"  network:   {both.seconds:.1f} s, {without:.1f} s without (from {both.sampled / both.positions:.0%} of its positions): "
        f"{without / both.seconds:.1f}x; hidden states at most {both.apart:.0e} of the largest apart",
        f"  memory:    at most {most / 2**20:.1f} MiB; at the end {cached.pages} blocks of {page} bytes are "
        f"{cached.pages * page / 2**20:.1f} MiB, held {cached.nbytes / 2**20:.1f} MiB; a copy for each particle "
        f"{(count - 1) * particles * page / 2**20:.1f} MiB",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="qwen3-0.6b")
    parser.add_argument("--layers", type=int, help="default a quarter of the model's")
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 32], help="tokens of a block; default 4 and 32")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8, help="of a block, at most its tokens; default 8")
    parser.add_argument("--every", type=int, default=5, help="of how many network calls one is made without the cache too")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    layers = args.layers or max(1, SIZES[args.size][1] // 4)
    depth = f"{layers} of {SIZES[args.size][1]} layers"
    print(f"{args.size}, {depth}, {args.dtype}, L={args.length}, N={args.particles}; {hardware(args.device)}", flush=True)
    for block in args.blocks:
        net = network(args.size, layers, block, args.length, args.device, getattr(torch, args.dtype))
        with torch.inference_mode():
            net.encode(torch.zeros(1, block, dtype=torch.int64, device=args.device), torch.ones(1))  # warm up
        print("\n".join(measure(net, args.length, args.particles, min(args.steps, block), args.every)), flush=True)


if __name__ == "__main__":
    main()
