"""Pipelines of diffusers with tiny random weights: real classes, real schedulers."""

import diffusers
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


def tokenizer():
    letters = sorted(ByteLevel.alphabet())
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], model_max_length=16)


def text_encoder(kind=CLIPTextModel):
    config = CLIPTextConfig(
        vocab_size=600,
        hidden_size=32,
        intermediate_size=32,
        num_attention_heads=4,
        num_hidden_layers=1,
        projection_dim=32,
        bos_token_id=0,
        eos_token_id=1,
        max_position_embeddings=16,
    )
    return kind(config).eval()


def autoencoder(**settings):
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return diffusers.AutoencoderKL(block_out_channels=[4, 8], norm_num_groups=2, latent_channels=4, **blocks, **settings).eval()


def conditional_unet(**settings):
    return diffusers.UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=2,
        **settings,
    ).eval()


def pixels(scheduler, kind=diffusers.DDPMPipeline):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )
    return quiet(kind(unet.eval(), scheduler))


def sd15(scheduler):
    torch.manual_seed(0)
    return quiet(
        diffusers.StableDiffusionPipeline(
            vae=autoencoder(),
            text_encoder=text_encoder(),
            tokenizer=tokenizer(),
            unet=conditional_unet(cross_attention_dim=32),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def sdxl(scheduler):
    torch.manual_seed(0)
    unet = conditional_unet(
        cross_attention_dim=64,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )
    return quiet(
        diffusers.StableDiffusionXLPipeline(
            vae=autoencoder(),
            text_encoder=text_encoder(),
            text_encoder_2=text_encoder(CLIPTextModelWithProjection),
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(),
            unet=unet,
            scheduler=scheduler,
            add_watermarker=False,
        )
    )


def sd3(scheduler, encoders=False):
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
    ).eval()
    for parameter in transformer.parameters():  # its last layer begins as zeros
        torch.nn.init.normal_(parameter, std=0.1)
    texts = dict.fromkeys(["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"])
    if encoders:
        texts |= {f"text_encoder{which}": text_encoder(CLIPTextModelWithProjection) for which in ("", "_2")}
        texts |= {f"tokenizer{which}": tokenizer() for which in ("", "_2")}
    vae = autoencoder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5)
    return quiet(diffusers.StableDiffusion3Pipeline(transformer=transformer, scheduler=scheduler, vae=vae, **texts))


def flux(scheduler):
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    for parameter in transformer.parameters():  # its last layer begins as zeros
        torch.nn.init.normal_(parameter, std=0.1)
    none = dict.fromkeys(["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"])
    vae = autoencoder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5)
    return quiet(diffusers.FluxPipeline(transformer=transformer, scheduler=scheduler, vae=vae, **none))


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sd3_options(particles):
    generator = torch.Generator().manual_seed(1)
    embeds, pooled = torch.randn(1, 5, 64, generator=generator), torch.randn(1, 64, generator=generator)
    embeds, pooled = embeds.repeat(particles, 1, 1), pooled.repeat(particles, 1)
    return {
        "prompt_embeds": embeds,
        "pooled_prompt_embeds": pooled,
        "negative_prompt_embeds": embeds * 0,
        "negative_pooled_prompt_embeds": pooled * 0,
        "height": 16,
        "width": 16,
        "guidance_scale": 4.0,
    }


def flux_options(particles):
    generator = torch.Generator().manual_seed(1)
    embeds, pooled = torch.randn(1, 5, 32, generator=generator), torch.randn(1, 32, generator=generator)
    return {
        "prompt_embeds": embeds.repeat(particles, 1, 1),
        "pooled_prompt_embeds": pooled.repeat(particles, 1),
        "height": 16,
        "width": 16,
    }


LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {"shift": 3.0, "stochastic_sampling": True}
SMALL = {"height": 16, "width": 16, "guidance_scale": 5.0}
# name -> (pipeline, options of its call for so many particles, prompts)
CASES = {
    "ddpm": lambda: (pixels(diffusers.DDPMScheduler()), lambda n: {}, ["", ""]),
    "ddim": lambda: (pixels(diffusers.DDIMScheduler(), diffusers.DDIMPipeline), lambda n: {"eta": 1.0}, ["", ""]),
    "sd15-ddim": lambda: (sd15(diffusers.DDIMScheduler(**LATENT)), lambda n: {"eta": 1.0, **SMALL}, ["a cat", "a dog"]),
    "sd15-sde": lambda: (
        sd15(diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **LATENT)),
        lambda n: SMALL,
        ["a cat", "a dog"],
    ),
    "sdxl-euler": lambda: (sdxl(diffusers.EulerAncestralDiscreteScheduler(**LATENT)), lambda n: SMALL, ["a cat", "a dog"]),
    "sd3-flow": lambda: (sd3(diffusers.FlowMatchEulerDiscreteScheduler(**FLOW)), lambda n: sd3_options(2 * n), ["", ""]),
    "flux-flow": lambda: (flux(diffusers.FlowMatchEulerDiscreteScheduler(**FLOW)), lambda n: flux_options(2 * n), ["", ""]),
}


@pytest.fixture(params=CASES)
def case(request):
    """(pipeline, options, prompts) of every kind."""
    return CASES[request.param]()
