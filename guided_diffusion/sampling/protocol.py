"""The interface of a segmenter, used by training and sampling and implemented in methods/."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from ..flags.classes import Classes
from .samplers import SamplerConfig

OnStep = Callable[[int, Float[Tensor, "B K H W"]], None]  # (k, masks after the k-th step)
Encoded = tuple[Shaped[Tensor, "N ..."], ...]  # what a segmenter computes of images alone, a row for each


class Segmenter(nn.Module, ABC):
    """Learns from images and raters' masks, and samples masks for an image. A method without a chain has one timestep.

    `rows` holds the index of each mask's image, so that features of an image are computed once for all its masks in a
    batch. None: one image per mask, in the same order. `valid` says which pixels of each image count: where it is 0,
    the masks and the network's prediction have no effect on any loss term.
    """

    model: nn.Module  # the part that is compiled and that has `autocast_dtype` and channels-last layout
    terms: tuple[str, ...]  # names of the loss terms; a forward pass may omit some
    classes: Classes = Classes()  # K = classes.count

    @property
    @abstractmethod
    def num_timesteps(self) -> int:
        """Number of timesteps to train on, and of network calls per mask."""

    @property
    @abstractmethod
    def max_steps(self) -> int:
        """The largest number of network calls per mask that `spaced` supports."""

    @property
    @abstractmethod
    def sampling_parts(self) -> list[nn.Module]:
        """The modules that sampling needs."""

    @abstractmethod
    def forward(
        self,
        image: Float[Tensor, "N C H W"],
        mask: Float[Tensor, "B K H W"],
        t: Int[Tensor, "B"],
        noise: Float[Tensor, "B ..."] | None = None,
        rows: Int[Tensor, "B"] | None = None,
        *,
        valid: Float[Tensor, "N 1 H W"] | None = None,
    ) -> dict[str, Float[Tensor, "B"]]:
        """Compute the loss terms and "loss", the objective to minimise.

        image  in [0, 1]
        mask   0 or 1
        noise  standard normal, of shape noise_shape((H, W)) per mask
        valid  1, or 0 at pixels that count in no loss; None: all count
        """

    @abstractmethod
    def noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of one mask's noise in `forward`, for masks of `size` (H, W)."""

    @abstractmethod
    def spaced(self, config: SamplerConfig) -> "Segmenter":
        """A segmenter with the same weights on the timesteps given by the steps and spacing of `config`."""

    def encode(self, image: Float[Tensor, "N C H W"], config: SamplerConfig = SamplerConfig()) -> Encoded:
        """What sampling with `config` computes of the images alone, to be kept for all batches of their masks.

        Empty, as by default: nothing is kept.
        """
        return ()

    @abstractmethod
    def sample_masks(
        self,
        image: Float[Tensor, "N C H W"],
        generators: Sequence[torch.Generator],
        config: SamplerConfig = SamplerConfig(),
        on_step: OnStep | None = None,
        rows: Int[Tensor, "B"] | None = None,
        encoded: Encoded = (),
    ) -> Float[Tensor, "B K H W"]:
        """Sample one soft mask per generator (B in total), on a scale where background is 0 and foreground 1.

        Its K channels are the classes; masks.postprocess reads the classes of a pixel off them.

        image       in [0, 1]
        generators  on the CPU; row b's noise comes from generators[b] only
        on_step     called after each step
        encoded     encode(image, config), if it is known already and not empty
        """

    @abstractmethod
    def one_call(
        self, image: Float[Tensor, "B C H W"], config: SamplerConfig = SamplerConfig()
    ) -> Float[Tensor, "B outputs H W"]:
        """One network call as in sampling, one mask per image; used to measure time and memory."""

    @abstractmethod
    def shardable(self) -> list[nn.Module]:
        """The modules to shard over processes, inner ones first. ConfigError: sharding is not supported."""


def without_ignored(
    mask: Float[Tensor, "B K H W"], valid: Float[Tensor, "N 1 H W"] | None, rows: Int[Tensor, "B"] | None
) -> tuple[Float[Tensor, "B K H W"], Float[Tensor, "B 1 H W"] | None]:
    """The masks with background at ignored pixels, and `valid` of each mask. Arguments as in `Segmenter.forward`."""
    if valid is None:
        return mask, None
    valid = valid if rows is None else valid[rows]
    return mask * valid, valid
