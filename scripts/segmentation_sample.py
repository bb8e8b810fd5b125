"""
Draw an ensemble of masks for every case of a folder:

    python scripts/segmentation_sample.py --data_dir data/testing --model_path results/savedmodel.pt --num_ensemble 4 --fast

Several processes share the cases:

    torchrun --nproc_per_node=2 scripts/segmentation_sample.py --data_dir data/testing --model_path results/savedmodel.pt

A checkpoint knows its model flags; those of the published code do not, and want them on the command line.
"""

import os
from dataclasses import replace
from datetime import timedelta
from functools import partial

import torch
from tqdm import tqdm

from guided_diffusion import evaluation, script_util
from guided_diffusion.checkpoints.files import fingerprint
from guided_diffusion.data.case_reader import DataConfig
from guided_diffusion.dist_util import Processes
from guided_diffusion.errors import ConfigError
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import configs_from_flags, default_flags, pick_flags
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks.postprocess import PostprocessConfig
from guided_diffusion.methods.registry import METHODS, MODEL_CONFIGS, PRESETS
from guided_diffusion.sampling import draw, store
from guided_diffusion.sampling.config import SampleConfig, check_sample_config, finish, identity
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.sampling.watch import ChainWatch
from guided_diffusion.sampling.writer_pool import CaseWriter
from guided_diffusion.scoring import EvaluateConfig
from guided_diffusion.system.device import (
    ComputeConfig,
    compile_model,
    fitting_batch_size,
    out_of_memory_as_error,
    prepare,
    running_batch_size,
)
from guided_diffusion.system.storage import refuse_remote
from guided_diffusion.system.threads import set_by_user, settle_by_time, share_cores
from guided_diffusion.system.workers import usable_cores
from guided_diffusion.unet import UNetConfig
from guided_diffusion.windows import VisdomConfig, open_windows

CONFIGS = (SampleConfig, SamplerConfig, ComputeConfig, PostprocessConfig, VisdomConfig, DataConfig, *MODEL_CONFIGS)


TIMED_CALLS = 100  # network calls from which on it pays to time some with each number of threads


def check_flags(config):
    """Refuse, by its name, a flag that can be refused without reading a file."""
    check_sample_config(config)
    refuse_remote("out_dir", config.out_dir)
    for name in ("data_dir", "model_path"):
        if not getattr(config, name):
            raise ConfigError(f"--{name} is missing")
    if config.evaluate and os.path.isfile(config.data_dir):
        raise ConfigError(f"--evaluate wants a folder of cases, and --data_dir {config.data_dir} is a file: score the samples with segmentation_evaluate.py")


def make_ready(segmenter, config, sampler, how, unet, total, device):
    """Put the segmenter on the device for `total` masks; returns the config with the number of masks in flight."""
    prepare(segmenter.eval(), how, device)
    one_call, size, most = partial(segmenter.one_call, config=sampler), config.batch_size, max(total, 1)
    shape = (unet.image_channels, unet.image_size, unet.image_size)
    if size == "auto":
        size = fitting_batch_size(one_call, shape, device, most)
    if how.compile:
        size = min(size, most)
        compile_model(segmenter)
        if config.batch_size == "auto":
            size = running_batch_size(one_call, shape, device, size)
    return replace(config, batch_size=size)


def settle_threads(segmenter, config, sampler, how, unet, total, processes):
    """As in training, by the time of a network call, where so many follow that it pays; returns lines to report."""
    calls = total * segmenter.num_timesteps / config.batch_size
    alone = processes.device.type == "cpu" and processes.world_size == 1 and usable_cores() > 1
    if not alone or set_by_user() or how.compile or calls < TIMED_CALLS:
        return []
    image = torch.zeros(config.batch_size, unet.image_channels, unet.image_size, unet.image_size)
    with torch.inference_mode():
        return [settle_by_time(lambda: segmenter.one_call(image, sampler), usable_cores())]


def main(argv=None):
    with command_line.one_line_errors("segmentation_sample.py"):
        given, preset = command_line.parse_command_line(CONFIGS, __doc__, argv, PRESETS)
        config, how, postprocess, visdom = configs_from_flags(given, SampleConfig, ComputeConfig, PostprocessConfig, VisdomConfig)
        check_flags(config)

        # What to draw, and with what
        model_flags = pick_flags({**preset, **given}, DataConfig, *MODEL_CONFIGS)
        segmenter, flags, stored = script_util.load_segmenter(config.model_path, model_flags, config.weights)
        script_util.refuse_foreign_flags(flags, given)
        sampler = script_util.choose_sampler(given, preset, stored, flags["diffusion_steps"])
        segmenter = segmenter.spaced(sampler)
        data_config, unet = configs_from_flags(flags, DataConfig, UNetConfig)
        dataset = LIDCDataset(config.data_dir, unet.image_size, unet.image_channels, data_config, require_raters=False)

        # Which cases are this process's, and not drawn yet
        # They wait for each other only to score the samples: NCCL, which takes memory of the GPU, is not needed.
        processes = Processes(timeout=timedelta(days=7), backend="gloo")
        processes.check_cards()
        share_cores(processes.local_size)
        os.makedirs(config.out_dir, exist_ok=True)
        chain = sampler if METHODS[flags["method"]].has_chain else None
        drawn_by = identity(
            config, chain, segmenter.num_timesteps, how.amp, flags, fingerprint(config.model_path)
        )
        finished_by = finish(config, postprocess)
        chosen = range(len(dataset))[: config.num_samples]
        mine = chosen[processes.rank :: processes.world_size]
        unnamed = default_flags(SamplerConfig, DataConfig, *MODEL_CONFIGS)
        left = store.unfinished(dataset, mine, config, drawn_by, finished_by, unnamed)

        total = len(left) * config.num_ensemble
        smaller = "give a smaller one" if config.batch_size == "auto" else "give a smaller one, or auto"
        with out_of_memory_as_error(processes.device, "not one mask fits, give --amp bf16 or free some of it"):
            config = make_ready(segmenter, config, sampler, how, unet, total, processes.device)
            lines = settle_threads(segmenter, config, sampler, how, unet, total, processes)
        if processes.is_main:
            told = f"{len(left)} of {len(mine)} cases to draw, {config.batch_size} masks at a time, into {config.out_dir}"
            for line in (*dataset.notes, *script_util.advice(segmenter, sampler), *lines, told):
                tqdm.write(line)

        writers = max(1, min(CaseWriter.MOST, usable_cores() // processes.local_size))
        write = partial(store.write_case, config.out_dir, drawn_by=drawn_by, finished_by=finished_by)
        with (
            tqdm(total=total, unit="mask", dynamic_ncols=True, disable=not processes.is_main) as bar,
            out_of_memory_as_error(processes.device, f"--batch_size {config.batch_size} is too much, {smaller}"),
            CaseWriter(write, writers, -(-config.batch_size // config.num_ensemble)) as writer,
            open_windows(visdom, processes.is_main, tqdm.write) as windows,
        ):
            watch = ChainWatch(segmenter.num_timesteps, config.movie, windows, postprocess)
            drawn = draw.draw_ensembles(segmenter, dataset, left, config, sampler, bar.update, even=how.compile, watch=watch)
            for case, samples in drawn:
                writer(case, samples, frames=watch.case_done(case, samples))
        if config.evaluate:
            with processes:
                processes.barrier()
            if processes.is_main:
                names = {dataset.ids[index] for index in chosen}
                evaluation.evaluate(EvaluateConfig(config.data_dir, config.out_dir), {}, names)


if __name__ == "__main__":
    main()
