"""A denoiser in two parts: a large image encoder, and a small U-Net that is called for each mask and timestep.

The encoder runs once per image. Sampling many masks of an image, or training on several of its raters, costs little
more than the small U-Net.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from ..errors import ConfigError
from ..flags.fields import Flag, config, nonempty
from ..flags.sizes import show_size
from ..gaussian_diffusion import Masks, Output, Valid
from ..unet import Maps, TimestepEmbedSequential, UNetConfig, UNetModel
from .mask_mixture import Guesses, GuessLogits, MaskMixture, Probabilities

Encoded = Float[Tensor, "B E h w"]  # the output of the encoder: features, then guesses; h and w in patches


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


class SplitConvolution(TimestepEmbedSequential):
    """The first convolution of a U-Net as a sum of two: over an image's features, and over the other channels.

    The first is computed once per image. The order of the input channels is features, others.

    channels  number of features
    """

    calls = ("of_features",)  # methods beside forward that use the weights, see Processes.shard

    def __init__(self, convolution: nn.Conv2d, channels: int) -> None:
        super().__init__(convolution)
        self.channels = channels

    @property
    def convolution(self) -> nn.Conv2d:
        """The convolution over all channels."""
        return cast(nn.Conv2d, self[0])

    def of_features(self, features: Float[Tensor, "N features h w"]) -> Maps:
        """The part over the features, without the bias."""
        return F.conv2d(features, self.convolution.weight[:, : self.channels], padding=1)

    def forward(  # type: ignore[override]  # as TimestepEmbedSequential
        self, x: Float[Tensor, "B rest h w"], emb: Float[Tensor, "#B E"]
    ) -> Maps:
        """The part over the other channels, with the bias."""
        return F.conv2d(x, self.convolution.weight[:, self.channels :], self.convolution.bias, padding=1)


class Encoding(NamedTuple):
    """What the network computes of an image alone; of one guess only `guess` is set, of several only `rho` and `mu`."""

    first: Float[Tensor, "B width h w"]  # the part over the features of the denoiser's first convolution
    guess: Float[Tensor, "B guess H W"] | None  # no channels if the encoder makes none
    rho: Guesses | None  # log prior weights, see MaskMixture
    mu: Probabilities | None  # bounded

    def of_rows(self, rows: Int[Tensor, "B"]) -> "Encoding":
        """The encoding of each mask's image."""
        of_masks = [None if x is None else x.index_select(0, rows) for x in self]
        return Encoding(cast(Tensor, of_masks[0]), *of_masks[1:])


@dataclass(frozen=True)
class BoundDenoiser:
    """`denoise(x, timesteps)` of a SharedEncoderUNet for encoded images.

    guesses   the encoder's output for each image, without the features
    rows      index of each mask's image; None: one mask per image
    encoding  of each mask's image
    valid     of each mask: pixels of x where it is 0 do not contribute to the weights of the guesses
    """

    network: "SharedEncoderUNet"
    guesses: Float[Tensor, "N guesses h w"]
    rows: Int[Tensor, "B"] | None
    encoding: Encoding
    valid: Valid = None

    def __call__(self, x: Masks, timesteps: Real[Tensor, "#B"]) -> Output:
        """The network's raw output."""
        return self.network(x, timesteps, self.encoding, self.valid)

    def guess(self) -> Masks:
        """The mixture's mean, weighted from the image alone, on the scale of x_0."""
        assert self.network.mixture is not None
        mean = self.network.mixture.before(*self.network.maps(self.guesses))
        return mean if self.rows is None else mean.index_select(0, self.rows)


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

    calls = ("encode",)

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
        convolution = cast(nn.Conv2d, cast(TimestepEmbedSequential, self.denoiser.input_blocks[0])[0])
        self.denoiser.input_blocks[0] = SplitConvolution(convolution, config.feature_channels)
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
        """Compile both parts separately: the encoder, and what is called for each mask and timestep.

        The encoder is compiled without CUDA graphs, which would overwrite features still in use, and accepts any number
        of images.
        """
        super().compile(backend=backend, **how)
        self.encoder.compile(backend=backend)

    def bind(
        self, image: Float[Tensor, "N C H W"], rows: Int[Tensor, "B"] | None = None, known: Sequence[Tensor] = ()
    ) -> BoundDenoiser:
        """`denoise(x, timesteps)`, as UNetModel.bind; what depends on the image alone is computed here, once.

        known  encode(image), if it is known already
        """
        encoded, first = known or self.encode(image)
        _, guesses = self.split(encoded)
        if self.mixture:
            rho, logit_mu = self.maps(guesses)
            encoding = Encoding(first, None, rho, self.mixture.bounded(logit_mu))
        else:
            guess = F.pixel_shuffle(guesses, self.patch_size) if self.num_guesses else image[:, :0]
            encoding = Encoding(first, guess, None, None)
        return BoundDenoiser(self, guesses, rows, encoding if rows is None else encoding.of_rows(rows))

    def encode(self, image: Float[Tensor, "N C H W"]) -> tuple[Encoded, Float[Tensor, "N width h w"]]:
        """The encoder's output, and the part over its features of the denoiser's first convolution."""
        patches = F.pixel_unshuffle(image, self.patch_size)
        encoded = self.encoder(patches, torch.zeros(1, dtype=torch.long, device=image.device))
        features, _ = self.split(encoded)
        with torch.autocast(image.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            return encoded, cast(SplitConvolution, self.denoiser.input_blocks[0]).of_features(features)

    def split(self, encoded: Encoded) -> tuple[Float[Tensor, "B features h w"], Float[Tensor, "B guesses h w"]]:
        """Split the encoder's output into features and guesses."""
        features, guess = encoded.split([encoded.shape[1] - self.guess_channels, self.guess_channels], dim=1)
        return features, guess

    def maps(self, guesses: Float[Tensor, "B guesses h w"]) -> tuple[Guesses, GuessLogits]:
        """The log prior weights and the logits of several guesses, see MaskMixture."""
        maps = F.pixel_shuffle(guesses, self.patch_size)
        rho, logit_mu = maps.split([self.num_guesses, maps.shape[1] - self.num_guesses], dim=1)
        return rho, logit_mu

    def forward(self, x: Masks, timesteps: Real[Tensor, "#B"], encoding: Encoding, valid: Valid = None) -> Output:
        """The raw output, in float32.

        encoding  of each mask's image
        valid     as in BoundDenoiser
        """
        guess = encoding.guess
        if guess is None:
            assert self.mixture is not None and encoding.rho is not None and encoding.mu is not None
            guess = self.mixture(encoding.rho, encoding.mu, x, timesteps, valid)
        seen = F.pixel_unshuffle(torch.cat([guess, x], dim=1), self.patch_size)
        output = F.pixel_shuffle(self.denoiser(seen, timesteps, first=encoding.first), self.patch_size)
        return output + F.pad(guess, (0, 0, 0, 0, 0, output.shape[1] - guess.shape[1]))  # not to variance channels


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
