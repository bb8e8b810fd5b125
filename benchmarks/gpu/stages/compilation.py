"""Compiles the networks of later stages into the shared caches, by making the same calls as these stages."""

import os

from ..networks import images, phantoms, sampling_network, warm_up


def sample_many(settings):
    segmenter, sampler = sampling_network(settings, settings.amp, compiled=True)
    warm_up(segmenter, sampler, images(settings, settings.sizes.masks))


def sample_one(settings):
    segmenter, sampler = sampling_network(settings, settings.amp, compiled=True)
    warm_up(segmenter, sampler, images(settings, 1))


def train(settings):
    from .training import build_ours, phantom_dataset

    dataset = phantom_dataset(
        settings, phantoms(settings, "compile_cases", settings.sizes.train_batch, settings.sizes.image_size)
    )
    step = build_ours(settings, dataset, os.path.join(settings.work, "compile_log"), compiled=True)
    for _ in range(2):
        step()


JOBS = {"sample_many": sample_many, "sample_one": sample_one, "train": train}


def run(record, settings, names):
    """Run the named JOBS; `done` is added to the results of each successful job."""
    for name in names:
        with record.part(name) as add:
            JOBS[name](settings)
            add(done=True)
