"""E2D2 (Arriola et al. 2025, arXiv 2510.22852): one Qwen3 reads the finished blocks, a smaller one writes the next.

The encoder is block-causal over finished blocks. The decoder's positions see their own block and what was read of those before: in
every layer the encoder's output, or, where keys and values are shared, those of the encoder's layer of the same number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fktext.errors import ModelError
from fktext.files.weights import read_tensors

if TYPE_CHECKING:
    from fktext.masked.cache import Past

Pair = tuple[Tensor, Tensor]
_NAMES = {
    r"^backbone\.encoder\.model\.embed_tokens\.": "embed.",
    r"^backbone\.encoder\.model\.layers\.": "encoder.",
    r"^backbone\.encoder\.model\.norm\.": "encoder_norm.",
    r"^backbone\.decoder\.model\.layers\.": "decoder.",
    r"^backbone\.decoder\.model\.norm\.": "decoder_norm.",
    r"^backbone\.decoder\.lm_head\.": "head.",
}
_REPEATED = re.compile(r"^backbone\.(encoder\.lm_head|decoder\.model\.embed_tokens)\.")  # tied to the embedding
_ALL = -1  # what config.json calls as many layers as there are
_THETA, _EPS = 1e6, 1e-6  # Qwen3's, where config.json leaves them to the checkpoint it began with


class E2D2(nn.Module):
    """The two networks as one denoiser (`fktext.masked.denoiser.Denoiser`), whose finished blocks can be remembered.

    Args:
        config: of transformers' Qwen3, both networks' sizes.
        depths: layers of the encoder, and of the decoder.
        shared: whether the decoder sees the encoder's keys and values, layer by layer from the top, or makes its own of its output.
        mask_id: the mask token.
        block: tokens of a block.
    """

    time_dependent = False

    def __init__(self, config: Any, depths: tuple[int, int], shared: bool, mask_id: int, block: int) -> None:
        from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RMSNorm

        super().__init__()
        self.shared, self.mask_id, self.block = shared, mask_id, block
        self.vocab_size, self.max_length = int(config.vocab_size), int(config.max_position_embeddings)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder, self.decoder = (
            nn.ModuleList([Qwen3DecoderLayer(config, index) for index in range(depth)]) for depth in depths
        )
        self.encoder_norm, self.decoder_norm = (Qwen3RMSNorm(config.hidden_size, config.rms_norm_eps) for _ in range(2))
        self.rotary: Any = None  # made when its weights are there
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""
        return self.embed.weight.device

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        """Map (R, L) tokens to (R, L, D): every block given those before it, as they are here; t is ignored."""
        place = torch.arange(ids.shape[1], device=ids.device) // self.block
        turn = self._turn(0, ids.shape[1])
        said, pairs = self._read(ids, turn, place[:, None] >= place, None)
        seen = torch.cat([place[:, None] > place, place[:, None] == place], 1)
        return self._write(ids, turn, self._heard(said, pairs, turn, None), seen)

    def extend(self, ids: Tensor, past: Past) -> Tensor:
        """Encode the last of (R, n) whole blocks that follow finished ones: (R, block, D); see `fktext.masked.cache.Extending`."""
        clean, before = ids[:, : -self.block], past.length
        place = torch.arange(before + clean.shape[1], device=ids.device) // self.block
        turn = self._turn(before, clean.shape[1])
        said, pairs = self._read(clean, turn, place[before:, None] >= place, past)
        heard = self._heard(said, pairs, turn, past)
        return self._write(ids[:, -self.block :], self._turn(before + clean.shape[1], self.block), heard, None)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map (R, D) to (R, V) raw logits."""
        out: Tensor = self.head(hidden)
        return out

    def _turn(self, first: int, length: int) -> Pair:
        """Return the cosines and sines of some positions, (1, 1, length, d) each."""
        position = torch.arange(first, first + length, device=self.device)
        cos, sin = self.rotary(self.embed.weight, position[None])
        return cos[:, None], sin[:, None]

    def _read(self, ids: Tensor, turn: Pair, seen: Tensor, past: Past | None) -> tuple[Tensor, list[Pair]]:
        """Run the encoder: (R, n) -> (R, n, D), and of each layer the keys and values of all positions so far."""
        x, pairs = self.embed(ids), []
        for number, layer in enumerate(self.encoder):
            pair = _pair(layer, x, turn)
            pair = past.update(*pair, number) if past is not None else pair
            pairs.append(pair)
            if ids.shape[1]:
                x = _layer(layer, x, turn, pair, seen)
        return self.encoder_norm(x), pairs

    def _heard(self, said: Tensor, pairs: list[Pair], turn: Pair, past: Past | None) -> list[Pair]:
        """Return what each layer of the decoder sees of finished blocks: keys and values (R, H, P, d)."""
        if self.shared:
            return pairs[-len(self.decoder) :]
        own = [_pair(layer, said, turn) for layer in self.decoder]
        return own if past is None else [past.update(*pair, len(self.encoder) + index) for index, pair in enumerate(own)]

    def _write(self, ids: Tensor, turn: Pair, heard: list[Pair], seen: Tensor | None) -> Tensor:
        """Run the decoder: (R, n) -> (R, n, D)."""
        x = self.embed(ids)
        for layer, (keys, values) in zip(self.decoder, heard, strict=True):
            key, value = _pair(layer, x, turn)
            x = _layer(layer, x, turn, (torch.cat([keys, key], 2), torch.cat([values, value], 2)), seen)
        out: Tensor = self.decoder_norm(x)
        return out


def _rotated(x: Tensor, turn: Pair) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * turn[0] + torch.cat([-second, first], -1) * turn[1]


def _pair(layer: Any, x: Tensor, turn: Pair) -> Pair:
    """Return a layer's keys and values (R, H, n, d) of its input (R, n, D)."""
    own, normed = layer.self_attn, layer.input_layernorm(x)
    shape = (*x.shape[:2], -1, own.head_dim)
    key = _rotated(own.k_norm(own.k_proj(normed).unflatten(-1, shape[2:])).transpose(1, 2), turn)
    return key, own.v_proj(normed).unflatten(-1, shape[2:]).transpose(1, 2)


def _layer(layer: Any, x: Tensor, turn: Pair, pair: Pair, seen: Tensor | None) -> Tensor:
    """Run a layer of Qwen3 with these keys and values."""
    own = layer.self_attn
    query = own.q_norm(own.q_proj(layer.input_layernorm(x)).unflatten(-1, (-1, own.head_dim))).transpose(1, 2)
    out = functional.scaled_dot_product_attention(_rotated(query, turn), *pair, attn_mask=seen, enable_gqa=True)
    x = x + own.o_proj(out.transpose(1, 2).flatten(2))
    mixed: Tensor = x + layer.mlp(layer.post_attention_layernorm(x))
    return mixed


def load(files: Sequence[Path], settings: Mapping[str, Any], block: int, dtype: torch.dtype, device: torch.device) -> E2D2:
    """Load E2D2 from its weight files.

    Args:
        files: the shards.
        settings: config.json's content; sizes are read from the tensors, and any that it names must agree.
        block: tokens of a block.
        dtype, device: of the result.

    Raises:
        ModelError: files are damaged or contradict the settings.
    """
    backbone, source = settings.get("backbone_config") or {}, files[0].parent
    kind = str(backbone.get("_target_", "")).rpartition(".")[2]
    if kind not in ("LLMasEncoderDecoder", "LLMasEncoderDecoderShareKV"):
        raise ModelError(
            f"{source} has backbone {kind!r} in its config.json: expected LLMasEncoderDecoder or LLMasEncoderDecoderShareKV"
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in read_tensors(file).items():
            if not _REPEATED.match(name):
                for pattern, new in _NAMES.items():
                    name = re.sub(pattern, new, name)
                tensors[name] = tensor
    depths = tuple(len({name.split(".")[1] for name in tensors if name.startswith(f"{part}.")}) for part in ("encoder", "decoder"))
    config = _config(tensors, settings, depths[0], source)
    used = _writing(backbone, kind, depths[1], source)
    # Where the two have the same weights the file has all layers of the decoder, of which the top ones write.
    spare = depths[1] - used
    named = {re.sub(r"^decoder\.(\d+)", lambda m: f"decoder.{int(m[1]) - spare}", name): tensor for name, tensor in tensors.items()}
    with torch.device("meta"):
        model = E2D2(config, (depths[0], used), kind.endswith("ShareKV"), settings["mask_token_id"], block)
    wanted = {name: value.to(device, dtype) for name, value in named.items() if not name.startswith("decoder.-")}
    try:
        model.load_state_dict(wanted, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{source} does not hold E2D2's network: {' '.join(str(error).split())[:300]}") from error
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    model.rotary = Qwen3RotaryEmbedding(config=config).to(device)  # in float32, and in no file
    return model.eval().requires_grad_(False)


def _writing(backbone: Mapping[str, Any], kind: str, depth: int, source: Path) -> int:
    """Tell how many of the decoder's layers write, the top ones where it has the encoder's weights.

    Raises:
        ModelError: config.json contradicts the files, or says of the networks what is not done here.
    """
    tied = backbone.get("tie_encoder_decoder_weights", False)
    if backbone.get("use_encoder_causal_mask", False):
        raise ModelError(
            f"{source} has use_encoder_causal_mask true in its config.json; only encoders are known that see whole blocks"
        )
    if kind.endswith("ShareKV") and not tied:
        raise ModelError(f"{source} shares keys and values between networks of different weights, which is not known here")
    said = backbone.get("num_decoder_layers", _ALL)
    used: int = depth if said == _ALL else said
    if not 0 < used <= depth or (used < depth and not tied):
        raise ModelError(f"{source} contradicts itself: config.json says num_decoder_layers {said}, the tensors say {depth}")
    return used


def _config(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], depth: int, source: Path) -> Any:
    """Make the configuration of Qwen3 that the tensors' shapes tell; what config.json says of them must agree."""
    from transformers import Qwen3Config

    try:
        (vocab, hidden), head = tensors["embed.weight"].shape, len(tensors["encoder.0.self_attn.q_norm.weight"])
        sizes = {
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": len(tensors["encoder.0.mlp.gate_proj.weight"]),
            "head_dim": head,
            "num_attention_heads": len(tensors["encoder.0.self_attn.q_proj.weight"]) // head,
            "num_key_value_heads": len(tensors["encoder.0.self_attn.k_proj.weight"]) // head,
        }
    except (KeyError, ValueError) as error:
        raise ModelError(f"{source} does not hold E2D2's network: {error} is missing or has an unexpected shape") from error
    backbone = settings["backbone_config"]
    if backbone.get("num_encoder_layers", _ALL) != _ALL:
        sizes["num_encoder_layers"] = depth
    for name, size in sizes.items():
        if backbone.get(name, size) != size:
            raise ModelError(f"{source} contradicts itself: config.json says {name} {backbone[name]}, the tensors say {size}")
    sizes.pop("num_encoder_layers", None)
    theta, eps = backbone.get("rope_theta", _THETA), backbone.get("rms_norm_eps", _EPS)
    rope = {"rope_type": "default", "rope_theta": theta}
    length = settings["length"]
    return Qwen3Config(**sizes, num_hidden_layers=depth, rms_norm_eps=eps, rope_parameters=rope, max_position_embeddings=length)
