"""
A denoiser in two parts: a large encoder that sees an image once, and a small U-Net that is called for each mask and timestep.

What many masks of one image cost in one batch is then almost the small part alone; in training, too, the raters of an image
share the large one.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn

from .nn import ConfigError
from .unet import UNetModel


@dataclass(frozen=True)
class ArchitectureConfig:
    architecture: Annotated[
        Literal["unet", "shared-encoder"], "one U-Net over image and mask, or an encoder run once for each image and a small denoiser"
    ] = "unet"
    patch_size: Annotated[int, "side, in pixels, of the patches that both parts of the shared encoder's network see as one"] = 2
    feature_channels: Annotated[int, "channels of the shared encoder's features, for each patch"] = 64
    encoder_guess: Annotated[bool, "the shared encoder gives an answer of its own too, to which the denoiser adds what x_t tells"] = True
    denoiser_channels: Annotated[int, "channels of the small denoiser, a multiple of 32"] = 32
    denoiser_mult: Annotated[tuple[int, ...], "channel multiplier of each of its levels"] = (1, 1, 2)


class SharedEncoderUNet(nn.Module):
    """
    Encoder: the U-Net that `unet` describes, on the image alone. Denoiser: a U-Net with one residual block per level on
    its features and x_t. Both work on patches, whose pixels are channels.

    What the network gives is the encoder's guess plus the denoiser's output. Where x_t is noise the right answer follows from the
    image alone (of x_0, it is the mean of the raters' masks): the guess can be that, learned at every timestep and by the whole
    encoder, and leaves to the small denoiser how one mask differs from it.

    unet          UNetConfig, of the encoder; its precision and its dropout are the denoiser's too. Of default levels, those
                  finer than a patch fall away
    config        ArchitectureConfig
    out_channels  of the denoiser
    ConfigError: a configuration that cannot be built; the message names the flag.
    """

    def __init__(self, unet, config, out_channels):
        super().__init__()
        multipliers = unet.channel_mult or unet.multipliers[config.patch_size.bit_length() - 1 :]
        check_architecture(unet, config, multipliers)
        self.config, self.patch_size, pixels = unet, config.patch_size, config.patch_size**2
        large = replace(unet, image_size=unet.image_size // self.patch_size, channel_mult=multipliers)
        small = replace(
            large, num_channels=config.denoiser_channels, num_res_blocks=1, channel_mult=config.denoiser_mult,
            attention_resolutions=(), class_cond=False,
        )  # fmt: skip
        self.guess_channels = out_channels * pixels if config.encoder_guess else 0
        encoded = config.feature_channels + self.guess_channels
        self.encoder = UNetModel(large, encoded, in_channels=unet.image_channels * pixels)
        self.denoiser = UNetModel(small, out_channels * pixels, in_channels=encoded + pixels)

    @property
    def autocast_dtype(self):
        """As UNetModel's, of both parts."""
        return self.denoiser.autocast_dtype

    @autocast_dtype.setter
    def autocast_dtype(self, dtype):
        self.encoder.autocast_dtype = self.denoiser.autocast_dtype = dtype

    def compile(self, backend="inductor", **how):
        """
        Compile both parts, each of which `bind` calls by itself. The encoder goes without CUDA graphs, whose next output would be
        written over the features in use, and takes any number of images.
        """
        self.denoiser.compile(backend=backend, **how)
        self.encoder.compile(backend=backend)

    def bind(self, image, rows=None):
        """`denoise(x [B, 1, H, W], timesteps)`, as UNetModel.bind; the encoder runs here, once for each image [N, C, H, W] of the batch."""
        patches = F.pixel_unshuffle(image, self.patch_size)
        features = self.encoder(patches, torch.zeros(1, dtype=torch.long, device=image.device))
        features = features if rows is None else features[rows]
        return lambda x, timesteps: self(x, timesteps, features)

    def forward(self, x, timesteps, features):
        """
        x [B, 1, H, W], timesteps [B] or [1] -> [B, out_channels, H, W] float32.

        features  the encoder's output for each mask's image, [B, feature_channels + guess_channels, H / patch_size, W / patch_size]
        """
        output = self.denoiser(torch.cat([features, F.pixel_unshuffle(x, self.patch_size)], dim=1), timesteps)
        if self.guess_channels:
            output = output + features[:, -self.guess_channels :]
        return F.pixel_shuffle(output, self.patch_size)


def check_architecture(unet, config, multipliers):
    """Refuse, by the flag's name, what the shared encoder, with these multipliers for its levels, cannot be built with."""
    if config.feature_channels < 1:
        raise ConfigError(f"--feature_channels {config.feature_channels}: at least 1 is needed")
    if config.denoiser_channels < 1 or config.denoiser_channels % 32:
        raise ConfigError(f"--denoiser_channels {config.denoiser_channels}: a multiple of 32 is needed")
    for name, levels in (("channel_mult", multipliers), ("denoiser_mult", config.denoiser_mult)):
        if config.patch_size < 1 or not levels or min(levels) < 1 or unet.image_size % (config.patch_size * 2 ** (len(levels) - 1)):
            raise ConfigError(
                f"--patch_size {config.patch_size} and --{name} {','.join(map(str, levels))}: whole numbers of at least 1 are needed, "
                f"which --image_size {unet.image_size} can be cut into patches and halved by"
            )
