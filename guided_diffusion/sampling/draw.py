"""Samples ensembles of masks for many cases, in batches across cases; each case is yielded once complete."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from ..lidcloader import Case
from ..nn import seeded_generator, to_device
from .config import SampleConfig
from .protocol import Encoded, OnStep, Segmenter
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
    encoder, size = _Encoder(segmenter, dataset, sampler), int(config.batch_size)
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        cases = encoder.read(dict.fromkeys(index for index, _ in batch))
        on_step = watch.step if watch and watch.needs_steps else None
        if watch:
            watch.begin([(cases[index], member) for index, member in batch])
        full = batch + batch[-1:] * (size - len(batch)) if even else batch
        samples = draw_batch(segmenter, cases, full, config.seed, sampler, on_step, encoded=encoder.encoded)
        on_mask(len(batch))
        for (index, _), sample in zip(batch, samples, strict=False):  # without the padding
            members.append(sample)
            if watch:
                watch.finished(cases[index], members)
            if len(members) == config.num_ensemble:
                yield cases[index], np.stack(members)
                members = []


class _Encoder:
    """Reads cases and computes what depends on their images alone: once each, also if batches share a case."""

    def __init__(self, segmenter: Segmenter, dataset: Cases, sampler: SamplerConfig) -> None:
        self.segmenter, self.dataset, self.sampler = segmenter, dataset, sampler
        self.cases: dict[int, Case] = {}  # of the last batch
        self.rows: dict[int, Encoded] = {}  # of each of them, without the first dimension

    @property
    def encoded(self) -> Encoded:
        """Of the last batch."""
        return tuple(torch.stack(rows) for rows in zip(*self.rows.values(), strict=True))

    @torch.inference_mode()
    def read(self, indices: Iterable[int]) -> dict[int, Case]:
        """The cases of the next batch, in order of `indices`."""
        known = self.cases
        self.cases = {index: known[index] if index in known else self.dataset[index] for index in indices}
        if new := [index for index in self.cases if index not in known]:
            found = self.segmenter.encode(images_of([self.cases[index] for index in new], self.segmenter), self.sampler)
            self.rows.update({index: tuple(rows[k] for rows in found) for k, index in enumerate(new)})
        self.rows = {index: self.rows[index] for index in self.cases}
        return self.cases


def images_of(cases: Iterable[Case], segmenter: Segmenter) -> Float[torch.Tensor, "N C H W"]:
    """The images of cases, on the segmenter's device."""
    return to_device(torch.stack([case.image for case in cases]), next(segmenter.parameters()).device)


@torch.inference_mode()
def draw_batch(
    segmenter: Segmenter,
    cases: Mapping[int, Case],
    batch: Sequence[tuple[int, int]],
    seed: int,
    sampler: SamplerConfig,
    on_step: OnStep | None,
    *,
    encoded: Encoded = (),
) -> Float[np.ndarray, "B *K H W"]:
    """Sample the soft masks of `batch`, pairs (case index, mask index), in one batch.

    Returns [B, H, W] for one class, and [B, K, H, W] for several.

    encoded  of the cases, from Segmenter.encode; empty: it is computed if necessary
    """
    image = images_of(cases.values(), segmenter)
    rows = to_device(torch.tensor([list(cases).index(index) for index, _ in batch]), image.device)
    generators = [seeded_generator(seed, "mask", cases[index].id, member) for index, member in batch]
    more = (encoded,) if encoded else ()  # which methods of others may lack
    masks = segmenter.sample_masks(image, generators, sampler, on_step, rows, *more)
    return (masks if masks.shape[1] > 1 else masks[:, 0]).cpu().numpy()
