"""SSD-LM's network: RoBERTa that reads a noisy simplex (Han et al. 2023, arXiv 2210.17432) beside a context of tokens.

A block of probability vectors enters as the mixture of token embeddings it describes, through an embedding of its own
(`embed_sum_layer`) that is not RoBERTa's, plus an embedding of the noise time; the tokens before it enter as in RoBERTa.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fktext.errors import ModelError
from fktext.files.pretrained import pretrained
from fktext.files.weights import read_tensors
from fktext.masked import mlm

LAYERS = ("embed_sum_layer.pt", "timestep_layer.pt")


class SimplexLM(nn.Module):
    """The network, split into encoder and vocabulary head.

    Args:
        model: transformers' `RobertaForMaskedLM`.
        embed_sum: (V,) probabilities -> (D,), without bias.
        timestep: noise time (1,) -> (D,).
    """

    mask_id = -1  # no token: it marks the places of a template that are to be written

    def __init__(self, model: Any, embed_sum: nn.Linear, timestep: nn.Linear) -> None:
        super().__init__()
        self.model = model.eval()
        self.embed_sum = embed_sum
        self.timestep = timestep
        self.vocab_size = embed_sum.in_features
        self.max_length = mlm.positions(model)
        self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""
        return self.embed_sum.weight.device

    def embed(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Map (R, C, V) simplex logits at noise time t in (0, 1], one or (R, 1, 1), to (R, C, D), as the encoder takes them."""
        time = t if isinstance(t, Tensor) else x.new_tensor([t])
        time = time.to(self.timestep.weight.device, self.timestep.weight.dtype)
        probs = torch.softmax(x.float(), -1).to(self.embed_sum.weight.dtype)
        out: Tensor = self.embed_sum(probs) + self.timestep(time)
        return out

    def encode(self, context: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """Run the encoder: return the hidden states of the block; see `encode_all`.

        Returns:
            (R, C, D); position i predicts token i of the block.
        """
        return self.encode_all(context, x, t)[:, context.shape[1] :].contiguous()

    def encode_all(self, context: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """Run the encoder: return the hidden states of the context and the block.

        Args:
            context: (R, n) int64 tokens before the block, n > 0.
            x: (R, C, V) its simplex logits.
            t: its noise time in (0, 1]; one for all rows, or (R, 1, 1).

        Returns:
            (R, n + C, D).
        """
        embeds = torch.cat([self.model.get_input_embeddings()(context), self.embed(x, t)], 1)
        hidden: Tensor = self.model.base_model(inputs_embeds=embeds)[0]
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Map (..., D) to (..., V) logits of the tokens."""
        out: Tensor = self.model.lm_head(hidden)
        return out


def load(folder: Path, *, tied: bool = False) -> SimplexLM:
    """Load a folder that holds RoBERTa in the layout of `save_pretrained` and the two layers beside it, in float32.

    Args:
        folder: config.json, weights and the files of `LAYERS`.
        tied: the word embeddings stand in the place of `embed_sum_layer`, whose file must then not be there.

    Raises:
        ModelError: a file is missing or damaged, or the files contradict each other.
    """
    from transformers import AutoModelForMaskedLM

    model = pretrained(folder, AutoModelForMaskedLM, "a masked language model")
    if type(model).__name__ != "RobertaForMaskedLM":
        raise ModelError(f"{folder} holds {type(model).__name__}; SSD-LM is a RobertaForMaskedLM")
    width, size = int(model.config.hidden_size), int(model.config.vocab_size)
    embed_sum, timestep = nn.Linear(size, width, bias=False), nn.Linear(1, width)
    layers = dict(zip(LAYERS, (embed_sum, timestep), strict=True))
    if tied:
        if (folder / LAYERS[0]).is_file():
            raise ModelError(f"{folder} has {LAYERS[0]}, which contradicts tie_embed_sum in its config.json: remove one of them")
        del layers[LAYERS[0]]
        embed_sum.weight = nn.Parameter(model.get_input_embeddings().weight.detach().T)
    for name, layer in layers.items():
        if not (folder / name).is_file():
            raise ModelError(f"{folder} has no {name}: an SSD-LM is RoBERTa with {' and '.join(layers)} beside it")
        tensors = {key.removeprefix("module."): tensor.float() for key, tensor in read_tensors(folder / name).items()}
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        expected = {key: tuple(tensor.shape) for key, tensor in layer.state_dict().items()}
        if shapes != expected:
            raise ModelError(f"{folder / name} holds {shapes}, config.json asks for {expected}")
        layer.load_state_dict(tensors)
    return SimplexLM(model, embed_sum, timestep)
