"""Draw an ensemble of masks for every case of a folder:

    python scripts/segmentation_sample.py --data_dir data/testing --model_path results/savedmodel.pt --num_ensemble 4 --fast

Several processes share the cases:

    torchrun --nproc_per_node=2 scripts/segmentation_sample.py --data_dir data/testing --model_path results/savedmodel.pt

A checkpoint knows its model flags; those of the published code do not, and want them on the command line.
"""

import os
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

import torch
from tqdm import tqdm

from .. import script_util
from ..checkpoints.files import fingerprint
from ..data.case_reader import DataConfig
from ..dist_util import Processes
from ..errors import ConfigError
from ..evaluation.case_figures import EvaluateConfig
from ..evaluation.summary import evaluate
from ..flags import command_line
from ..flags.fields import configs_from_flags, default_flags, pick_flags
from ..lidcloader import LIDCDataset
from ..masks.postprocess import PostprocessConfig
from ..methods.registry import METHODS, MODEL_CONFIGS, PRESETS
from ..sampling import store
from ..sampling.config import SampleConfig, check_sample_config, finish, identity
from ..sampling.draw import draw_ensembles
from ..sampling.protocol import Segmenter
from ..sampling.samplers import SamplerConfig
from ..sampling.watch import ChainWatch
from ..sampling.writer_pool import CaseWriter
from ..system import device, threads
from ..system.device import ComputeConfig
from ..system.storage import refuse_remote
from ..system.workers import usable_cores
from ..unet import UNetConfig
from ..visualize.connection import VisdomConfig
from ..visualize.windows import open_windows

CONFIGS = (SampleConfig, SamplerConfig, ComputeConfig, PostprocessConfig, VisdomConfig, DataConfig, *MODEL_CONFIGS)
TIMED_CALLS = 100  # network calls from which on it pays to time some with each number of threads


@dataclass(frozen=True)
class Model:
    """What is drawn with."""

    segmenter: Segmenter  # on the timesteps of `sampler`
    flags: dict[str, object]  # every flag of its data and model
    sampler: SamplerConfig
    unet: UNetConfig

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[C, H, W]"""
        return self.unet.image_channels, self.unet.image_size, self.unet.image_size


@dataclass(frozen=True)
class Settings:
    """How it is drawn."""

    sampling: SampleConfig
    how: ComputeConfig
    postprocess: PostprocessConfig
    visdom: VisdomConfig


def check_flags(config):
    """Refuse, by its name, a flag that can be refused without reading a file."""
    check_sample_config(config)
    refuse_remote("out_dir", config.out_dir)
    for name in ("data_dir", "model_path"):
        if not getattr(config, name):
            raise ConfigError(f"--{name} is missing")
    if config.evaluate and os.path.isfile(config.data_dir):
        raise ConfigError(
            f"--evaluate wants a folder of cases, and --data_dir {config.data_dir} is a file: "
            "score the samples with segmentation_evaluate.py"
        )


def load_model(config, given, preset):
    """The Model of the checkpoint, with the sampler of the flags given, of the preset, or its own."""
    model_flags = pick_flags({**preset, **given}, DataConfig, *MODEL_CONFIGS)
    segmenter, flags, stored = script_util.load_segmenter(config.model_path, model_flags, config.weights)
    script_util.refuse_foreign_flags(flags, given)
    sampler = script_util.choose_sampler(given, preset, stored, flags["diffusion_steps"])
    (unet,) = configs_from_flags(flags, UNetConfig)
    return Model(segmenter.spaced(sampler), flags, sampler, unet)


def make_ready(model, config, how, total, processes):
    """Put the model on the device for `total` masks.

    Returns the config with the number of masks in flight, and lines to report.
    """
    device.prepare(model.segmenter.eval(), how, processes.device)
    one_call, size, most = partial(model.segmenter.one_call, config=model.sampler), config.batch_size, max(total, 1)
    if size == "auto":
        size = device.fitting_batch_size(one_call, model.image_shape, processes.device, most)
    if how.compile:
        size = min(size, most)
        device.compile_model(model.segmenter)
        if config.batch_size == "auto":
            size = device.running_batch_size(one_call, model.image_shape, processes.device, size)
    lines = [] if how.compile else settle_threads(model, one_call, size, total, processes)
    return replace(config, batch_size=size), lines


def settle_threads(model, one_call, size, total, processes):
    """As in training, by the time of a network call, where so many follow that it pays; returns lines to report."""
    alone = processes.device.type == "cpu" and processes.world_size == 1 and usable_cores() > 1
    if not alone or threads.set_by_user() or total * model.segmenter.num_timesteps / size < TIMED_CALLS:
        return []
    image = torch.zeros(size, *model.image_shape)
    with torch.inference_mode():
        return [threads.settle_by_time(lambda: one_call(image), usable_cores())]


def draw(model, dataset, mine, settings, processes, made_by):
    """Draw and write the ensembles of those cases numbered `mine` that are not finished yet.

    made_by  hash of the checkpoint
    """
    config, how = settings.sampling, settings.how
    chain = model.sampler if METHODS[model.flags["method"]].has_chain else None
    drawn_by = identity(config, chain, model.segmenter.num_timesteps, how.amp, model.flags, made_by)
    finished_by = finish(config, settings.postprocess)
    unnamed = default_flags(SamplerConfig, DataConfig, *MODEL_CONFIGS)
    left = store.unfinished(dataset, mine, config, drawn_by, finished_by, unnamed)

    auto, total = config.batch_size == "auto", len(left) * config.num_ensemble
    smaller = "give a smaller one" if auto else "give a smaller one, or auto"
    none_fits = "not one mask fits, give --amp bf16 or free some of it"
    too_much = f"--batch_size {config.batch_size} is too much, {smaller}"
    with device.out_of_memory_as_error(processes.device, none_fits if auto else too_much):
        config, lines = make_ready(model, config, how, total, processes)
    if processes.is_main:
        begins = f"{len(left)} of {len(mine)} cases to draw, {config.batch_size} masks at a time, into {config.out_dir}"
        for line in (*dataset.notes, *script_util.advice(model.segmenter, model.sampler), *lines, begins):
            tqdm.write(line)
    writers = max(1, min(CaseWriter.MOST, usable_cores() // processes.local_size))
    write = partial(store.write_case, config.out_dir, drawn_by=drawn_by, finished_by=finished_by)
    with (
        tqdm(total=total, unit="mask", dynamic_ncols=True, disable=not processes.is_main) as bar,
        device.out_of_memory_as_error(processes.device, f"--batch_size {config.batch_size} is too much, {smaller}"),
        CaseWriter(write, writers, -(-config.batch_size // config.num_ensemble)) as writer,
        open_windows(settings.visdom, processes.is_main, tqdm.write) as windows,
    ):
        watch = ChainWatch(model.segmenter.num_timesteps, config.movie, windows, settings.postprocess)
        for case, samples in draw_ensembles(
            model.segmenter, dataset, left, config, model.sampler, bar.update, even=how.compile, watch=watch
        ):
            writer(case, samples, frames=watch.case_done(case, samples))


def main(argv=None):
    with command_line.one_line_errors():
        given, preset = command_line.parse_command_line(CONFIGS, __doc__, argv, PRESETS)
        configs = configs_from_flags(given, SampleConfig, ComputeConfig, PostprocessConfig, VisdomConfig)
        settings, config = Settings(*configs), configs[0]
        check_flags(config)
        model = load_model(config, given, preset)
        (data_config,) = configs_from_flags(model.flags, DataConfig)
        dataset = LIDCDataset(
            config.data_dir, model.unet.image_size, model.unet.image_channels, data_config, require_raters=False
        )

        # The processes wait for each other only to score the samples: NCCL, which takes memory of the GPU, is not needed.
        processes = Processes(timeout=timedelta(days=7), backend="gloo")
        processes.check_cards()
        threads.share_cores(processes.local_size)
        os.makedirs(config.out_dir, exist_ok=True)

        chosen = range(len(dataset))[: config.num_samples]
        mine = chosen[processes.rank :: processes.world_size]
        draw(model, dataset, mine, settings, processes, fingerprint(config.model_path))
        if config.evaluate:
            with processes:
                processes.barrier()
            if processes.is_main:
                names = {dataset.ids[index] for index in chosen}
                evaluate(EvaluateConfig(config.data_dir, config.out_dir), {}, names)


if __name__ == "__main__":
    main()
