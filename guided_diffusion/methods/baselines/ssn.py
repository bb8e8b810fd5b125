"""Stochastic segmentation network (Monteiro et al. 2020): a Gaussian over the logits of all pixels, of low rank."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .baseline import Baseline, per_mask
from .plain_unet import PlainUNet, check_plain_unet

MIN_VARIANCE = 1e-5
MC_SAMPLES = 20  # logit maps drawn for each mask in training, as published


class StochasticSegmentationNetwork(Baseline):
    """Logits ~ N(mu, P P^T + D) over the pixels, from an image: mu and diagonal D [H W], factor P [H W, rank].

    The loss is the negative logarithm of the mask's likelihood under the logits' Gaussian, integrated by MC_SAMPLES draws (eq. 8).
    """

    terms = ("nll",)

    def __init__(self, unet, encoder, rank):
        super().__init__()
        check_plain_unet(encoder)
        self.rank = rank
        self.model = PlainUNet(unet.image_channels, encoder.num_filters, encoder.no_convs_per_block)
        self.head = nn.Conv2d(encoder.num_filters[0], 2 + self.rank, 1)

    def sampling_noise_shape(self, size):
        return (1, self.rank + size[0] * size[1])

    def noise_shape(self, size):
        return (MC_SAMPLES, self.rank + size[0] * size[1])

    def gaussian(self, image):
        """(mu [N, P], deviation of the diagonal [N, P], factor [N, P, rank]) over the P = H W logits of images [N, C, H, W]."""
        mu, log_variance, *factor = self.head(self.model(image)).flatten(2).unbind(dim=1)
        return mu, torch.sqrt(log_variance.exp() + MIN_VARIANCE), torch.stack(factor, dim=-1)

    def draw(self, gaussian, noise, rows=None):
        """Logits [B, M, P] of the Gaussians' rows by standard normal noise [B, M, rank + P]."""
        mu, deviation, factor = (per_mask(x, rows) for x in gaussian)
        common, own = noise[..., : self.rank], noise[..., self.rank :]
        return mu[:, None] + common @ factor.transpose(1, 2) + deviation[:, None] * own

    def forward(self, image, mask, t=None, noise=None, rows=None):
        """The loss terms, each [B]: nll, in nats for the whole mask, and loss, the same. noise [B, MC_SAMPLES, rank + H W]."""
        if noise is None:
            noise = torch.randn(len(mask), *self.noise_shape(mask.shape[2:]), device=mask.device)
        logits = self.draw(self.gaussian(image), noise, rows)
        wanted = mask.flatten(1)[:, None].expand_as(logits)
        log_likelihoods = -F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=2)  # [B, M]
        nll = math.log(MC_SAMPLES) - torch.logsumexp(log_likelihoods, dim=1)
        return {"nll": nll, "loss": nll}

    def draw_logits(self, image, noise, rows):
        return self.draw(self.gaussian(image), noise, rows).view(len(rows), 1, *image.shape[2:])
