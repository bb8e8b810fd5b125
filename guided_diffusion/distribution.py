"""Axis-aligned Gaussian encoders (probabilistic U-Net, Kohl et al. 2018, section 2).

The posterior encodes an image and a rater's mask (ambiguity modelling network). The prior encodes the image and the
denoiser's prediction (ambiguity controlling network).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from .errors import ConfigError
from .flags.fields import Flag, config, nonempty

HE_NORMAL = {"w": "he_normal", "b": "normal"}


@config(group="features")
class EncoderConfig:
    """The two Gaussian encoders, and the U-Net of the baselines without a diffusion process."""

    latent_dim: Annotated[int, Flag("dimensions of the latent Gaussian", group="latent", at_least=1)] = 6
    num_filters: Annotated[tuple[int, ...], Flag("filters per level of the encoders", at_least=1, check=nonempty)] = (
        32,
        64,
        128,
        192,
    )
    no_convs_per_block: Annotated[int, Flag("convolutions per level of the encoders", at_least=1)] = 3
    encoder_channels: Annotated[
        int,
        Flag(
            "image channels that both Gaussian encoders see, from the first one; a new run on cases of several planes "
            "sets it to their number unless it is given",
            group="encoders",
            at_least=1,
        ),
    ] = 1


class Encoder(nn.Module):
    """Blocks of 3x3 convolutions with ReLU, separated by 2x2 average pooling."""

    def __init__(self, in_channels: int, num_filters: Sequence[int], no_convs_per_block: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for level, filters in enumerate(num_filters):
            if level > 0:
                layers.append(nn.AvgPool2d(2, ceil_mode=True))
            for _ in range(no_convs_per_block):
                layers += [nn.Conv2d(in_channels, filters, 3, padding=1), nn.ReLU()]
                in_channels = filters
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "B C H_in W_in"]) -> Float[Tensor, "B F H W"]:
        """The features of the last level."""
        return self.layers(x)


def initialize(module: nn.Module, initializers: Mapping[str, str]) -> None:
    """Initialise the weights of every convolution in `module`.

    initializers  {"w": "he_normal" or "orthogonal", "b": "normal"}; biases are truncated normal with deviation 0.001
    """
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "he_normal": nn.init.kaiming_normal_,
        "orthogonal": nn.init.orthogonal_,
    }
    if initializers.get("w") not in known or initializers.get("b", "normal") != "normal":
        raise ConfigError(f"initializers {initializers}: 'w' must be one of {', '.join(known)}, and 'b' 'normal'")
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            known[initializers["w"]](part.weight)
            assert part.bias is not None
            nn.init.trunc_normal_(part.bias, std=0.001, a=-0.002, b=0.002)


class AxisAlignedConvGaussian(nn.Module):
    """Encodes an image of `input_channels` and a mask as a diagonal Gaussian over `latent_dim` dimensions.

    initializers   as in `initialize`; None: He-normal weights. The biases of the last layer are standard normal.
    posterior      True for the posterior, False for the prior; both have the same layers
    mask_channels  K, one per class; 0: the image alone
    """

    def __init__(
        self,
        input_channels: int,
        num_filters: Sequence[int],
        no_convs_per_block: int,
        latent_dim: int,
        initializers: Mapping[str, str] | None = None,
        posterior: bool = False,
        *,
        mask_channels: int = 1,
    ) -> None:
        super().__init__()
        if not num_filters or min(*num_filters, 1) < 1:
            raise ConfigError(f"--num_filters {tuple(num_filters)}: must be integers of at least 1, e.g. 32,64,128,192")
        if latent_dim < 1 or no_convs_per_block < 1:
            raise ConfigError(
                f"--latent_dim {latent_dim} and --no_convs_per_block {no_convs_per_block}: both must be at least 1"
            )
        self.input_channels, self.latent_dim = input_channels, latent_dim
        self.posterior = posterior
        self.encoder = Encoder(input_channels + mask_channels, num_filters, no_convs_per_block)
        self.conv_layer = nn.Conv2d(num_filters[-1], 2 * latent_dim, 1)
        initialize(self, initializers or HE_NORMAL)
        assert self.conv_layer.bias is not None
        nn.init.normal_(self.conv_layer.bias)

    def forward(self, image: Float[Tensor, "B C H W"], mask: Float[Tensor, "B K H W"]) -> Independent:
        """Independent(Normal), batch [B], event [latent_dim]."""
        return self.of(torch.cat([image, mask], dim=1))

    def of(self, planes: Float[Tensor, "B planes H W"]) -> Independent:
        """As `forward`, from image and mask concatenated, or from any other planes of this number."""
        features = self.encoder(planes)
        features = features.mean(dim=(2, 3), keepdim=True)
        mu, log_sigma = self.conv_layer(features).flatten(1).float().chunk(2, dim=1)
        # Not validated: if the deviation overflows, the loss is not finite and the trainer skips the step.
        return Independent(Normal(mu, log_sigma.exp(), validate_args=False), 1, validate_args=False)


def kl_divergence(p: Independent, q: Independent) -> Float[Tensor, "B"]:
    """KL(p || q) of axis-aligned Gaussians over the latent, in nats.

    The formula of torch.distributions, whose search for it would split a compiled loss.
    """
    of_means = ((p.mean - q.mean) / q.stddev) ** 2
    ratio = (p.stddev / q.stddev) ** 2
    return (0.5 * (ratio + of_means - 1 - ratio.log())).sum(dim=-1)


def create_encoders(
    config: EncoderConfig, mask_channels: int = 1
) -> tuple[AxisAlignedConvGaussian, AxisAlignedConvGaussian]:
    """(prior, posterior) of an EncoderConfig, each for the first `encoder_channels` of an image, and a mask."""
    own = (config.encoder_channels, config.num_filters, config.no_convs_per_block, config.latent_dim, HE_NORMAL)
    prior = AxisAlignedConvGaussian(*own, mask_channels=mask_channels)
    return prior, AxisAlignedConvGaussian(*own, posterior=True, mask_channels=mask_channels)
