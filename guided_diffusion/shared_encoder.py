"""
A denoiser in two parts: a large encoder that sees an image once, and a small U-Net that is called for each mask and timestep.

What many masks of one image cost is then almost the small part alone; in training, too, the raters of an image share the
large one.
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
    feature_channels: Annotated[int, "channels of the shared encoder's output, in full resolution"] = 16
    denoiser_channels: Annotated[int, "channels of the small denoiser, a multiple of 32"] = 32
    denoiser_mult: Annotated[tuple[int, ...], "channel multiplier of each of its levels"] = (1, 1, 2)
    denoiser_patch: Annotated[int, "pixels to a side that it sees as one, in channels"] = 2


class SharedEncoderUNet(nn.Module):
    """
    Encoder: the U-Net that `unet` describes, on the image alone. Denoiser: a U-Net with one residual block per level on
    its features and x_t.

    unet          UNetConfig, of the encoder; its precision and its dropout are the denoiser's too
    config        ArchitectureConfig
    out_channels  of the denoiser
    ConfigError: a configuration that cannot be built; the message names the flag.
    """

    def __init__(self, unet, config, out_channels):
        super().__init__()
        check_architecture(unet, config)
        self.config, self.patch = unet, config.denoiser_patch
        small = replace(
            unet, image_size=unet.image_size // self.patch, num_channels=config.denoiser_channels, num_res_blocks=1,
            channel_mult=config.denoiser_mult, attention_resolutions=(), class_cond=False,
        )  # fmt: skip
        pixels = self.patch**2
        self.encoder = UNetModel(unet, config.feature_channels, in_channels=unet.image_channels)
        self.denoiser = UNetModel(small, out_channels * pixels, in_channels=(config.feature_channels + 1) * pixels)

    @property
    def autocast_dtype(self):
        """As UNetModel's, of both parts."""
        return self.denoiser.autocast_dtype

    @autocast_dtype.setter
    def autocast_dtype(self, dtype):
        self.encoder.autocast_dtype = self.denoiser.autocast_dtype = dtype

    def bind(self, image, rows=None):
        """`denoise(x [B, 1, H, W], timesteps)`, as UNetModel.bind; the encoder runs here, once for each image [N, C, H, W]."""
        features = self.encoder(image, torch.zeros(1, dtype=torch.long, device=image.device))
        features = features if rows is None else features[rows]
        return lambda x, timesteps: self(x, timesteps, features)

    def forward(self, x, timesteps, features):
        """x [B, 1, H, W], timesteps [B] or [1], features [B, feature_channels, H, W] -> [B, out_channels, H, W] float32."""
        patches = F.pixel_unshuffle(torch.cat([features, x], dim=1), self.patch)
        return F.pixel_shuffle(self.denoiser(patches, timesteps), self.patch)


def check_architecture(unet, config):
    """Refuse, by the flag's name, what the shared encoder cannot be built with."""
    if config.feature_channels < 1:
        raise ConfigError(f"--feature_channels {config.feature_channels}: at least 1 is needed")
    if config.denoiser_channels < 1 or config.denoiser_channels % 32:
        raise ConfigError(f"--denoiser_channels {config.denoiser_channels}: a multiple of 32 is needed")
    wanted = config.denoiser_patch * 2 ** (len(config.denoiser_mult) - 1)
    if config.denoiser_patch < 1 or not config.denoiser_mult or min(config.denoiser_mult) < 1 or unet.image_size % wanted:
        raise ConfigError(
            f"--denoiser_patch {config.denoiser_patch} and --denoiser_mult {','.join(map(str, config.denoiser_mult))}: whole "
            f"numbers of at least 1 are needed, which --image_size {unet.image_size} can be halved and cut into patches by"
        )
