"""Every flag of the U-Net does what it says; the golden cases have the numbers."""

import math

import pytest
import torch
from helpers import TINY

from guided_diffusion.attention import AttentionBlock
from guided_diffusion.errors import ConfigError
from guided_diffusion.nn import norm_silu, normalization
from guided_diffusion.script_util import create_model_and_diffusion
from guided_diffusion.unet import UNetConfig, UNetModel


def unet(**flags):
    torch.manual_seed(0)
    model = create_model_and_diffusion(**{**TINY, **flags})[0]
    for p in model.parameters():  # the zeroed layers would hide what happens before them
        torch.nn.init.normal_(p, std=0.1)
    return model


def output(model, y=None):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 2, 16, 16, generator=generator)
    return model(x, torch.tensor([3, 20]), y)


@pytest.mark.parametrize(
    "flags",
    [
        {"resblock_updown": True},
        {"use_scale_shift_norm": False},
        {"num_res_blocks": 2},
        {"attention_resolutions": "16"},
        {"channel_mult": "1,2,2"},
        {"num_heads_upsample": 4},
        {"num_head_channels": 8},
        {"use_new_attention_order": True},
        {"predict_xstart": True},
        {"rescale_timesteps": True},
    ],
)
def test_flags_build_a_working_network_and_gradients_reach_all_of_it(flags):
    model = unet(**flags)
    out = output(model)
    assert out.shape == (2, 2, 16, 16)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_is_the_published_formula(new_order):
    """Written out with einsum, head by head, with the order of q, k, v that the flag says."""
    torch.manual_seed(0)
    C, heads, L = 32, 4, 16
    block = AttentionBlock(C, heads, new_order)
    torch.nn.init.normal_(block.proj_out.weight)
    x = torch.randn(2, C, 4, 4)

    flat = x.reshape(2, C, L)
    normed = torch.nn.functional.group_norm(flat, 32)
    qkv = torch.einsum("oc,bcl->bol", block.qkv.weight[..., 0], normed) + block.qkv.bias[:, None]
    d, h = C // heads, []
    for head in range(heads):
        if new_order:  # q of all heads, then k of all heads, then v
            q, k, v = (qkv[:, part * C + head * d : part * C + (head + 1) * d] for part in range(3))
        else:  # q, k, v of the first head, then of the second
            q, k, v = (qkv[:, (3 * head + part) * d : (3 * head + part + 1) * d] for part in range(3))
        weight = torch.softmax(torch.einsum("bdl,bdm->blm", q, k) / math.sqrt(d), dim=-1)
        h.append(torch.einsum("blm,bdm->bdl", weight, v))
    expected = (
        flat
        + torch.einsum("oc,bcl->bol", block.proj_out.weight[..., 0], torch.cat(h, 1))
        + block.proj_out.bias[:, None]
    )
    torch.testing.assert_close(block(x).reshape(2, C, L), expected, rtol=1e-4, atol=1e-5)


def test_heads_by_number_and_by_channels_agree():
    torch.testing.assert_close(output(unet(num_heads=4)), output(unet(num_head_channels=8)))
    assert not torch.allclose(output(unet(num_heads=4)), output(unet(num_heads=2)))
    assert not torch.allclose(output(unet(num_heads=2)), output(unet(num_heads=2, num_heads_upsample=4)))


def test_checkpointing_changes_no_number():
    plain, recomputed = unet(), unet(use_checkpoint=True)
    for model in (plain, recomputed):
        output(model).square().mean().backward()
    torch.testing.assert_close(output(plain), output(recomputed), rtol=0, atol=0)
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)


def test_dropout_only_in_training():
    model = unet(dropout=0.5)
    assert not torch.equal(output(model.train()), output(model.train()))
    torch.testing.assert_close(output(model.eval()), output(unet().eval()))


def test_classes():
    model = unet(class_cond=True)
    zero, one = (output(model, torch.tensor([y, y])) for y in (0, 1))
    assert model.label_emb.weight.shape[0] == 2
    assert not torch.allclose(zero, one)
    with pytest.raises(ConfigError, match="class_cond"):
        output(model)
    with pytest.raises(ConfigError, match="class_cond"):
        output(unet(), torch.tensor([0, 1]))


def test_float16_is_close():
    model = unet(use_fp16=True)
    assert output(model).dtype == torch.float32
    full = output(unet())
    assert (output(model) - full).abs().max() < 0.02 * full.abs().max()
    assert not torch.equal(output(model), full)


def test_output_channels_follow_learn_sigma():
    assert output(unet(learn_sigma=False)).shape[1] == 1
    assert output(unet(learn_sigma=True)).shape[1] == 2


@pytest.mark.parametrize(
    "size, levels", [(512, (1, 1, 2, 2, 4, 4)), (256, (1, 1, 2, 2, 4, 4)), (128, (1, 1, 2, 3, 4)), (64, (1, 2, 3, 4))]
)
def test_default_levels(size, levels):
    assert UNetConfig(image_size=size).multipliers == levels


@pytest.mark.parametrize(
    "size, levels", [((64, 128), (1, 1, 2, 3, 4)), ((128, 96), (1, 1, 2, 3, 4)), ((32, 64), (1, 2, 3, 4))]
)
def test_default_levels_follow_the_longer_side(size, levels):
    config = UNetConfig(image_size=size)
    assert config.multipliers == levels and config.size == size and UNetConfig(image_size=64).size == (64, 64)


def test_attends_where_the_resolution_is_asked_for_and_in_the_middle():
    model = UNetModel(UNetConfig(16, 1, 32, 1, (1, 1, 1), attention_resolutions=(8,), num_heads=1), 1)
    where = {
        name.split(".attn")[0].rsplit(".", 1)[0] for name, m in model.named_modules() if isinstance(m, AttentionBlock)
    }
    # 16 -> block 1, down -> 2, 8 -> block 3, down -> 4, 4 -> block 5; upwards two blocks a level
    assert where == {"input_blocks.3", "middle_block", "output_blocks.2", "output_blocks.3"}


@pytest.mark.parametrize("size", [(32, 16), (16, 32), (4, 32)])
def test_resolutions_with_attention_are_those_of_the_longer_side(size):
    model = UNetModel(UNetConfig(size, 1, 32, 1, (1, 1, 1), attention_resolutions=(16,), num_heads=1), 1)
    square = UNetModel(UNetConfig(32, 1, 32, 1, (1, 1, 1), attention_resolutions=(16,), num_heads=1), 1)
    assert model.state_dict().keys() == square.state_dict().keys()
    assert model(torch.zeros(2, 2, *size), torch.tensor([3])).shape == (2, 1, *size)


@pytest.mark.parametrize(
    "flags, word",
    [
        ({"num_channels": 48}, "num_channels"),
        ({"image_size": 15}, "image_size"),
        *(({"image_size": size}, f"image_size {size} cannot be halved 1") for size in ("16,15", "15,16", "7,5")),
        ({"image_size": 48, "channel_mult": ""}, "channel_mult"),
        ({"image_size": "48,64", "channel_mult": "1,1,1,1,1,1"}, "image_size 48,64 cannot be halved 5 times"),
        ({"image_size": "48,40", "channel_mult": ""}, "image_size 48,40 has no default --channel_mult"),
        ({"image_size": "16,16,1"}, "image_size 16,16,1: must be"),
        ({"num_heads": 5}, "num_heads"),
        ({"num_head_channels": 7}, "num_head_channels"),
        ({"num_head_channels": 0}, "num_head_channels"),
        ({"num_heads_upsample": -2}, "num_heads_upsample"),
        ({"num_filters": ""}, "num_filters"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"dropout": 1.0}, "dropout"),
        ({"attention_resolutions": "0"}, "attention_resolutions"),
        ({"num_res_blocks": 0}, "num_res_blocks"),
        ({"no_such_flag": 1}, "no_such_flag"),
        ({"num_channels": "many"}, "num_channels"),
        ({"learn_sigma": "perhaps"}, "learn_sigma"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(flags, word):
    with pytest.raises(ConfigError, match=f"--{word}"):
        create_model_and_diffusion(**{**TINY, **flags})


@pytest.mark.parametrize("flags", [{}, {"use_scale_shift_norm": False}, {"resblock_updown": True}])
def test_sampling_in_the_channels_last_layout_gives_the_same_numbers(flags):
    """There, eager sampling on a CPU has a norm of its own; at timesteps of each row and at a common one."""
    model = unet(**flags, num_channels=64).eval()
    x, offset = torch.randn(3, 2, 16, 16), torch.tensor([0.0, 100.0])[:, None, None]
    for timesteps in (torch.tensor([0, 3, 20]), torch.tensor([3])):
        plain = model(x + offset, timesteps)
        with torch.inference_mode():
            fast = model.to(memory_format=torch.channels_last)(x + offset, timesteps)
        torch.testing.assert_close(fast, plain.detach(), rtol=1e-4, atol=1e-4 * plain.abs().max().item())
        model.to(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("mean", [0.0, 300.0])
@pytest.mark.parametrize("rows", [1, 2])
def test_the_norm_of_sampling_is_the_formula_in_double_precision(rows, mean):
    """With groups of two channels, and values far from 0, for which PyTorch's norm in that layout is off by 0.1."""
    norm = normalization(64)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (mean + torch.randn(2, 64, 5, 7)).to(memory_format=torch.channels_last)
    scale, shift = torch.randn(rows, 64), torch.randn(rows, 64)
    with torch.no_grad():
        fast = norm_silu(norm, x, scale, shift)
        plain = norm_silu(norm, x)
    groups = x.double().reshape(2, 32, -1)
    z = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    z = z.reshape(x.shape) * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert fast.is_contiguous(memory_format=torch.channels_last)
    tolerance = {"rtol": 0, "atol": 3e-6 if mean == 0 else 2e-3}  # values near 300 have 2e-5 of rounding
    torch.testing.assert_close(plain.double(), torch.nn.functional.silu(z), **tolerance)
    z = z * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    torch.testing.assert_close(fast.double(), torch.nn.functional.silu(z), **tolerance)
