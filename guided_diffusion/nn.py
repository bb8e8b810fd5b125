"""Tensor and module helpers, independent of diffusion."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from jaxtyping import Float, Real, Shaped
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DRAWN_IN_PARALLEL = 2**17  # numbers, below which starting threads takes longer than drawing

# A network with its images bound: (x, timesteps as the network receives them) -> raw output
Denoise = Callable[[Float[Tensor, "B K H W"], Real[Tensor, "#B"]], Float[Tensor, "B outputs H W"]]

M = TypeVar("M", bound=nn.Module)


class _NoValues(TorchFunctionMode):
    """Leaves out random initial values. On meta tensors they do nothing, but their import takes seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") == "normal_":  # of tensors, and of nn.init, which passes its tensor by name
            return args[0] if args else dict(kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """A context in which modules are built without memory for their weights, to check their shapes."""
    with torch.device("meta"), _NoValues():
        yield


class GroupNorm32(nn.GroupNorm):
    """Group norm that computes in float32 and returns the input's dtype."""

    def forward(self, x: Float[Tensor, "B C *space"]) -> Float[Tensor, "B C *space"]:
        """Normalise `x`."""
        return super().forward(x.float()).type(x.dtype)


def normalization(channels: int) -> GroupNorm32:
    """Group norm over 32 groups of `channels`."""
    return GroupNorm32(32, channels)


def norm_silu(
    norm: nn.Module,
    x: Float[Tensor, "B C H W"],
    scale: Float[Tensor, "#B C"] | None = None,
    shift: Float[Tensor, "#B C"] | None = None,
) -> Float[Tensor, "B C H W"]:
    """`silu(norm(x) * (1 + scale) + shift)`.

    norm          from `normalization`
    scale, shift  given together
    """
    assert isinstance(norm, GroupNorm32)
    if _is_slow(x):
        gain, bias = norm.weight[None], norm.bias[None]
        if scale is not None and shift is not None:
            gain, bias = gain * (1 + scale), torch.addcmul(shift, bias, 1 + scale)
        return _norm_silu(x, gain, bias, norm.num_groups, norm.eps)
    x = norm(x)
    if scale is not None and shift is not None:
        x = x * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return F.silu(x)


def _is_slow(x: Tensor) -> bool:
    """Whether PyTorch's group norm of `x` is slow: in eager sampling on a CPU, in the channels-last layout.

    There it is also inexact: it subtracts the squared mean from the mean square.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


def _norm_silu(
    x: Float[Tensor, "B C H W"], gain: Float[Tensor, "#B C"], bias: Float[Tensor, "#B C"], groups: int, eps: float
) -> Float[Tensor, "B C H W"]:
    """silu(norm(x) * gain + bias) for channels-last tensors, in few passes over the data and without gradients."""
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, H W, C]
    centred = pixels - _group_means(pixels.mean(dim=1), groups)[:, None]
    deviation = (_group_means(centred.square().mean(dim=1), groups) + eps).sqrt()
    z = torch.addcmul(bias[:, None], centred, (gain / deviation)[:, None])
    return F.silu(z, inplace=True).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def _group_means(x: Float[Tensor, "B C"], groups: int) -> Float[Tensor, "B C"]:
    """The mean of each group of channels, for each of its channels."""
    means = x.unflatten(1, (groups, -1)).mean(dim=2, keepdim=True)
    return means.expand(-1, -1, x.shape[1] // groups).flatten(1)


class Upsample(nn.Module):
    """Upsample by 2 with nearest-neighbour interpolation, followed by a convolution if `use_conv`."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if use_conv else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C 2*H 2*W"]:
        """Upsample `x`."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Downsample(nn.Module):
    """Downsample by 2, with a strided convolution or with average pooling."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if use_conv else nn.AvgPool2d(2)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H//2 W//2"]:
        """Downsample `x`, whose height and width must be even."""
        return self.op(x)


def checkpoint(function: Callable[..., Tensor], *inputs: Tensor, flag: bool) -> Tensor:
    """`function(*inputs)`; with `flag` the backward pass recomputes its activations instead of keeping them."""
    if flag and torch.is_grad_enabled():
        return torch.utils.checkpoint.checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)


def zero_module(module: M) -> M:
    """Zero every parameter of `module`, so that a residual block ending in it starts as the identity."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def sum_flat(x: Float[Tensor, "B ..."], valid: Float[Tensor, "B 1 H W"] | None = None) -> Float[Tensor, "B"]:
    """Sum over all dimensions except the batch dimension; `valid` is 0 at pixels of x that do not count."""
    return (x if valid is None else x * valid).flatten(1).sum(dim=1)


def mean_flat(x: Float[Tensor, "B ..."], valid: Float[Tensor, "B 1 H W"] | None = None) -> Float[Tensor, "B"]:
    """Mean over all dimensions except the batch dimension.

    valid  1, or 0 at pixels of x, [B, K, H, W], that do not count; the mean over no pixels is 0
    """
    if valid is None:
        return x.flatten(1).mean(dim=1)
    return sum_flat(x, valid) / sum_flat(valid.expand_as(x)).clamp(min=1)


def timestep_embedding(timesteps: Real[Tensor, "B"], dim: int, max_period: float = 10000) -> Float[Tensor, "B {dim}"]:
    """Sinusoidal embedding of timesteps (Attention Is All You Need, section 3.5; cosines come first).

    timesteps  integer or fractional
    returns    float32; for an odd `dim` the last column is zero
    """
    half = dim // 2
    frequencies = torch.exp(
        -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    )
    angles = timesteps[:, None].float() * frequencies
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    return F.pad(embedding, (0, dim % 2))


def seeded_generator(*key: str | int) -> torch.Generator:
    """A CPU generator whose stream depends only on `key`.

    Equal keys give equal streams. Different keys give independent streams, unless they collide in one of the 2^32
    streams of PyTorch's generator.

    key  strings and integers, e.g. (seed, "case12", 3)
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def stack_randn(
    generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device | str = "cpu"
) -> Float[Tensor, "B ..."]:
    """Standard normal noise [B, *shape] on `device`, drawn on the CPU.

    Row b is drawn from generators[b], so it does not depend on the batch.
    """
    noise = torch.empty(len(generators), *shape, pin_memory=torch.device(device).type == "cuda")

    def draw(row: int) -> None:
        with torch.inference_mode():  # a state of each thread
            torch.randn(shape, generator=generators[row], out=noise[row])

    threads = torch.get_num_threads() if noise.numel() >= DRAWN_IN_PARALLEL else 1
    if threads == 1:
        for row in range(len(generators)):
            draw(row)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(draw, range(len(generators))))
    return to_device(noise, device)


def to_device(tensor: Shaped[Tensor, "*S"], device: torch.device | str) -> Shaped[Tensor, "*S"]:
    """Move a CPU tensor to `device`; for a GPU, by an asynchronous copy from pinned memory."""
    if torch.device(device).type == "cpu":
        return tensor
    # contiguous() first: the channels of a grey image are one expanded plane.
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)
