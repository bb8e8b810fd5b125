"""Random draws of a step: raters, timesteps, noise, augmentation. They depend only on the seed and the position."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.augmentation import NUM_DRAWS, augment
from ..data.stream import Batch, EndlessSampler, pick_raters
from ..dist_util import Processes
from ..flags.classes import Classes
from ..lidcloader import LIDCDataset
from ..losses import is_categorical
from ..nn import seeded_generator, stack_randn, to_device
from .config import TrainConfig
from .run_state import RunState


def sampler_of(dataset: LIDCDataset, config: TrainConfig, processes: Processes) -> EndlessSampler:
    """The sampler of this process's case indices, batch by batch, from the first step."""
    rank, world_size, n = processes.rank, processes.world_size, config.raters_per_image
    return EndlessSampler(len(dataset), config.batch_size, config.seed, rank, world_size, repeats=n)


class StepInputs(NamedTuple):
    """The inputs of a training step: B masks of N images; the masks of an image are consecutive."""

    image: torch.Tensor  # [N, C, H, W]
    mask: torch.Tensor  # [B, K, H, W]
    t: torch.Tensor  # [B]
    weights: torch.Tensor  # [B], loss weights
    noise: torch.Tensor  # [B, ...]
    valid: torch.Tensor | None = None  # [N, 1, H, W], 0 at ignored pixels; None: no pixel is ignored

    def to(self, device: torch.device) -> "StepInputs":
        """Copy to `device`."""
        always = (self.image, self.mask, self.t, self.weights, self.noise)
        image, mask, t, weights, noise = (to_device(tensor, device) for tensor in always)
        return StepInputs(image, mask, t, weights, noise, None if self.valid is None else to_device(self.valid, device))

    def part(self, masks: slice, raters_per_image: int) -> "StepInputs":
        """The inputs of a slice of masks, which must not split the masks of an image."""
        images = slice(masks.start // raters_per_image, masks.stop // raters_per_image)
        valid = None if self.valid is None else self.valid[images]
        own = (self.mask[masks], self.t[masks], self.weights[masks], self.noise[masks])
        return StepInputs(self.image[images], *own, valid=valid)


def draw_inputs(batch: Batch, places: Sequence[int], config: TrainConfig, state: RunState) -> StepInputs:
    """Draw the inputs of a step, on the CPU.

    places  positions of the batch's masks in the endless stream of draws
    """
    n = config.raters_per_image
    generators = [seeded_generator(config.seed, "draw", place) for place in places]
    u = torch.stack([torch.rand(2, generator=generator) for generator in generators])
    image, mask, valid = batch.image, pick_raters(batch, u[::n, 0], n), batch.valid
    t, weights = state.schedule_sampler.sample(u[:, 1])
    noise = stack_randn(generators, state.segmenter.noise_shape((mask.shape[2], mask.shape[3])))
    if config.augment != "none":
        changes = torch.stack([torch.rand(NUM_DRAWS, generator=generator) for generator in generators[::n]])
        masks, classes = mask.unflatten(0, (-1, n)), state.segmenter.classes
        image, masks, valid = augment_all(image, masks, valid, config.augment, changes, classes)
        mask = masks.flatten(0, 1)
    return StepInputs(image, mask, t, weights, noise, valid)


def augment_all(
    image: Float[Tensor, "N C H W"],
    masks: Float[Tensor, "N R K H W"],
    valid: Float[Tensor, "N 1 H W"] | None,
    kind: str,
    u: Float[Tensor, "N draws"],
    classes: Classes,
) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, "N R K H W"], Float[Tensor, "N 1 H W"] | None]:
    """Augment images, the masks of R raters of each, and the map of valid pixels by the same transforms.

    kind, u  as in `augment`
    """
    planes, exclusive = masks.flatten(1, 2), classes.count if is_categorical(classes) else 1
    if valid is None:
        image, planes = augment(image, planes, kind, u, exclusive=exclusive)
        return image, planes.unflatten(1, masks.shape[1:3]), None
    planes = torch.cat([planes, 1 - valid], dim=1)
    image, planes = augment(image, planes, kind, u, exclusive=exclusive, ignored=True)
    return image, planes[:, :-1].unflatten(1, masks.shape[1:3]), 1 - planes[:, -1:]
