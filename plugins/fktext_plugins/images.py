"""Rewards of images: simple ones of their pixels, and those of transformers' CLIP and image classifiers.

A sample has `pixels`, (channels, height, width) float32 in [0, 1], and `prompt`, what it was asked to show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fktext.batches import Batches, judging
from fktext.errors import ModelError, RewardError, UsageError
from fktext.rewards import Judged, RewardContext, load_network, locate
from fktext_plugins.classes import label_index

PICKSCORE = "yuvalkirstain/PickScore_v1"
PICKSCORE_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
CLIP = "openai/clip-vit-large-patch14"
COLOURS = ("red", "green", "blue")


class Pixels:
    """Score images by a function of their pixels alone.

    Args:
        goal: which way it steers, on one line.
        value: (channels, height, width) -> a number.
    """

    def __init__(self, goal: str, value: Callable[[Tensor], Tensor]) -> None:
        self.goal, self._value = goal, value

    def score(self, samples: Sequence[Any]) -> Tensor:
        """Return (M,) float64 values."""
        return torch.tensor([float(self._value(image.pixels)) for image in samples], dtype=torch.float64)


def brightness(context: RewardContext) -> Pixels:
    """Make the reward `brightness`: the mean of all pixels."""
    return Pixels("towards bright images", lambda pixels: pixels.double().mean())


def colour(context: RewardContext, *, of: Literal["red", "green", "blue"]) -> Pixels:
    """Make the reward `colour`: how much one channel's mean is above that of the other two.

    Args:
        context: not used.
        of: the channel.
    """
    channel = COLOURS.index(of)

    def value(pixels: Tensor) -> Tensor:
        if len(pixels) != 3:
            raise RewardError(f"reward 'colour' is for images with 3 channels, and one came with {len(pixels)}")
        means = pixels.double().mean((1, 2))
        return means[channel] - (means.sum() - means[channel]) / 2

    return Pixels(f"towards {of} images", value)


def three_channels(images: Sequence[Any]) -> list[Tensor]:
    """Return (3, height, width) of each image, grey ones repeated, as models of photographs take them."""
    return [image.pixels.expand(3, -1, -1) if len(image.pixels) == 1 else image.pixels for image in images]


class Clip:
    """See images and their prompts as a CLIP model does.

    Args:
        model: a folder or a hub id of a `CLIPModel`.
        context: where to run, whether a network may be used, images per forward pass.
        processor: a folder or a hub id of its tokenizer and image processor; those of the model by default.

    Raises:
        ModelError: it cannot be loaded, or lacks weights.
    """

    def __init__(self, model: str, context: RewardContext, processor: str | None = None) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        self.name, self.weights = model, locate(model, ())
        self.network, self.tokenizer, self.images = load_network(
            "CLIP model", self.weights, context, CLIPModel, AutoTokenizer, AutoImageProcessor, readers_from=processor
        )
        self.longest = self.network.config.text_config.max_position_embeddings

    @property
    def scale(self) -> float:
        """The factor by which its training multiplies cosines."""
        return math.exp(self.network.logit_scale.item())

    def embed(self, images: Sequence[Any]) -> Tensor:
        """Return (R, features) of images, of length 1."""
        pixels = self.images(images=three_channels(images), do_rescale=False, return_tensors="pt")["pixel_values"]
        with judging(self.network.device):
            output = self.network.get_image_features(pixel_values=pixels.to(self.network.device))
        return _unit(output)

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Return (R, features) of prompts, of length 1; a prompt longer than the model takes is cut."""
        rows = self.tokenizer(list(prompts), padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        rows = {name: rows[name].to(self.network.device) for name in ("input_ids", "attention_mask")}
        with judging(self.network.device):
            output = self.network.get_text_features(**rows)
        return _unit(output)


class PromptMatch(Judged):
    """Score how well an image shows its prompt: the cosine of their embeddings times a scale.

    Args:
        clip: the model.
        scale: 1 for cosines.
        prompt: replaces each image's own.
        batch_size: most images per forward pass.
    """

    def __init__(self, clip: Clip, scale: float, prompt: str | None, batch_size: int) -> None:
        goal = "towards what the prompt asks for" if prompt is None else f"towards {prompt!r}"
        super().__init__(clip.name, goal, clip.weights)
        self._clip, self._scale, self._prompt, self._batches = clip, scale, prompt, Batches(batch_size)

    def score(self, samples: Sequence[Any]) -> Tensor:
        """Return (M,) float64 scaled cosines.

        Raises:
            RewardError: neither an image nor the reward has a prompt.
        """
        if self._prompt is None and not all(image.prompt for image in samples):
            raise RewardError("an image has no prompt to be compared with: give the reward one, such as clip:prompt=a cat")
        return self._batches(self._match, samples)

    def _match(self, images: Sequence[Any]) -> Tensor:
        prompts = [image.prompt if self._prompt is None else self._prompt for image in images]
        kinds = list(dict.fromkeys(prompts))
        read = self._clip.read(kinds)[[kinds.index(prompt) for prompt in prompts]]
        return self._scale * (self._clip.embed(images) * read).sum(1)


def clip(
    context: RewardContext, *, model: str = CLIP, scale: Literal["cosine", "logit"] = "cosine", prompt: str | None = None
) -> PromptMatch:
    """Make the reward `clip`.

    Args:
        context: where to run, whether a network may be used, images per forward pass.
        model: a folder or a hub id of a CLIP model.
        scale: "cosine", -1 to 1, or "logit", multiplied by the model's own scale, which is about 100.
        prompt: replaces the one the image was made for.
    """
    judge = Clip(model, context)
    return PromptMatch(judge, judge.scale if scale == "logit" else 1.0, prompt, context.batch_size)


def pickscore(context: RewardContext, *, model: str = PICKSCORE, processor: str | None = None) -> PromptMatch:
    """Make the reward `pickscore`: a CLIP model trained on which of two images people prefer for a prompt, with its own scale.

    exp of a difference is the odds of being preferred. Source: Kirstain et al. 2023, "Pick-a-Pic", section 4.

    Args:
        context: as for `clip`.
        model: a folder or a hub id.
        processor: where its tokenizer and image processor are; those of CLIP-ViT-H for the default model, else the model's own.
    """
    judge = Clip(model, context, processor or (PICKSCORE_PROCESSOR if model == PICKSCORE else None))
    return PromptMatch(judge, judge.scale, None, context.batch_size)


class Aesthetic(Judged):
    """Score images by a linear function of their CLIP embedding.

    Args:
        clip: the model.
        weight: (features,); `bias` ().
        batch_size: most images per forward pass.
    """

    def __init__(self, clip: Clip, weight: Tensor, bias: Tensor, batch_size: int) -> None:
        super().__init__(clip.name, "towards images that people rate high", clip.weights)
        self._clip, self._weight, self._bias, self._batches = clip, weight.double(), bias.double(), Batches(batch_size)

    def score(self, samples: Sequence[Any]) -> Tensor:
        """Return (M,) float64 values."""
        return self._batches(self._clip.embed, samples) @ self._weight + self._bias


def aesthetic(context: RewardContext, *, head: Path, model: str = CLIP) -> Aesthetic:
    """Make the reward `aesthetic`: a linear head on CLIP embeddings of length 1.

    Args:
        context: as for `clip`.
        head: a .safetensors file with `weight`, (1, features) or (features,), and `bias`, (1,) or ().
        model: the CLIP model that the head was trained on.

    Raises:
        ModelError: the file cannot be read, or fits another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(head.expanduser())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the aesthetic head {str(head)!r}: {error}; expected a .safetensors file") from error
    judge = Clip(model, context)
    features = judge.network.config.projection_dim
    if found.keys() != {"weight", "bias"} or found["weight"].numel() != features or found["bias"].numel() != 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(found.items()))
        raise ModelError(
            f"the aesthetic head {str(head)!r} has {shapes or 'nothing'}; expected weight (1, {features}) and bias (1,)"
        )
    return Aesthetic(judge, found["weight"].flatten(), found["bias"].flatten()[0], context.batch_size)


class ImageClass(Judged):
    """Score images by the log-probability of a class, by a softmax over all.

    Args:
        network: an image classifier of transformers.
        processor: its image processor.
        model, goal, weights: as for `fktext.rewards.Judged`.
        index: of the class.
        batch_size: most images per forward pass.
    """

    log_probability = True

    def __init__(
        self, network: Any, processor: Any, model: str, goal: str, weights: Path | str, index: int, batch_size: int
    ) -> None:
        super().__init__(model, goal, weights)
        self._network, self._processor, self._index, self._batches = network, processor, index, Batches(batch_size)

    def score(self, samples: Sequence[Any]) -> Tensor:
        """Return (M,) float64 log-probabilities."""
        return self._batches(self._log_p, samples)

    def _log_p(self, images: Sequence[Any]) -> Tensor:
        pixels = self._processor(images=three_channels(images), do_rescale=False, return_tensors="pt")["pixel_values"]
        with judging(self._network.device):
            logits: Tensor = self._network(pixel_values=pixels.to(self._network.device)).logits
        return logits.double().log_softmax(1)[:, self._index]


def image_classifier(context: RewardContext, *, model: str, label: str | None = None) -> ImageClass:
    """Make the reward `image-classifier`.

    Args:
        context: where to run, whether a network may be used, images per forward pass.
        model: a folder or a hub id of an image classifier of transformers whose classes exclude each other.
        label: the class, by its name or its index.

    Raises:
        UsageError: no such label, none given, or one class only.
        ModelError: it cannot be loaded, or lacks weights.
    """
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    weights = locate(model, ())
    network, processor = load_network("image classifier", weights, context, AutoModelForImageClassification, AutoImageProcessor)
    labels = [network.config.id2label[index] for index in range(network.config.num_labels)]
    if len(labels) < 2:
        raise UsageError(f"{model!r} has one class, {labels[0]!r}: a softmax over it is always 1")
    index = label_index(model, labels, label)
    return ImageClass(network, processor, model, f"towards the class {labels[index]!r}", weights, index, context.batch_size)


def _unit(output: Any) -> Tensor:
    """Return (R, features) of length 1; newer transformers wrap what older ones return."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return torch.nn.functional.normalize(features.float(), dim=-1)
