"""The probabilistic U-Net (Kohl et al. 2018): a conditional variational autoencoder around a U-Net."""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from ...distribution import HE_NORMAL, AxisAlignedConvGaussian, EncoderConfig, initialize, kl_divergence
from ...flags.classes import Classes
from ...gaussian_diffusion import Masks
from ...losses import class_cross_entropy
from ...nn import sum_flat
from ...sampling.protocol import Encoded, without_ignored
from ...sampling.samplers import SamplerConfig
from ...unet import UNetConfig
from .baseline import Baseline, Images, Losses, Rows, per_mask
from .plain_unet import PlainUNet, check_plain_unet

NORM_WEIGHT = 2e-6  # weight of the L2 norms: 1e-5 / 5


class Combiner(nn.Module):
    """1x1 convolutions that map features and a latent sample z, broadcast to all pixels, to logits."""

    def __init__(self, filters: int, latent_dim: int, num_layers: int, num_classes: int) -> None:
        super().__init__()
        channels = [filters + latent_dim, *(num_layers - 1) * [filters]]
        hidden = [layer for i, o in pairwise(channels) for layer in (nn.Conv2d(i, o, 1), nn.ReLU())]
        self.hidden, self.last = nn.Sequential(*hidden), nn.Conv2d(channels[-1], num_classes, 1)
        initialize(self, {"w": "orthogonal", "b": "normal"})

    def forward(self, features: Float[Tensor, "B F H W"], z: Float[Tensor, "B latent"]) -> Masks:
        """The logits of one mask per z."""
        z = z[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.last(self.hidden(torch.cat([features, z], dim=1)))


class ProbabilisticUNet(Baseline):
    """A prior over the latent from the image, a posterior from image and mask; masks differ only in the latent.

    The published loss, at batch size 5, is the sum of the cross-entropy summed over pixels and batch, 10 times the KL
    averaged over the batch, and 1e-5 times the L2 norms of some parameters. Divided by 5, it is a mean over the masks
    of a batch of any size, with beta 2 and NORM_WEIGHT.
    """

    terms = ("bce", "kl", "norm")

    def __init__(
        self,
        unet: UNetConfig,
        encoder: EncoderConfig,
        beta: float = 2.0,
        combiner_layers: int = 4,
        classes: Classes = Classes(),
    ) -> None:
        super().__init__()
        self.classes = classes
        check_plain_unet(encoder)
        self.beta, self.latent_dim = beta, encoder.latent_dim
        self.model = PlainUNet(unet.channels, encoder.num_filters, encoder.no_convs_per_block)
        more = (encoder.num_filters, encoder.no_convs_per_block, encoder.latent_dim, HE_NORMAL)
        self.prior = AxisAlignedConvGaussian(unet.channels, *more, mask_channels=0)
        self.posterior = AxisAlignedConvGaussian(unet.channels, *more, posterior=True, mask_channels=classes.count)
        self.combiner = Combiner(encoder.num_filters[0], encoder.latent_dim, combiner_layers, classes.count)

    @property
    def sampling_parts(self) -> list[nn.Module]:
        """All modules except the posterior."""
        return [self.model, self.prior, self.combiner]

    def noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of one mask's noise: that of the latent."""
        return (self.latent_dim,)

    def forward(
        self,
        image: Images,
        mask: Masks,
        t: Int[Tensor, "B"] | None = None,
        noise: Float[Tensor, "B latent"] | None = None,
        rows: Rows | None = None,
        *,
        valid: Float[Tensor, "N 1 H W"] | None = None,
    ) -> Losses:
        """Compute the loss terms: bce, a sum over pixels; kl (posterior || prior) and norm, weighted; loss, their sum.

        bce is the cross-entropy of `losses.class_cross_entropy`.

        noise  standard normal, used to draw z from the posterior; None: drawn from torch's global generator
        """
        mask, counted = without_ignored(mask, valid, rows)
        posterior, prior = self.posterior(per_mask(image, rows), mask), self.prior_of(image, rows)
        mu, sigma = posterior.mean, posterior.stddev
        z = mu + sigma * (torch.randn_like(mu) if noise is None else noise)
        logits = self.combiner(per_mask(self.model(image), rows), z)
        bce = sum_flat(class_cross_entropy(logits, mask, self.classes), counted)
        kl = self.beta * kl_divergence(posterior, prior)
        norm = (NORM_WEIGHT * self.parameter_norms()).expand_as(kl)
        return {"bce": bce, "kl": kl, "norm": norm, "loss": bce + kl + norm}

    def prior_of(self, image: Images, rows: Rows | None) -> Independent:
        """The prior of each mask, computed once per image."""
        prior = self.prior.of(image)
        if rows is None:
            return prior
        return Independent(Normal(prior.mean[rows], prior.stddev[rows], validate_args=False), 1, validate_args=False)

    def parameter_norms(self) -> Float[Tensor, ""]:
        """Sum of the L2 norms of all parameters of both encoders and of the combiner without its last layer."""
        parts = (self.prior, self.posterior, self.combiner.hidden)
        return sum((p.norm() for part in parts for p in part.parameters()), start=torch.zeros(()))

    def encode(self, image: Images, config: SamplerConfig | None = None) -> Encoded:
        """Features, and mean and standard deviation of the prior."""
        prior = self.prior.of(image)
        return self.model(image), prior.mean, prior.stddev

    def draw_logits(self, encoded: Encoded, noise: Float[Tensor, "B latent"], rows: Rows) -> Masks:
        """The logits of each mask, with z drawn from the prior."""
        features, mean, stddev = (x[rows] for x in encoded)
        return self.combiner(features, mean + stddev * noise)
