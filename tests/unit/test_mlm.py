"""Masked LMs of transformers, split into encoder and head, on small random models of many families."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from fktext.errors import ModelError
from fktext.files.weights import quantised
from fktext.masked.mlm import MaskedLM, load

SIZES: dict[str, Any] = {
    "vocab_size": 90,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
MODERN = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8}
FAMILIES = {
    "bert": (transformers.BertConfig(**SIZES), 40),
    "roberta": (transformers.RobertaConfig(**SIZES), 38),
    "distilbert": (
        transformers.DistilBertConfig(vocab_size=90, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=40),
        40,
    ),
    "modernbert": (transformers.ModernBertConfig(**SIZES, **MODERN, global_attn_every_n_layers=2), 40),
    "albert": (transformers.AlbertConfig(**SIZES, embedding_size=16), 40),
    "electra": (transformers.ElectraConfig(**SIZES, embedding_size=16), 40),
    "deberta-v2": (transformers.DebertaV2Config(**SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"]), 40),
}
MASK = 4


def random_model(config: Any) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # heads and norms too, so that a skipped one shows
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_head_of_encoder_is_the_model(family: str) -> None:
    config, length = FAMILIES[family]
    model = random_model(config)
    denoiser = MaskedLM(model, MASK)
    assert (denoiser.vocab_size, denoiser.mask_id, denoiser.max_length) == (90, MASK, length)
    ids = torch.randint(5, 90, (3, length))
    ids[:, ::2] = MASK
    with torch.inference_mode():
        whole = model(input_ids=ids).logits
        hidden = denoiser.encode(ids, torch.rand(3))
        few = torch.tensor([0, 7, length - 1])
        assert hidden.shape[:2] == (3, length)
        torch.testing.assert_close(denoiser.logits(hidden.flatten(0, 1)).view_as(whole), whole, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(denoiser.logits(hidden[1, few]), whole[1, few], atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())


def test_parts_move_together() -> None:
    denoiser = MaskedLM(random_model(FAMILIES["bert"][0]), MASK).to(torch.bfloat16)
    hidden = denoiser.encode(torch.full((1, 6), MASK), torch.ones(1))
    assert hidden.dtype == denoiser.logits(hidden[0]).dtype == torch.bfloat16
    assert len(list(denoiser.parameters())) == len(list(denoiser.model.parameters()))


def test_every_position_sees_every_other() -> None:
    denoiser = MaskedLM(random_model(FAMILIES["bert"][0]), MASK)
    ids = torch.full((2, 40), MASK)
    ids[1, -1] = 0  # padding is a token like any other
    hidden = denoiser.encode(ids, torch.ones(2))
    assert ((hidden[0] - hidden[1]).abs().amax(-1) > 1e-6).all()


class SkipsTheHead(transformers.BertForMaskedLM):
    """Computes its logits from something else than the encoder's last hidden state."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **options: Any) -> Any:
        output = super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **options)
        if input_ids is not None:
            output.logits = output.logits + self.bert.embeddings.word_embeddings(input_ids).sum(-1, keepdim=True)
        return output


def test_a_model_that_does_not_split_is_refused() -> None:
    model = SkipsTheHead(FAMILIES["bert"][0]).eval()
    nn.init.normal_(model.bert.embeddings.word_embeddings.weight)
    with pytest.raises(ModelError, match="SkipsTheHead does not split"):
        MaskedLM(model, MASK)


def test_a_mask_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ModelError, match="mask token 90"):
        MaskedLM(random_model(FAMILIES["bert"][0]), 90)


def test_saved_and_loaded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = random_model(FAMILIES["roberta"][0])
    model.half().save_pretrained(tmp_path)
    capfd.readouterr()
    ids = torch.randint(5, 90, (2, 12))
    denoiser = load(tmp_path, MASK)
    assert capfd.readouterr() == ("", "")
    hidden = denoiser.encode(ids, torch.ones(2))
    assert hidden.dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(denoiser.logits(hidden[0]), model.float()(input_ids=ids).logits[0], atol=1e-5, rtol=1e-5)


def test_an_encoder_without_a_head_is_refused(tmp_path: Path) -> None:
    model = random_model(FAMILIES["bert"][0])
    model.bert.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks weights of BertForMaskedLM, such as cls\."):
        load(tmp_path, MASK)


def test_a_config_that_contradicts_the_tensors(tmp_path: Path) -> None:
    random_model(FAMILIES["bert"][0]).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"hidden_size": 32', '"hidden_size": 64'))
    with pytest.raises(ModelError, match=r"contradicts itself: bert\..* has shape .*32.*, config.json asks for .*64"):
        load(tmp_path, MASK)


def test_a_folder_of_int8_weights_loads(tmp_path: Path) -> None:
    model = random_model(FAMILIES["bert"][0])
    model.config.save_pretrained(tmp_path)
    weights = {name: tensor for name, tensor in model.state_dict().items() if "predictions.decoder" not in name}
    save_file(quantised(weights), tmp_path / "model.safetensors")
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        whole, small = model(input_ids=ids).logits, load(tmp_path, MASK).model(input_ids=ids).logits
    assert 0 < (whole - small).abs().max() < 0.05 * whole.abs().max()
