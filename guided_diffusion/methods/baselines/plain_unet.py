"""The U-Net of the probabilistic U-Net (Kohl et al. 2018), shared by all baselines."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import NormalDist

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...distribution import HE_NORMAL, EncoderConfig, initialize
from ...errors import ConfigError


def conv_block(in_channels: int, filters: int, num_convs: int) -> nn.Sequential:
    """`num_convs` 3x3 convolutions, each with a ReLU."""
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(in_channels, filters, 3, padding=1), nn.ReLU()]
        in_channels = filters
    return nn.Sequential(*layers)


class PlainUNet(nn.Module):
    """Average pooling on the way down, bilinear upsampling with aligned corners on the way up.

    filters         number of filters per level
    num_convs       convolutions per block, down and up
    dropout         probability of dropping whole channels after each block below full resolution
    autocast_dtype  attribute: autocast precision; None: float32
    """

    def __init__(self, image_channels: int, filters: Sequence[int], num_convs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.autocast_dtype: torch.dtype | None = None
        # Computed here because it would break a compiled graph in `forward`
        self.threshold = NormalDist().inv_cdf(dropout) if dropout else -math.inf
        self.down = nn.ModuleList(conv_block(i, f, num_convs) for i, f in pairwise((image_channels, *filters)))
        self.up = nn.ModuleList(conv_block(f + g, f, num_convs) for f, g in pairwise(filters))
        self.dropped = (*filters[1:], *reversed(filters[1:-1]))  # channels of the blocks with dropout, in order
        initialize(self, HE_NORMAL)

    def forward(
        self, image: Float[Tensor, "B C H W"], noise: Float[Tensor, "B dropped"] | None = None
    ) -> Float[Tensor, "B F H W"]:
        """The features at full resolution, in float32.

        noise  standard normal, one number per channel of `dropped`, decides which channels are dropped; None: dropout
               uses torch's global generator in training mode and is off in evaluation mode
        """
        parts = None if noise is None else iter(noise.split(self.dropped, dim=1))
        with torch.autocast(image.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            x, skips = self.down[0](image), []
            for block in self.down[1:]:
                skips.append(x)
                x = self.drop(block(F.avg_pool2d(x, 2, ceil_mode=True)), parts)
            for block in reversed(self.up):
                skip = skips.pop()
                x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=True)
                x = block(torch.cat([x, skip], dim=1))
                x = self.drop(x, parts) if skips else x
            return x.float()

    def drop(
        self, x: Float[Tensor, "B C H W"], noise: Iterator[Float[Tensor, "B C"]] | None
    ) -> Float[Tensor, "B C H W"]:
        """Drop channels by the block's part of the noise or by the global generator."""
        if noise is None:
            return F.dropout2d(x, self.dropout, self.training)
        kept = next(noise) > self.threshold
        return x * kept[:, :, None, None] / (1 - self.dropout)


def check_plain_unet(encoder: EncoderConfig) -> None:
    """ConfigError: the configuration is invalid."""
    if len(encoder.num_filters) < 2:
        raise ConfigError(f"--num_filters {encoder.num_filters[0]}: must be at least two levels, e.g. 32,64,128,192")
