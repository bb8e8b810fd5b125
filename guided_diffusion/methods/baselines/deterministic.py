"""A U-Net that gives one mask, and the same with dropout left on (Gal and Ghahramani 2016, Kendall et al. 2017)."""

import torch.nn.functional as F
from torch import nn

from ...errors import ConfigError
from .baseline import Baseline, per_mask
from .plain_unet import PlainUNet, check_plain_unet


class DeterministicUNet(Baseline):
    """Binary cross-entropy; every mask of an ensemble is the same."""

    terms = ("bce",)

    def __init__(self, unet, encoder):
        super().__init__()
        check_plain_unet(encoder)
        self.model = PlainUNet(unet.image_channels, encoder.num_filters, encoder.no_convs_per_block, unet.dropout)
        self.head = nn.Conv2d(encoder.num_filters[0], 1, 1)

    def noise_shape(self, size):
        return (0,)

    def forward(self, image, mask, t=None, noise=None, rows=None):
        """The loss terms, each [B]: bce, a mean over the pixels, and loss, the same; noise is not used."""
        logits = per_mask(self.head(self.model(image)), rows)
        bce = F.binary_cross_entropy_with_logits(logits, mask, reduction="none").flatten(1).mean(dim=1)
        return {"bce": bce, "loss": bce}

    def draw_logits(self, image, noise, rows):
        return self.head(self.model(image))[rows]


class MonteCarloDropout(DeterministicUNet):
    """The same with dropout, which is drawn anew for each mask in sampling too."""

    def __init__(self, unet, encoder):
        if unet.dropout == 0:
            raise ConfigError("--method mc-dropout needs --dropout above 0, e.g. 0.3")
        super().__init__(unet, encoder)

    def sampling_noise_shape(self, size):
        return (sum(self.model.dropped),)

    def draw_logits(self, image, noise, rows):
        return self.head(self.model(image[rows], noise))
