"""Agreement of GPU and CPU: the U-Net in every precision, attention, noise, chains, golden cases."""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from sampling import build
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from guided_diffusion.attention import AttentionBlock
from guided_diffusion.flags.presets import FAST
from guided_diffusion.nn import GroupNorm32, seeded_generator, stack_randn, to_device
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.system.device import ComputeConfig, prepare

from ..compare import equal_pixels, relative_error
from ..golden import SAMPLES, check_golden
from ..networks import draw, images, readme_config
from ..record import require
from ..timing import is_cuda
from ..trace import kernel_names

# Largest ||out - reference|| / ||reference|| of the U-Net's output; a CPU has no TF32
LIMITS = {"none": 1e-4, "tf32": 1e-2, "bf16": 1e-1}
BATCH = 2
BACKENDS = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
ATTENTION_WORDS = ("flash", "fmha", "attention", "softmax", "sdpa", "mha")  # of which kernels' names have one


def in_float64(model):
    """A copy of a U-Net that computes in float64, except for the final rounding of its output."""
    model = copy.deepcopy(model).double()
    for part in model.modules():
        if isinstance(part, GroupNorm32):  # which computes in float32
            part.forward = partial(nn.GroupNorm.forward, part)
    model.time_embed.register_forward_pre_hook(lambda module, arguments: (arguments[0].double(),))
    return model


def prepared(base, settings, amp, device=None):
    """A copy of a segmenter on the device, in the precision of --amp."""
    return prepare(copy.deepcopy(base).eval(), ComputeConfig(amp), device or settings.device)


def precisions(settings):
    """The values of --amp that the device supports."""
    return [amp for amp in LIMITS if amp != "tf32" or is_cuda(settings.device)]


@torch.inference_mode()
def compare_unet(record, base, settings):
    """Each precision on the device against float64 on the CPU, on random inputs."""
    for seed, amp in enumerate(precisions(settings)):
        with record.part(f"unet_{amp}") as add:
            x = torch.cat(
                [images(settings, BATCH, seed, "cpu"), torch.randn(BATCH, 1, *[settings.sizes.image_size] * 2)], dim=1
            )
            t = torch.tensor([3, 700])
            reference = in_float64(base.model)(x.double(), t)
            out = prepared(base, settings, amp).model(x.to(settings.device), t.to(settings.device))
            error = relative_error(out, reference)
            add(relative_error=error, limit=LIMITS[amp])
            require(error < LIMITS[amp], f"relative error {error:.2e}, beyond {LIMITS[amp]}")
            if amp == "tf32":
                strict = record.figures["unet_none"].get("relative_error", 0.0)
                add(times_error_of_none=error / strict if strict else None)


# -- attention --------------------------------------------------------------------------------------------------------


def attention_shapes(model, x, t):
    """[B, heads, pixels, channels per head] of the U-Net's attention blocks, without repetitions."""
    shapes = set()

    def note(block, arguments):
        B, C, H, W = arguments[0].shape
        shapes.add((B, block.num_heads, H * W, C // block.num_heads))

    hooks = [part.register_forward_pre_hook(note) for part in model.modules() if isinstance(part, AttentionBlock)]
    with torch.inference_mode():
        model(x, t)
    for hook in hooks:
        hook.remove()
    return sorted(shapes)


def accepts(backend, q, k, v):
    """{"forward", "backward": relative error, or why it is not supported} of a fused attention backend."""
    reference = F.scaled_dot_product_attention(*(x.detach().double().cpu() for x in (q, k, v)))
    report = {}
    try:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            out = F.scaled_dot_product_attention(q, k, v)
            report["forward"] = relative_error(out, reference)
            out.float().square().sum().backward()
            report["backward"] = bool(torch.isfinite(q.grad).all())
    except (RuntimeError, NotImplementedError) as error:
        report["backward" if "forward" in report else "forward"] = f"refused: {str(error).splitlines()[0][:160]}"
    return report


def attention(record, base, settings):
    """Backends that support the model's shapes, contiguous and as a transposed view; kernels that its blocks run."""
    x, t = (
        torch.cat([images(settings, BATCH), images(settings, BATCH)[:, :1]], dim=1),
        torch.zeros(BATCH, dtype=torch.long, device=settings.device),
    )
    for amp in ("bf16", "none"):
        with record.part(f"attention_{amp}") as add:
            model = prepared(base, settings, amp).model
            shapes = attention_shapes(model, x, t)
            add(shapes=shapes)
            dtype = torch.bfloat16 if amp == "bf16" else torch.float32
            for shape in shapes:
                B, heads, pixels, width = shape
                for layout in ("contiguous", "transposed"):
                    size = shape if layout == "contiguous" else (B, heads, width, pixels)
                    q, k, v = (torch.randn(size, device=settings.device, dtype=dtype) for _ in range(3))
                    if layout == "transposed":
                        q, k, v = (part.transpose(2, 3) for part in (q, k, v))
                    report = {
                        name: accepts(name, *(part.detach().requires_grad_() for part in (q, k, v)))
                        for name in BACKENDS
                    }
                    add(**{f"{'x'.join(map(str, shape))} {layout}": report})
            with torch.inference_mode():
                names = kernel_names(lambda: model(x, t), settings.device)
            add(
                kernels={
                    name: count
                    for name, count in names.items()
                    if any(word in name.lower() for word in ATTENTION_WORDS)
                }
            )


# -- noise and chains -------------------------------------------------------------------------------------------------


def inputs_of_chain(settings, device):
    """The network inputs x_t, on the CPU, of a chain whose network outputs are all 0."""
    sampler = SamplerConfig(**{**FAST, "steps": settings.sizes.calls})
    segmenter = build(readme_config(settings), "cpu").spaced(sampler)
    seen = []

    def denoise(x, timesteps):
        seen.append(x.detach().cpu().clone())
        return torch.zeros(len(x), segmenter.diffusion.out_channels, *x.shape[2:], device=x.device)

    segmenter.sampling_denoiser = lambda *arguments: denoise
    draw(segmenter, sampler, images(settings, BATCH, device=device), seed=3)
    return seen


def compare_noise(add, settings):
    """The noise is bit-identical on every device, and gives the same chain."""
    drawn = stack_randn([seeded_generator("noise", k) for k in range(BATCH)], (1, 64, 64))
    copied = torch.equal(to_device(drawn, settings.device).cpu(), drawn)
    here, there = inputs_of_chain(settings, "cpu"), inputs_of_chain(settings, settings.device)
    start = torch.equal(here[0], there[0])
    error = max(relative_error(b, a) for a, b in zip(here, there, strict=True))
    add(copied_bits_equal=copied, start_bits_equal=start, largest_relative_error_of_x_t=error)
    require(copied and start, "the noise is not bit-identical")
    require(error < 1e-5, f"a chain without a network differs by {error:.2e}")


def compare_chains(record, base, settings):
    """The whole chain on the CPU in float32 against each precision on the device."""
    sampler = SamplerConfig(**{**FAST, "steps": settings.sizes.calls})
    with record.part("chain_cpu"):
        reference = draw(
            prepared(base, settings, "none", "cpu").spaced(sampler),
            sampler,
            images(settings, 1, seed=5, device="cpu"),
            seed=5,
        )
    for amp in precisions(settings):
        least = 0.99 if amp == "none" else 0.0
        with record.part(f"chain_{amp}") as add:
            masks = draw(prepared(base, settings, amp).spaced(sampler), sampler, images(settings, 1, seed=5), seed=5)
            share = equal_pixels(masks, reference)
            add(equal_pixels=share, relative_error=relative_error(masks, reference), calls=settings.sizes.calls)
            require(share >= least, f"{share:.4f} of the pixels are equal, at least {least} is expected")


def run(record, settings):
    base = build(readme_config(settings), "cpu")
    with record.part("noise") as add:
        compare_noise(add, settings)
    with record.part("golden") as add:
        check_golden(add, settings.device, SAMPLES[1:2] if settings.dry_run else SAMPLES)  # 5 calls, of 50
    compare_unet(record, base, settings)
    compare_chains(record, base, settings)
    attention(record, base, settings)  # last, because a kernel that fails on a shape could break later checks
