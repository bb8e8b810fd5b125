"""Throughput of writing in cases per second: draw_ensembles and its writers with a network of negligible cost.

    python benchmarks/writing.py --out benchmarks/results/writing_cpu.json

The first row of each ensemble size is a single thread that compresses the samples twice, before and after the pictures,
and syncs every file; the others are `write_case` in several threads. The rows alternate; rates are medians over the
rounds, and ratios are medians of the ratios within a round.
"""

import os
import statistics
import tempfile
import time
from functools import partial
from typing import Annotated

import numpy as np
import torch
from machine import machine_name
from running import write_json
from scipy import ndimage

from guided_diffusion.data.geometry import CaseArrays
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.lidcloader import make_case
from guided_diffusion.masks import pictures
from guided_diffusion.masks.postprocess import PostprocessConfig, binarise
from guided_diffusion.sampling import draw, store
from guided_diffusion.sampling.config import SampleConfig, finish, identity, postprocess_of
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.sampling.writer_pool import CaseWriter
from guided_diffusion.system import storage


@config()
class BenchmarkConfig:
    ensembles: Annotated[tuple[int, ...], Flag("masks per case")] = (4, 16)
    writers: Annotated[tuple[int, ...], Flag("numbers of writer threads")] = (1, 2, 4)
    cases: Annotated[int, Flag("cases per round")] = 48
    rounds: Annotated[int, Flag("rounds of measurement")] = 5
    batch_size: Annotated[int, Flag("masks per batch")] = 128
    image_size: Annotated[int, Flag("side of the images, pixels")] = 128
    work: Annotated[str, Flag("output folder, on the disk to measure")] = "results"
    out: Annotated[str, Flag("JSON file for the results")] = ""


class StandIn(torch.nn.Module):
    """Returns precomputed masks: discs with soft edges and a little noise, clipped to [0, 1]."""

    def __init__(self, batch_size, side):
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:side, :side] / side - 0.5
        radii = rng.uniform(0.1, 0.3, (batch_size, 1, 1))
        edges = 1 / (1 + np.exp((np.hypot(y, x) - radii) * side / 2))
        masks = np.clip(edges + 0.02 * rng.standard_normal(edges.shape), 0, 1)
        self.masks = torch.tensor(masks[:, None], dtype=torch.float32)

    def encode(self, image, sampler):
        return ()

    def sample_masks(self, image, generators, sampler, on_step, rows):
        return self.masks[: len(generators)]


def one_case(name, side):
    """A case with a smooth noisy image and four raters."""
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.random((side, side)), 1)
    image = ((image - image.min()) / np.ptp(image)).astype(np.float32)
    raters = StandIn(4, side).masks[:, 0].numpy() > 0.5
    return make_case(name, CaseArrays(image[None], raters), image_channels=4)


def write_synced(out_dir, case, samples, drawn_by, finished_by):
    """Write a case's files, each with a disk sync; the samples are compressed twice."""

    def write_samples(**made_by):
        path = store.samples_path(out_dir, case.id)
        storage.write_atomically(path, lambda file: np.savez_compressed(file, samples=samples, **made_by))

    def write_picture(path, picture):
        storage.write_atomically(path, lambda file: picture.save(file, format="PNG"))

    drawn_by = {**drawn_by, "image": store.image_hash(case)}
    write_samples(**drawn_by)
    masks = binarise(samples, postprocess_of(finished_by))
    for k, mask in enumerate(masks):
        write_picture(store.mask_path(out_dir, case.id, k), pictures.to_grey(mask))
    page = pictures.sheet(case.image[0].numpy(), case.raters.numpy() > 0.5, masks)
    write_picture(store.sheet_path(out_dir, case.id), page)
    write_samples(**drawn_by, **finished_by)


def seconds(config, count, write, writers):
    """[wall time, processor time] for all cases, from the first noise to the last file.

    count  masks per case
    """
    segmenter, sampler = StandIn(config.batch_size, config.image_size), SamplerConfig(steps=20)
    dataset = [one_case(f"case{k:04d}", config.image_size) for k in range(config.cases)]
    drawing = SampleConfig(num_ensemble=count, batch_size=config.batch_size)
    drawn_by = identity(drawing, sampler, 20, "none", {}, "")
    finished_by = finish(drawing, PostprocessConfig())
    with tempfile.TemporaryDirectory(dir=config.work) as folder:
        started = np.array([time.perf_counter(), time.process_time()])
        write_one = partial(write, folder, drawn_by=drawn_by, finished_by=finished_by)
        with CaseWriter(write_one, writers, -(-config.batch_size // count)) as writer:
            for case, samples in draw.draw_ensembles(segmenter, dataset, range(config.cases), drawing, sampler):
                writer(case, samples)
        return np.array([time.perf_counter(), time.process_time()]) - started


def measure(config):
    """A row per ensemble size and variant of writing."""
    ways = [("every file synced, samples compressed twice", write_synced, 1)]
    ways += [("write_case", store.write_case, writers) for writers in config.writers]
    rows = []
    for count in config.ensembles:
        times = [[seconds(config, count, write, writers) for _, write, writers in ways] for _ in range(config.rounds)]
        times = np.array(times)  # [rounds, ways, 2]
        for k, (name, _, writers) in enumerate(ways):
            rate = config.cases / statistics.median(times[:, k, 0])
            rows.append(
                {
                    "name": name,
                    "writers": writers,
                    "masks": count,
                    "cases_per_second": rate,
                    "masks_per_second": count * rate,
                    "processor_ms_per_case": 1000 * statistics.median(times[:, k, 1]) / config.cases,
                    "times_first": statistics.median(times[:, 0, 0] / times[:, k, 0]),
                    "seconds": times[:, k, 0].tolist(),
                }
            )
    setting = {"rounds": config.rounds, "cases": config.cases, "image_size": config.image_size}
    return {"machine": machine_name(), **setting, "rows": rows}


def main():
    with command_line.one_line_errors("benchmarks/writing.py"):
        config = command_line.parse_command_line((BenchmarkConfig,), __doc__)[BenchmarkConfig]
        os.makedirs(config.work, exist_ok=True)
        result = measure(config)
        print(f"{result['machine']}; {config.cases} cases of {config.image_size} pixels")
        print("| | threads | masks for a case | cases/s | masks/s | ms of processor for a case | times the first |")
        print("|---|---|---|---|---|---|---|")
        for row in result["rows"]:
            print(
                f"| {row['name']} | {row['writers']} | {row['masks']} | {row['cases_per_second']:.1f} | "
                f"{row['masks_per_second']:.0f} | {row['processor_ms_per_case']:.0f} | {row['times_first']:.1f} |"
            )
        write_json(config.out, result)


if __name__ == "__main__":
    main()
