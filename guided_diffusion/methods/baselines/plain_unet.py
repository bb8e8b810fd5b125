"""The U-Net of the probabilistic U-Net (Kohl et al. 2018), which the other baselines share."""

import math
from itertools import pairwise
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import nn

from ...distribution import HE_NORMAL, initialize
from ...errors import ConfigError


def conv_block(in_channels, filters, num_convs):
    """So many 3x3 convolutions, each with a ReLU: [B, in_channels, H, W] -> [B, filters, H, W]."""
    layers = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(in_channels, filters, 3, padding=1), nn.ReLU()]
        in_channels = filters
    return nn.Sequential(*layers)


class PlainUNet(nn.Module):
    """Average pooling on the way down, bilinear upsampling with aligned corners on the way up:
    image [B, C, H, W] -> features [B, filters[0], H, W] float32.

    filters         of each level
    num_convs       in the block of each level, down and up
    dropout         probability at which whole channels are dropped behind every block that is not in full resolution
    autocast_dtype  attribute: the precision in which to compute where that is safe; None: float32
    """

    def __init__(self, image_channels, filters, num_convs, dropout=0.0):
        super().__init__()
        self.dropout, self.autocast_dtype = dropout, None
        self.threshold = (
            NormalDist().inv_cdf(dropout) if dropout else -math.inf
        )  # not in `forward`, where it would break a compiled graph
        self.down = nn.ModuleList(conv_block(i, f, num_convs) for i, f in pairwise((image_channels, *filters)))
        self.up = nn.ModuleList(conv_block(f + g, f, num_convs) for f, g in pairwise(filters))
        self.dropped = (*filters[1:], *reversed(filters[1:-1]))  # channels of the blocks with dropout, in their order
        initialize(self, HE_NORMAL)

    def forward(self, image, noise=None):
        """Noise  [B, sum of `dropped`] standard normal, which decides what is dropped; None: torch's global generator does so
        in training, and otherwise nothing is
        """
        drop = _Dropout(self.dropout, self.threshold, self.training, noise, self.dropped)
        with torch.autocast(image.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            x, skips = self.down[0](image), []
            for block in self.down[1:]:
                skips.append(x)
                x = drop(block(F.avg_pool2d(x, 2, ceil_mode=True)))
            for block in reversed(self.up):
                skip = skips.pop()
                x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=True)
                x = block(torch.cat([x, skip], dim=1))
                x = drop(x) if skips else x
            return x.float()


class _Dropout:
    """Drops channels, block after block, by the global generator or by noise [B, sum of counts].

    threshold  the number below which a standard normal one is with probability p
    """

    def __init__(self, p, threshold, training, noise, counts):
        self.p, self.threshold, self.training = p, threshold, training
        self.noise = None if noise is None else iter(noise.split(counts, dim=1))

    def __call__(self, x):
        if self.noise is None:
            return F.dropout2d(x, self.p, self.training)
        kept = next(self.noise) > self.threshold  # [B, C]
        return x * kept[:, :, None, None] / (1 - self.p)


def check_plain_unet(encoder):
    """ConfigError: the U-Net cannot be built."""
    if len(encoder.num_filters) < 2:
        raise ConfigError(f"--num_filters {encoder.num_filters[0]}: must be at least two levels, e.g. 32,64,128,192")
