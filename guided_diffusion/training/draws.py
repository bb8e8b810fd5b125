"""Random draws of a step: raters, timesteps, noise, augmentation. They depend only on the seed and the position."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..data.augmentation import NUM_DRAWS, augment
from ..data.stream import Batch, EndlessSampler, pick_raters
from ..dist_util import Processes
from ..lidcloader import LIDCDataset
from ..nn import seeded_generator, stack_randn, to_device
from .config import TrainConfig
from .run_state import RunState


def sampler_of(dataset: LIDCDataset, config: TrainConfig, processes: Processes) -> EndlessSampler:
    """The sampler of this process's case indices, batch by batch, from the first step."""
    rank, world_size, K = processes.rank, processes.world_size, config.raters_per_image
    return EndlessSampler(len(dataset), config.batch_size, config.seed, rank, world_size, repeats=K)


class StepInputs(NamedTuple):
    """The inputs of a training step: B masks of N images; the masks of an image are consecutive."""

    image: torch.Tensor  # [N, C, H, W]
    mask: torch.Tensor  # [B, 1, H, W]
    t: torch.Tensor  # [B]
    weights: torch.Tensor  # [B], loss weights
    noise: torch.Tensor  # [B, ...]

    def to(self, device: torch.device) -> "StepInputs":
        """Copy to `device`."""
        return StepInputs(*(to_device(tensor, device) for tensor in self))

    def part(self, masks: slice, raters_per_image: int) -> "StepInputs":
        """The inputs of a slice of masks, which must not split the masks of an image."""
        images = slice(masks.start // raters_per_image, masks.stop // raters_per_image)
        return StepInputs(self.image[images], self.mask[masks], self.t[masks], self.weights[masks], self.noise[masks])


def draw_inputs(batch: Batch, places: Sequence[int], config: TrainConfig, state: RunState) -> StepInputs:
    """Draw the inputs of a step, on the CPU.

    places  positions of the batch's masks in the endless stream of draws
    """
    K = config.raters_per_image
    generators = [seeded_generator(config.seed, "draw", place) for place in places]
    u = torch.stack([torch.rand(2, generator=generator) for generator in generators])
    image, mask = batch.image, pick_raters(batch, u[::K, 0], K)
    t, weights = state.schedule_sampler.sample(u[:, 1])
    noise = stack_randn(generators, state.segmenter.noise_shape((mask.shape[2], mask.shape[3])))
    if config.augment != "none":
        changes = torch.stack([torch.rand(NUM_DRAWS, generator=generator) for generator in generators[::K]])
        image, mask = augment(image, mask.unflatten(0, (-1, K)).squeeze(2), config.augment, changes)
        mask = mask.flatten(0, 1)[:, None]
    return StepInputs(image, mask, t, weights, noise)
