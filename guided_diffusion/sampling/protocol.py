"""The interface of a segmenter, which training and sampling call; methods/ has the classes that have it."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from .samplers import SamplerConfig


@runtime_checkable
class Segmenter(Protocol):
    """Learns from images and raters' masks, and draws masks for an image. A method without a chain has one timestep.

    `rows` [B] are the numbers of the masks' images, so that what depends on the image alone is computed once for all
    its masks of a batch; None: as many images as masks, in the same order.
    """

    model: nn.Module  # the part that is compiled, and that `autocast_dtype` and channels-last layout belong to
    terms: tuple[str, ...]  # names of the loss terms; a forward pass may lack some

    @property
    def num_timesteps(self) -> int:
        """Timesteps to train on, and network calls for a mask."""

    @property
    def max_steps(self) -> int:
        """The most network calls for a mask that `spaced` can be asked for."""

    @property
    def sampling_parts(self) -> list[nn.Module]:
        """The modules that sampling needs."""

    def forward(
        self,
        image: torch.Tensor,
        mask: torch.Tensor,
        t: torch.Tensor,
        noise: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The loss terms, each [B], and "loss", which is to be minimised.

        image [N, C, H, W] in [0, 1]; mask [B, 1, H, W], 0 or 1; t [B]; noise [B, *noise_shape((H, W))] standard normal
        """

    def noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Of one mask's noise in `forward`, for masks of `size` (H, W)."""

    def spaced(self, config: SamplerConfig) -> "Segmenter":
        """The same weights on the timesteps that the steps and the spacing of `config` choose."""

    def sample_masks(
        self,
        image: torch.Tensor,
        generators: Sequence[torch.Generator],
        config: SamplerConfig,
        on_step: Callable[[int, torch.Tensor], None] | None = None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One soft mask for each generator, on the scale on which masks are 0 and 1, [B, 1, H, W].

        on_step  called with (k, the masks as they are, [B, 1, H, W]) after the k-th step
        """

    def one_call(self, image: torch.Tensor, config: SamplerConfig) -> torch.Tensor:
        """A network call as sampling makes it, for as many masks as images, to measure what it takes."""

    def shardable(self) -> list[nn.Module]:
        """The modules whose weights may be shared out over processes, inner ones first. ConfigError: none."""
