"""The interface of a segmenter, which training and sampling call; methods/ has the classes that implement it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .samplers import SamplerConfig

OnStep = Callable[[int, Float[Tensor, "B K H W"]], None]  # (k, the masks as they are after the k-th step)


class Segmenter(nn.Module, ABC):
    """Learns from images and raters' masks, and draws masks for an image. A method without a chain has one timestep.

    `rows` are the numbers of the masks' images, so that what depends on the image alone is computed once for all its
    masks of a batch; None: as many images as masks, in the same order.
    """

    model: nn.Module  # the part that is compiled, and that `autocast_dtype` and channels-last layout belong to
    terms: tuple[str, ...]  # names of the loss terms; a forward pass may lack some

    @property
    @abstractmethod
    def num_timesteps(self) -> int:
        """Timesteps to train on, and network calls for a mask."""

    @property
    @abstractmethod
    def max_steps(self) -> int:
        """The most network calls for a mask that `spaced` can be asked for."""

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
    ) -> dict[str, Float[Tensor, "B"]]:
        """The loss terms, and "loss", which is to be minimised.

        image  in [0, 1]
        mask   0 or 1
        noise  standard normal, of noise_shape((H, W)) for each mask
        """

    @abstractmethod
    def noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Of one mask's noise in `forward`, for masks of `size` (H, W)."""

    @abstractmethod
    def spaced(self, config: SamplerConfig) -> "Segmenter":
        """The same weights on the timesteps that the steps and the spacing of `config` choose."""

    @abstractmethod
    def sample_masks(
        self,
        image: Float[Tensor, "N C H W"],
        generators: Sequence[torch.Generator],
        config: SamplerConfig = SamplerConfig(),
        on_step: OnStep | None = None,
        rows: Int[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B K H W"]:
        """One soft mask for each of the B generators, on the scale on which masks are 0 and 1.

        image       in [0, 1]
        generators  on the CPU; row b's noise comes from generators[b] alone
        on_step     called after each step
        """

    @abstractmethod
    def one_call(
        self, image: Float[Tensor, "B C H W"], config: SamplerConfig = SamplerConfig()
    ) -> Float[Tensor, "B outputs H W"]:
        """A network call as sampling makes it, for as many masks as images, to measure what it takes."""

    @abstractmethod
    def shardable(self) -> list[nn.Module]:
        """The modules whose weights may be shared out over processes, inner ones first. ConfigError: none."""
