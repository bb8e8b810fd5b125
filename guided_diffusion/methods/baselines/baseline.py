"""Base class of the baselines."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import ConfigError
from ...gaussian_diffusion import Masks
from ...losses import class_probabilities
from ...nn import seeded_generator, stack_randn
from ...sampling.protocol import Encoded, OnStep, Segmenter
from ...sampling.samplers import SamplerConfig
from .plain_unet import PlainUNet

B = TypeVar("B", bound="Baseline")

Images = Float[Tensor, "N C H W"]  # in [0, 1]
Rows = Int[Tensor, "B"]  # index of each mask's image
Losses = dict[str, Float[Tensor, "B"]]


class Baseline(Segmenter):
    """A segmenter without a chain of timesteps: one network call and one draw per mask.

    A subclass defines `model`; `terms`, the names of its loss terms; `forward`, which ignores t; `noise_shape`; and
    `draw_logits`; and `encode`, if something depends on the image alone.
    """

    model: PlainUNet
    terms: tuple[str, ...] = ()
    num_timesteps = max_steps = 1

    @property
    def sampling_parts(self) -> list[nn.Module]:
        """The modules that sampling needs."""
        return [self]

    def spaced(self: B, config: SamplerConfig) -> B:
        """Return self: without a chain, there are no steps to space."""
        return self

    def shardable(self) -> list[nn.Module]:
        """Not supported. ConfigError: always."""
        raise ConfigError("--shard is supported by diffusion methods only; remove it for this --method")

    def sampling_noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of one mask's noise in `draw_logits`, for masks of `size` (H, W)."""
        return self.noise_shape(size)

    def encode(self, image: Images, config: SamplerConfig | None = None) -> Encoded:
        """The tensors that `draw_logits` needs, with a row for each image: by default the images themselves."""
        return (image,)

    @abstractmethod
    def draw_logits(self, encoded: Encoded, noise: Float[Tensor, "B ..."], rows: Rows) -> Masks:
        """Draw the logits of K classes, without one of the background.

        encoded  from `encode`
        noise    standard normal, of shape sampling_noise_shape((H, W)) per mask
        """

    def sample_masks(
        self,
        image: Images,
        generators: Sequence[torch.Generator],
        config: SamplerConfig | None = None,
        on_step: OnStep | None = None,
        rows: Rows | None = None,
        encoded: Encoded = (),
    ) -> Masks:
        """Sample one mask per generator, as probabilities of the K classes; config is not used."""
        rows = torch.arange(len(image), device=image.device) if rows is None else rows
        shape = self.sampling_noise_shape((image.shape[2], image.shape[3]))
        noise = stack_randn(generators, shape, image.device)
        masks = class_probabilities(self.draw_logits(encoded or self.encode(image), noise, rows), self.classes)
        if on_step:
            on_step(0, masks)
        return masks

    def one_call(self, image: Images, config: SamplerConfig | None = None) -> Masks:
        """Draw one mask per image; config is not used."""
        return self.sample_masks(image, [seeded_generator(row) for row in range(len(image))])


def per_mask(image: Float[Tensor, "N *space"], rows: Rows | None) -> Float[Tensor, "B *space"]:
    """The rows of `image` that belong to each mask; rows None: one mask per image."""
    return image if rows is None else image[rows]
