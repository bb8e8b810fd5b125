"""Tensor and module helpers that know nothing of diffusion."""

import hashlib
import math

import torch
from torch import nn


class GroupNorm32(nn.GroupNorm):
    """Group norm that computes in float32 whatever the input's precision, and returns the input's."""

    def forward(self, x):
        return super().forward(x.float()).type(x.dtype)


def normalization(channels):
    """Group norm over 32 groups of `channels`."""
    return GroupNorm32(32, channels)


def zero_module(module):
    """Zero every parameter of `module`, so that the branch that it ends starts as the identity."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def mean_flat(x):
    """Mean over all but the batch dimension: [B, ...] -> [B]."""
    return x.flatten(1).mean(dim=1)


def timestep_embedding(timesteps, dim, max_period=10000):
    """Sinusoidal embedding of timesteps (Attention Is All You Need, section 3.5; cosines come first).

    timesteps  [B], whole or fractional
    returns    [B, dim] float32; an odd dim ends in a column of zeros
    """
    half = dim // 2
    frequencies = torch.exp(
        -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    )
    angles = timesteps[:, None].float() * frequencies
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    return nn.functional.pad(embedding, (0, dim % 2))


def seeded_generator(*key):
    """A CPU generator whose stream depends on `key` alone, one of the 2^32 that PyTorch's has: equal keys give equal streams,
    unlike keys unrelated ones but for chance.

    key  strings and whole numbers, e.g. (seed, "case12", 3)
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def stack_randn(generators, shape):
    """Standard normal noise [B, *shape], row b from generators[b], so that a row never depends on its batch."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


def to_device(tensor, device):
    """A CPU tensor on `device`; on a GPU by a copy from pinned memory, for which nobody waits."""
    if torch.device(device).type == "cpu":
        return tensor
    return (
        tensor.contiguous().pin_memory().to(device, non_blocking=True)
    )  # a grey image is one plane, repeated without a copy
