"""`imagereward`: how people would rate an image of a prompt, by ImageReward's checkpoint on transformers' BLIP classes.

Source: Xu et al. 2023, "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation", section 3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from fktext.batches import Batches, judging
from fktext.errors import ModelError, RewardError, first_line
from fktext.rewards import Judged, RewardContext, loading
from fktext_plugins.images import three_channels

MODEL = "THUDM/ImageReward"
FILE = "ImageReward.pt"
TOKENIZER = "google-bert/bert-base-uncased"
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw score over its training prompts
LONGEST = 35  # tokens of a prompt, as it was trained
HEAD = 64  # width of an attention head, in both encoders
VISION = {  # the checkpoint's names of parts of the image encoder -> those of transformers
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "blocks": "encoder.layers",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "norm": "post_layernorm",
}
PART = re.compile("|".join(rf"(?<![\w.]){re.escape(name)}(?!\w)|(?<=\.){re.escape(name)}(?!\w)" for name in VISION))


class Network(nn.Module):
    """An image encoder, a text encoder that attends to it, and a head of linear layers.

    Args:
        state: the checkpoint's tensors by name; they say how large it is.

    Raises:
        KeyError, RuntimeError: tensors are missing, or do not fit together.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        super().__init__()
        image, text = (_below(state, f"blip.{name}_encoder.") for name in ("visual", "text"))
        _, places, wide = image["pos_embed"].shape
        patch = image["patch_embed.proj.weight"].shape[-1]
        self.side = round(math.sqrt(places - 1)) * patch
        vision = BlipVisionConfig(
            hidden_size=wide,
            intermediate_size=len(image["blocks.0.mlp.fc1.bias"]),
            num_hidden_layers=_count(image, r"blocks\.(\d+)\."),
            num_attention_heads=wide // HEAD,
            image_size=self.side,
            patch_size=patch,
            hidden_act="gelu",
            layer_norm_eps=1e-6,
        )
        vocabulary, width = text["embeddings.word_embeddings.weight"].shape
        language = BlipTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            encoder_hidden_size=wide,
            intermediate_size=len(text["encoder.layer.0.intermediate.dense.bias"]),
            num_hidden_layers=_count(text, r"encoder\.layer\.(\d+)\."),
            num_attention_heads=width // HEAD,
            max_position_embeddings=len(text["embeddings.position_embeddings.weight"]),
            hidden_act="gelu",
            layer_norm_eps=1e-12,
        )
        self.vision, self.text = BlipVisionModel(vision), BlipTextModel(language, add_pooling_layer=False)
        text.pop("embeddings.position_ids", None)
        self.vision.load_state_dict({PART.sub(lambda found: VISION[found[0]], name): tensor for name, tensor in image.items()})
        self.text.load_state_dict(text)
        head = _below(state, "mlp.layers.")
        numbers = sorted({int(name.split(".")[0]) for name in head})  # between them it has dropout, and no activation
        layers = []
        for number in numbers:
            weight, bias = head[f"{number}.weight"], head[f"{number}.bias"]
            layers.append(nn.Linear(weight.shape[1], weight.shape[0]))
            layers[-1].load_state_dict({"weight": weight, "bias": bias})
        self.head = nn.Sequential(*layers)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Map (R, 3, side, side) pixels, (R, tokens) ids and (R, tokens) mask to (R,) scores."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        everywhere = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
        read = self.text(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=seen, encoder_attention_mask=everywhere
        ).last_hidden_state
        scores: Tensor = self.head(read[:, 0])[:, 0]
        return (scores - MEAN) / STD


class ImageReward(Judged):
    """Score images by how people would rate them for their prompt.

    Args:
        network: in eval mode, on its device.
        tokenizer: BERT's.
        model, weights: as for `fktext.rewards.Judged`.
        batch_size: most images per forward pass.
    """

    def __init__(self, network: Network, tokenizer: Any, model: str, weights: Path, batch_size: int) -> None:
        import transformers

        super().__init__(model, "towards images that people rate high for their prompt", weights)
        self._network, self._tokenizer, self._batches = network, tokenizer, Batches(batch_size)
        size = {"height": network.side, "width": network.side}
        # In transformers 5 the plain name is of one that needs torchvision; Pillow is what images were resized by in training.
        kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
        self._images = kind(size={"shortest_edge": network.side}, crop_size=size)  # CLIP's mean and deviation

    def score(self, samples: Sequence[Any]) -> Tensor:
        """Return (M,) float64; about 0 on average over images that were rated, with deviation 1.

        Raises:
            RewardError: an image has no prompt.
        """
        if not all(image.prompt for image in samples):
            raise RewardError("reward 'imagereward' compares images with their prompts, and an image came without one")
        return self._batches(self._scores, samples)

    def _scores(self, images: Sequence[Any]) -> Tensor:
        whole = [(pixels * 255).round().byte() for pixels in three_channels(images)]  # as image files have them
        pixels = self._images(images=whole, return_tensors="pt")["pixel_values"]
        prompts = [image.prompt for image in images]
        rows = self._tokenizer(prompts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        device = next(self._network.parameters()).device
        with judging(device):
            scores: Tensor = self._network(pixels.to(device), rows["input_ids"].to(device), rows["attention_mask"].to(device))
        return scores


def imagereward(context: RewardContext, *, model: str = MODEL, tokenizer: str = TOKENIZER) -> ImageReward:
    """Make the reward `imagereward`.

    Args:
        context: where to run, whether a network may be used, images per forward pass.
        model: ImageReward.pt, a folder that holds it, or a hub id.
        tokenizer: a folder or a hub id of BERT's uncased tokenizer.

    Raises:
        ModelError: it cannot be loaded.
    """
    from huggingface_hub import hf_hub_download
    from transformers import AutoTokenizer

    path = Path(model).expanduser()
    path = path / FILE if path.is_dir() else path
    with loading("ImageReward checkpoint", model, context):
        words = AutoTokenizer.from_pretrained(tokenizer, local_files_only=context.offline)
        if not path.is_file():
            path = Path(hf_hub_download(model, FILE, local_files_only=context.offline))
    try:
        network = Network(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, ValueError, KeyError, RuntimeError, UnpicklingError, EOFError) as error:
        raise ModelError(f"{str(path)!r} is no ImageReward checkpoint: {first_line(error)}") from error
    return ImageReward(network.float().to(context.device).eval(), words, model, path, context.batch_size)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in state if (found := re.match(pattern, name))})
