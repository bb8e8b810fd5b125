"""A denoiser in two parts: a large image encoder, and a small U-Net that is called for each mask and timestep.

The encoder runs once per image. Sampling many masks of an image, or training on several of its raters, costs little
more than the small U-Net.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from ..errors import ConfigError
from ..flags.fields import Flag, config, nonempty
from ..flags.sizes import show_size
from ..gaussian_diffusion import Masks, Output, Valid
from ..unet import UNetConfig, UNetModel
from .mask_mixture import Guesses, GuessLogits, MaskMixture

Encoded = Float[Tensor, "B E h w"]  # the encoder's output: features, then guesses; h and w in patches


@config(group="shared-encoder")
class ArchitectureConfig:
    """The diffusion's network."""

    architecture: Annotated[
        Literal["unet", "shared-encoder"],
        Flag("one U-Net on image and mask, or an encoder run once per image with a small denoiser", group="diffusion"),
    ] = "unet"
    patch_size: Annotated[int, Flag("side of the patches that encoder and denoiser operate on, pixels", at_least=1)] = 2
    feature_channels: Annotated[int, Flag("channels of the encoder's features per patch", at_least=1)] = 64
    encoder_guesses: Annotated[
        int,
        Flag(
            "masks that the encoder predicts from the image and the denoiser refines; several are weighted by their "
            "probability given x_t; 0: none",
            at_least=0,
        ),
    ] = 1
    denoiser_channels: Annotated[int, Flag("channels of the small denoiser", at_least=32, multiple_of=32)] = 32
    denoiser_mult: Annotated[
        tuple[int, ...], Flag("channel multiplier of each level of the denoiser", at_least=1, check=nonempty)
    ] = (1, 1, 2)


@dataclass(frozen=True)
class BoundDenoiser:
    """`denoise(x, timesteps)` of a SharedEncoderUNet for encoded images.

    valid  of each mask: pixels of x where it is 0 do not contribute to the weights of the guesses
    """

    network: "SharedEncoderUNet"
    encoded: Encoded
    valid: Valid = None

    def __call__(self, x: Masks, timesteps: Real[Tensor, "#B"]) -> Output:
        """The network's raw output."""
        return self.network(x, timesteps, self.encoded, self.valid)

    def guess(self) -> Masks:
        """The mixture's mean, weighted from the image alone, on the scale of x_0."""
        assert self.network.mixture is not None
        _, guesses = self.network.split(self.encoded)
        return self.network.mixture.before(*self.network.maps(guesses))


class SharedEncoderUNet(nn.Module):
    """A large encoder of the image and a small denoiser of its features and x_t, both on patches.

    The encoder is the U-Net that `unet` describes, applied to the image alone. The denoiser has one residual block per
    level. The pixels of a patch become channels.

    The output is the sum of the encoder's guess and the denoiser's output. If x_t is pure noise, the optimal x_0
    prediction depends on the image alone: the mean of the raters' masks. The guess can learn this mean with the whole
    encoder and at every timestep; the small denoiser only predicts how a mask differs from it. Several guesses are
    weighted by x_t, see MaskMixture.

    unet           the encoder's config; its precision and dropout also apply to the denoiser. Default levels finer than
                   a patch are dropped
    out_channels   of the denoiser
    mixture        combines several guesses
    mask_channels  K, one per class
    ConfigError: the configuration is invalid; the message names the flag.
    """

    def __init__(
        self,
        unet: UNetConfig,
        config: ArchitectureConfig,
        out_channels: int,
        mixture: MaskMixture | None = None,
        mask_channels: int = 1,
    ) -> None:
        super().__init__()
        multipliers = unet.channel_mult or unet.multipliers[config.patch_size.bit_length() - 1 :]
        check_architecture(unet, config, multipliers)
        self.patch_size, pixels = config.patch_size, config.patch_size**2
        height, width = (side // self.patch_size for side in unet.size)
        large = replace(unet, image_size=(height, width), channel_mult=multipliers)
        small = replace(
            large,
            num_channels=config.denoiser_channels,
            num_res_blocks=1,
            channel_mult=config.denoiser_mult,
            attention_resolutions=(),
            class_cond=False,
        )
        several = config.encoder_guesses > 1
        self.mixture, self.num_guesses = mixture if several else None, config.encoder_guesses
        self.guess_channels = pixels * config.encoder_guesses * (1 + mask_channels if several else out_channels)
        seen = pixels * mask_channels  # channels of a mask in patches
        shown = seen if several else self.guess_channels
        self.encoder = UNetModel(
            large, config.feature_channels + self.guess_channels, in_channels=unet.channels * pixels
        )
        self.denoiser = UNetModel(small, out_channels * pixels, in_channels=config.feature_channels + shown + seen)
        if several:  # guesses with equal initial weights would remain equal
            last = cast(nn.Conv2d, self.encoder.out[-1])
            nn.init.normal_(last.weight[-self.guess_channels :], std=0.02)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """As in UNetModel, for both parts."""
        return self.denoiser.autocast_dtype

    @autocast_dtype.setter
    def autocast_dtype(self, dtype: torch.dtype | None) -> None:
        self.encoder.autocast_dtype = self.denoiser.autocast_dtype = dtype

    def compile(self, backend: Any = "inductor", **how: Any) -> None:  # arguments of torch.compile
        """Compile both parts separately.

        The encoder is compiled without CUDA graphs, which would overwrite features still in use, and accepts any number
        of images.
        """
        self.denoiser.compile(backend=backend, **how)
        self.encoder.compile(backend=backend)

    def bind(self, image: Float[Tensor, "N C H W"], rows: Int[Tensor, "B"] | None = None) -> BoundDenoiser:
        """`denoise(x, timesteps)`, as UNetModel.bind; the encoder runs here, once per image."""
        patches = F.pixel_unshuffle(image, self.patch_size)
        encoded = self.encoder(patches, torch.zeros(1, dtype=torch.long, device=image.device))
        return BoundDenoiser(self, encoded if rows is None else encoded[rows])

    def split(self, encoded: Encoded) -> tuple[Float[Tensor, "B features h w"], Float[Tensor, "B guesses h w"]]:
        """Split the encoder's output into features and guesses."""
        features, guess = encoded.split([encoded.shape[1] - self.guess_channels, self.guess_channels], dim=1)
        return features, guess

    def maps(self, guesses: Float[Tensor, "B guesses h w"]) -> tuple[Guesses, GuessLogits]:
        """The arguments (rho, logit_mu) of MaskMixture."""
        maps = F.pixel_shuffle(guesses, self.patch_size)
        rho, logit_mu = maps.split([self.num_guesses, maps.shape[1] - self.num_guesses], dim=1)
        return rho, logit_mu

    def forward(self, x: Masks, timesteps: Real[Tensor, "#B"], encoded: Encoded, valid: Valid = None) -> Output:
        """The raw output, in float32.

        encoded  the encoder's output for each mask's image
        valid    as in BoundDenoiser
        """
        features, guess = self.split(encoded)
        if self.mixture:
            guess = F.pixel_unshuffle(self.mixture(*self.maps(guess), x, timesteps, valid), self.patch_size)
        output = self.denoiser(torch.cat([features, guess, F.pixel_unshuffle(x, self.patch_size)], dim=1), timesteps)
        output = output + F.pad(guess, (0, 0, 0, 0, 0, output.shape[1] - guess.shape[1]))  # not to variance channels
        return F.pixel_shuffle(output, self.patch_size)


def check_architecture(unet: UNetConfig, config: ArchitectureConfig, multipliers: Sequence[int]) -> None:
    """ConfigError: the image size does not allow these level multipliers, or the patches leave no level."""
    if not multipliers:
        raise ConfigError(
            f"--patch_size {config.patch_size}: leaves no level of --image_size {show_size(unet.size)}; "
            "give a smaller one, or --channel_mult"
        )
    for name, levels in (("channel_mult", multipliers), ("denoiser_mult", config.denoiser_mult)):
        if any(side % (config.patch_size * 2 ** (len(levels) - 1)) for side in unet.size):
            raise ConfigError(
                f"--patch_size {config.patch_size} and --{name} {','.join(map(str, levels))}: "
                f"--image_size {show_size(unet.size)} must be divisible into patches and then by 2, "
                f"{len(levels) - 1} times"
            )
