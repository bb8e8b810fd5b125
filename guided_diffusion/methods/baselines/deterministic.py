"""A deterministic U-Net, and MC dropout (Gal and Ghahramani 2016, Kendall et al. 2017)."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from ...distribution import EncoderConfig
from ...errors import ConfigError
from ...flags.classes import Classes
from ...gaussian_diffusion import Masks
from ...losses import class_cross_entropy
from ...nn import mean_flat
from ...sampling.protocol import Encoded, without_ignored
from ...sampling.samplers import SamplerConfig
from ...unet import UNetConfig
from .baseline import Baseline, Images, Losses, Rows, per_mask
from .plain_unet import PlainUNet, check_plain_unet


class DeterministicUNet(Baseline):
    """Trained with cross-entropy; all masks of an ensemble are equal."""

    terms = ("bce",)

    def __init__(self, unet: UNetConfig, encoder: EncoderConfig, classes: Classes = Classes()) -> None:
        super().__init__()
        self.classes = classes
        check_plain_unet(encoder)
        self.model = PlainUNet(unet.channels, encoder.num_filters, encoder.no_convs_per_block, unet.dropout)
        self.head = nn.Conv2d(encoder.num_filters[0], classes.count, 1)

    def noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Empty: no noise is used."""
        return (0,)

    def forward(
        self,
        image: Images,
        mask: Masks,
        t: Int[Tensor, "B"] | None = None,
        noise: Float[Tensor, "B ..."] | None = None,
        rows: Rows | None = None,
        *,
        valid: Float[Tensor, "N 1 H W"] | None = None,
    ) -> Losses:
        """Compute the loss terms: bce, a mean over the pixels, and loss, which equals bce; noise is not used.

        bce is the cross-entropy of `losses.class_cross_entropy`.
        """
        mask, counted = without_ignored(mask, valid, rows)
        logits = per_mask(self.head(self.model(image)), rows)
        bce = mean_flat(class_cross_entropy(logits, mask, self.classes), counted)
        return {"bce": bce, "loss": bce}

    def encode(self, image: Images, config: SamplerConfig | None = None) -> Encoded:
        """The logits."""
        return (self.head(self.model(image)),)

    def draw_logits(self, encoded: Encoded, noise: Float[Tensor, "B ..."], rows: Rows) -> Masks:
        """The image's logits; noise is not used."""
        return encoded[0][rows]


class MonteCarloDropout(DeterministicUNet):
    """DeterministicUNet with dropout that stays active in sampling, drawn independently for each mask."""

    def __init__(self, unet: UNetConfig, encoder: EncoderConfig, classes: Classes = Classes()) -> None:
        if unet.dropout == 0:
            raise ConfigError("--method mc-dropout needs --dropout above 0, e.g. 0.3")
        super().__init__(unet, encoder, classes)

    def sampling_noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """One number per channel that may be dropped."""
        return (sum(self.model.dropped),)

    def encode(self, image: Images, config: SamplerConfig | None = None) -> Encoded:
        """The image: its features differ between the masks."""
        return (image,)

    def draw_logits(self, encoded: Encoded, noise: Float[Tensor, "B dropped"], rows: Rows) -> Masks:
        """The logits; the noise decides which channels are dropped."""
        return self.head(self.model(encoded[0][rows], noise))
