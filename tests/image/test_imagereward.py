"""`imagereward` against the published architecture, written out in plain torch; random weights under the checkpoint's names."""

import pytest
import torch
import transformers
from torch.nn import functional

from fktext.errors import ModelError, RewardError
from fktext.images.process import Image
from fktext.plugins import load_plugins
from fktext.rewards import RewardContext
from fktext_plugins.imagereward import MEAN, STD

WIDE, WIDTH, PATCH, SIDE, WORDS = 128, 64, 8, 32, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "red"]
OFFLINE = RewardContext(offline=True, batch_size=2)


def layer(state, name, inside, outside, generator):
    state[f"{name}.weight"] = torch.randn(outside, inside, generator=generator) / inside**0.5
    state[f"{name}.bias"] = 0.1 * torch.randn(outside, generator=generator)


def norm(state, name, width, generator):
    state[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=generator)
    state[f"{name}.bias"] = 0.3 * torch.randn(width, generator=generator)


def checkpoint():
    """Two layers each."""
    generator, state = torch.Generator().manual_seed(0), {}
    vision, text = "blip.visual_encoder", "blip.text_encoder"
    state[f"{vision}.cls_token"] = torch.randn(1, 1, WIDE, generator=generator)
    state[f"{vision}.pos_embed"] = torch.randn(1, (SIDE // PATCH) ** 2 + 1, WIDE, generator=generator)
    state[f"{vision}.patch_embed.proj.weight"] = torch.randn(WIDE, 3, PATCH, PATCH, generator=generator) / 14
    state[f"{vision}.patch_embed.proj.bias"] = torch.randn(WIDE, generator=generator)
    norm(state, f"{vision}.norm", WIDE, generator)
    for block in (f"{vision}.blocks.{number}" for number in range(2)):
        for which in ("norm1", "norm2"):
            norm(state, f"{block}.{which}", WIDE, generator)
        for which, inside, outside in (("attn.qkv", 1, 3), ("attn.proj", 1, 1), ("mlp.fc1", 1, 4), ("mlp.fc2", 4, 1)):
            layer(state, f"{block}.{which}", inside * WIDE, outside * WIDE, generator)
    state[f"{text}.embeddings.position_ids"] = torch.arange(40)[None]
    state[f"{text}.embeddings.word_embeddings.weight"] = torch.randn(len(WORDS), WIDTH, generator=generator)
    state[f"{text}.embeddings.position_embeddings.weight"] = torch.randn(40, WIDTH, generator=generator)
    norm(state, f"{text}.embeddings.LayerNorm", WIDTH, generator)
    for block in (f"{text}.encoder.layer.{number}" for number in range(2)):
        for which, source in (("attention", WIDTH), ("crossattention", WIDE)):
            for part, inside in (("query", WIDTH), ("key", source), ("value", source)):
                layer(state, f"{block}.{which}.self.{part}", inside, WIDTH, generator)
            layer(state, f"{block}.{which}.output.dense", WIDTH, WIDTH, generator)
            norm(state, f"{block}.{which}.output.LayerNorm", WIDTH, generator)
        layer(state, f"{block}.intermediate.dense", WIDTH, 4 * WIDTH, generator)
        layer(state, f"{block}.output.dense", 4 * WIDTH, WIDTH, generator)
        norm(state, f"{block}.output.LayerNorm", WIDTH, generator)
    layer(state, "blip.vision_proj", WIDE, 8, generator)  # its checkpoint has them, its score does not use them
    for number, inside, outside in ((0, WIDTH, 32), (2, 32, 16), (4, 16, 8), (6, 8, 4), (7, 4, 1)):
        layer(state, f"mlp.layers.{number}", inside, outside, generator)
    return state


def expected(state, pixels, ids):
    """One image and its token ids; no padding."""

    def linear(name, x):
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def normed(name, x, eps):
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def attend(query, key, value):
        heads = [part.unflatten(-1, (-1, 64)).transpose(0, 1) for part in (query, key, value)]
        return functional.scaled_dot_product_attention(*heads).transpose(0, 1).flatten(1)

    vision, text = "blip.visual_encoder", "blip.text_encoder"
    mean, std = torch.tensor([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]])[:, :, None, None]
    patches = (state[f"{vision}.patch_embed.proj.{part}"] for part in ("weight", "bias"))
    x = functional.conv2d((pixels - mean) / std, *patches, stride=PATCH).flatten(1).T
    x = torch.cat([state[f"{vision}.cls_token"][0], x]) + state[f"{vision}.pos_embed"][0]
    for block in (f"{vision}.blocks.{number}" for number in range(2)):
        x = x + linear(f"{block}.attn.proj", attend(*linear(f"{block}.attn.qkv", normed(f"{block}.norm1", x, 1e-6)).chunk(3, -1)))
        inner = functional.gelu(linear(f"{block}.mlp.fc1", normed(f"{block}.norm2", x, 1e-6)))
        x = x + linear(f"{block}.mlp.fc2", inner)
    seen = normed(f"{vision}.norm", x, 1e-6)
    y = state[f"{text}.embeddings.word_embeddings.weight"][ids] + state[f"{text}.embeddings.position_embeddings.weight"][: len(ids)]
    y = normed(f"{text}.embeddings.LayerNorm", y, 1e-12)
    for block in (f"{text}.encoder.layer.{number}" for number in range(2)):
        for which in ("attention", "crossattention"):
            source = y if which == "attention" else seen
            parts = (linear(f"{block}.{which}.self.{part}", of) for part, of in (("query", y), ("key", source), ("value", source)))
            y = normed(f"{block}.{which}.output.LayerNorm", y + linear(f"{block}.{which}.output.dense", attend(*parts)), 1e-12)
        inner = functional.gelu(linear(f"{block}.intermediate.dense", y))
        y = normed(f"{block}.output.LayerNorm", y + linear(f"{block}.output.dense", inner), 1e-12)
    score = y[0]
    for number in (0, 2, 4, 6, 7):
        score = linear(f"mlp.layers.{number}", score)
    return (float(score) - MEAN) / STD


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagereward")
    torch.save(checkpoint(), folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def create(folder, model=None):
    return load_plugins().create(f"imagereward:model={model or folder},tokenizer={folder}", OFFLINE, "image").reward


def test_it_is_the_published_network(folder):
    generator = torch.Generator().manual_seed(1)
    images = [
        Image(torch.randint(256, (3, SIDE, SIDE), generator=generator) / 255, prompt)
        for prompt in ("a cat", "A red dog", "dog", "a red red cat")
    ]
    ids = [[2, 4, 5, 3], [2, 4, 7, 6, 3], [2, 6, 3], [2, 4, 7, 7, 5, 3]]
    reward = create(folder)
    found = reward.score(images)
    wanted = [expected(checkpoint(), image.pixels, row) for image, row in zip(images, ids, strict=True)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)
    assert found.std() > 0.01
    assert reward.digest is not None


def test_errors(folder, tmp_path):
    with pytest.raises(RewardError, match="an image came without one"):
        create(folder).score([Image(torch.rand(3, SIDE, SIDE))])
    with pytest.raises(ModelError, match=r"cannot load .*'no/model'"):
        create(folder, "no/model")
    state = checkpoint()
    del state["blip.visual_encoder.blocks.1.attn.qkv.bias"]
    torch.save(state, tmp_path / "ImageReward.pt")
    with pytest.raises(ModelError, match="is no ImageReward checkpoint"):
        create(folder, tmp_path)
    (tmp_path / "ImageReward.pt").write_text("no checkpoint")
    with pytest.raises(ModelError, match="is no ImageReward checkpoint"):
        create(folder, tmp_path)
