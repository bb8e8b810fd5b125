"""Samples ensembles of masks for many cases, in batches across cases; each case is yielded once complete."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from ..lidcloader import Case
from ..nn import seeded_generator, to_device
from .config import SampleConfig
from .protocol import OnStep, Segmenter
from .samplers import SamplerConfig
from .watch import ChainWatch


@runtime_checkable
class Cases(Protocol):
    """A dataset or a list of cases."""

    def __getitem__(self, index: int, /) -> Case: ...


def draw_ensembles(
    segmenter: Segmenter,
    dataset: Cases,
    indices: Sequence[int],
    config: SampleConfig,
    sampler: SamplerConfig,
    on_mask: Callable[[int], object] = lambda count: None,
    *,
    even: bool = False,
    watch: ChainWatch | None = None,
) -> Iterator[tuple[Case, Float[np.ndarray, "M *K H W"]]]:
    """Yield (case, soft samples) for each case index, in order; [M, H, W] for one class, [M, K, H, W] for several.

    config   num_ensemble, batch_size (a number) and seed are used
    sampler  its timesteps must be those of the segmenter (AmbiguousSegmenter.spaced)
    on_mask  called after each batch with its number of masks
    even     pad every batch to batch_size, for compiled networks, which need a fixed size; padding is discarded
    watch    observes the chains
    """
    jobs = [(index, member) for index in indices for member in range(config.num_ensemble)]
    members: list[np.ndarray] = []
    size = int(config.batch_size)
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        cases = {index: dataset[index] for index in dict.fromkeys(index for index, _ in batch)}
        on_step = watch.step if watch and watch.needs_steps else None
        if watch:
            watch.begin([(cases[index], member) for index, member in batch])
        more = batch[-1:] * (size - len(batch)) if even else []
        samples = draw_batch(segmenter, cases, batch + more, config.seed, sampler, on_step)[: len(batch)]
        on_mask(len(batch))

        for (index, _), sample in zip(batch, samples, strict=True):
            members.append(sample)
            if watch:
                watch.finished(cases[index], members)
            if len(members) == config.num_ensemble:
                yield cases[index], np.stack(members)
                members = []


@torch.inference_mode()
def draw_batch(
    segmenter: Segmenter,
    cases: Mapping[int, Case],
    batch: Sequence[tuple[int, int]],
    seed: int,
    sampler: SamplerConfig,
    on_step: OnStep | None,
) -> Float[np.ndarray, "B *K H W"]:
    """Sample the soft masks of `batch`, pairs (case index, mask index), in one batch.

    Returns [B, H, W] for one class, and [B, K, H, W] for several.
    """
    device = next(segmenter.parameters()).device
    image = to_device(torch.stack([case.image for case in cases.values()]), device)
    rows = to_device(torch.tensor([list(cases).index(index) for index, _ in batch]), device)
    generators = [seeded_generator(seed, "mask", cases[index].id, member) for index, member in batch]
    masks = segmenter.sample_masks(image, generators, sampler, on_step, rows)
    return (masks if masks.shape[1] > 1 else masks[:, 0]).cpu().numpy()
