"""Choice of the number of threads for training on a CPU."""

import torch

from ..dist_util import Processes
from ..sampling.protocol import Segmenter
from ..system import threads
from ..system.device import ComputeConfig, prepare
from .config import TrainConfig
from .start import Start

# Mask pixels in a timed step: one 128x128 mask or 16 of 32x32. Even this takes seconds with a large network, and the
# gain from threads is the same with few masks as with many.
TIMED_PIXELS = 2**14


def settle_threads(
    segmenter: Segmenter,
    image_shape: tuple[int, int, int],
    config: TrainConfig,
    how: ComputeConfig,
    processes: Processes,
    start: Start,
) -> list[str]:
    """Set the number of threads of this process; returns lines to log.

    OMP_NUM_THREADS takes precedence, then the number in the run's checkpoint, limited to the available cores. Other
    numbers round sums differently (relative difference of the demo's losses: 2e-6). A single process that starts on a
    CPU times a step with each possible number. Several processes share the cores; launchers also set OMP_NUM_THREADS.
    On a GPU the number matters little, and compiled code would be recompiled for each number.

    segmenter    in training mode
    image_shape  [C, H, W]
    """
    threads.share_cores(processes.local_size)
    if processes.device.type != "cpu" or (processes.local_size == 1 and threads.set_by_user()):
        return []
    most = threads.share_of_cores(processes.local_size)
    stored = start.checkpoint
    if stored and start.own and stored.processes in (None, processes.world_size):
        if stored.threads:  # absent from older checkpoints
            torch.set_num_threads(min(stored.threads, most))
        return []
    if processes.world_size > 1 or how.compile or most == 1:
        return []
    prepare(segmenter, how, processes.device, channels_last=False)  # in the training precision
    raters = config.raters_per_image
    num_images = min(
        (config.microbatch or config.batch_size) // raters, TIMED_PIXELS // (raters * image_shape[1] * image_shape[2])
    )
    return [threads.settle_by_time(lambda: blank_step(segmenter, image_shape, max(1, num_images), raters), most)]


def blank_step(segmenter: Segmenter, image_shape: tuple[int, int, int], num_images: int, raters_per_image: int) -> None:
    """Compute and discard losses and gradients for blank images; weights and random states do not change."""
    num_masks, size = num_images * raters_per_image, image_shape[1:]
    rows = None if raters_per_image == 1 else torch.arange(num_masks) // raters_per_image
    timesteps = torch.zeros(num_masks, dtype=torch.long)
    with torch.random.fork_rng(devices=[]):  # for dropout
        terms = segmenter(
            torch.zeros(num_images, *image_shape),
            torch.zeros(num_masks, segmenter.classes.count, *size),
            timesteps,
            torch.zeros(num_masks, *segmenter.noise_shape(size)),
            rows,
        )
        torch.autograd.grad(
            terms["loss"].sum(), [p for p in segmenter.parameters() if p.requires_grad], allow_unused=True
        )
