"""Stochastic segmentation network (Monteiro et al. 2020): a low-rank Gaussian over the logits of all pixels."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...distribution import EncoderConfig
from ...flags.classes import Classes
from ...gaussian_diffusion import Masks
from ...losses import class_cross_entropy
from ...sampling.protocol import Encoded, without_ignored
from ...sampling.samplers import SamplerConfig
from ...unet import UNetConfig
from .baseline import Baseline, Images, Losses, Rows, per_mask
from .plain_unet import PlainUNet, check_plain_unet

MIN_VARIANCE = 1e-5
MC_SAMPLES = 20  # logit maps drawn per mask in training, as published


class LowRankGaussian(NamedTuple):
    """Gaussians over the P = K H W logits of each image."""

    mean: Float[Tensor, "N P"]
    deviation: Float[Tensor, "N P"]  # of the diagonal
    factor: Float[Tensor, "N P rank"]


class StochasticSegmentationNetwork(Baseline):
    """Predicts logits ~ N(mu, P P^T + D) over pixels and classes of an image: mean mu, low-rank factor P, diagonal D.

    The loss is the negative log-likelihood of the mask, with the logits integrated by MC_SAMPLES Monte Carlo draws
    (eq. 8).
    """

    terms = ("nll",)

    def __init__(self, unet: UNetConfig, encoder: EncoderConfig, rank: int, classes: Classes = Classes()) -> None:
        super().__init__()
        self.classes = classes
        check_plain_unet(encoder)
        self.rank = rank
        self.model = PlainUNet(unet.channels, encoder.num_filters, encoder.no_convs_per_block)
        self.head = nn.Conv2d(encoder.num_filters[0], (2 + self.rank) * classes.count, 1)

    def sampling_noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape for one draw: one number per column of the factor and one per logit."""
        return (1, *self.noise_shape(size)[1:])

    def noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape for MC_SAMPLES draws."""
        return (MC_SAMPLES, self.rank + self.classes.count * size[0] * size[1])

    def gaussian(self, image: Images) -> LowRankGaussian:
        """The distribution of each image's logits."""
        maps = self.head(self.model(image)).unflatten(1, (-1, self.classes.count))  # [N, 2 + rank, K, H, W]
        mu, log_variance, *factor = maps.flatten(2).unbind(dim=1)
        return LowRankGaussian(mu, torch.sqrt(log_variance.exp() + MIN_VARIANCE), torch.stack(factor, dim=-1))

    def draw(
        self, gaussian: LowRankGaussian, noise: Float[Tensor, "B M rank_and_P"], rows: Rows | None = None
    ) -> Float[Tensor, "B M P"]:
        """Draw M logit maps per row from standard normal noise."""
        mu, deviation, factor = (per_mask(x, rows) for x in gaussian)
        common, own = noise[..., : self.rank], noise[..., self.rank :]
        return mu[:, None] + common @ factor.transpose(1, 2) + deviation[:, None] * own

    def forward(
        self,
        image: Images,
        mask: Masks,
        t: Int[Tensor, "B"] | None = None,
        noise: Float[Tensor, "B M rank_and_P"] | None = None,
        rows: Rows | None = None,
        *,
        valid: Float[Tensor, "N 1 H W"] | None = None,
    ) -> Losses:
        """Compute the loss terms: nll, in nats per mask, and loss, which equals nll.

        noise  standard normal; None: drawn from torch's global generator
        """
        mask, counted = without_ignored(mask, valid, rows)
        if noise is None:
            shape = self.noise_shape((mask.shape[2], mask.shape[3]))
            noise = torch.randn(len(mask), *shape, device=mask.device)
        logits = self.draw(self.gaussian(image), noise, rows).unflatten(2, mask.shape[1:])  # [B, M, K, H, W]
        entropies = class_cross_entropy(logits, mask[:, None].expand_as(logits), self.classes)
        entropies = entropies if counted is None else entropies * counted[:, None]
        log_likelihoods = -entropies.flatten(2).sum(dim=2)  # [B, M]
        nll = math.log(MC_SAMPLES) - torch.logsumexp(log_likelihoods, dim=1)
        return {"nll": nll, "loss": nll}

    def encode(self, image: Images, config: SamplerConfig | None = None) -> Encoded:
        """The distribution of each image's logits, and the image, which has their size."""
        return *self.gaussian(image), image

    def draw_logits(self, encoded: Encoded, noise: Float[Tensor, "B 1 rank_and_P"], rows: Rows) -> Masks:
        """The logits of one draw per mask."""
        *gaussian, image = encoded
        draws = self.draw(LowRankGaussian(*gaussian), noise, rows)
        return draws.view(len(rows), self.classes.count, *image.shape[2:])
