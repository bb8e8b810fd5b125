"""Ensembles of masks for many cases: drawn in batches across cases, each case written as soon as it is whole."""

import numpy as np
import torch

from ..nn import seeded_generator, to_device


@torch.inference_mode()
def draw_ensembles(segmenter, dataset, indices, config, sampler, on_mask=lambda count: None, *, even=False, watch=None):
    """Yield (case, samples [M, H, W] float32) for each case number of `indices`, in order.

    Batches run across cases. A sample is soft, on the scale on which masks are 0 and 1.

    config   SampleConfig: num_ensemble, batch_size, seed
    sampler  SamplerConfig; its timesteps are those that the segmenter has (AmbiguousSegmenter.spaced)
    on_mask  called with the number of masks finished, after each batch
    even     fill every batch up to batch_size with masks that are thrown away: a compiled network wants one size
    watch    ChainWatch, which sees the chains; None: nobody does
    """
    device = next(segmenter.parameters()).device
    total, members = len(indices) * config.num_ensemble, []
    for start in range(0, total, config.batch_size):
        count = min(config.batch_size, total - start)
        places = [divmod(job, config.num_ensemble) for job in range(start, start + count)]
        batch = [(indices[place], member) for place, member in places]
        if even:
            batch += batch[-1:] * (config.batch_size - count)
        cases = {index: dataset[index] for index in dict.fromkeys(index for index, _ in batch)}
        image = to_device(torch.stack([case.image for case in cases.values()]), device)
        rows = to_device(torch.tensor([list(cases).index(index) for index, _ in batch]), device)
        generators = [seeded_generator(config.seed, "mask", cases[index].id, member) for index, member in batch]
        if watch:
            watch.begin([(cases[index], member) for index, member in batch[:count]])
        on_step = watch.step if watch and watch.wants_steps else None
        samples = segmenter.sample_masks(image, generators, sampler, on_step, rows).cpu().numpy()[:count]
        on_mask(count)

        for (index, _), sample in zip(batch, samples, strict=False):
            members.append(sample[0])
            if watch:
                watch.finished(cases[index], members)
            if len(members) == config.num_ensemble:
                yield cases[index], np.stack(members)
                members = []
