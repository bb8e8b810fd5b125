"""Draw an ensemble of masks for every case in a folder.

    python scripts/segmentation_sample.py --data_dir data/testing --model_path results/savedmodel.pt --fast

Several processes share the cases:

    torchrun --nproc_per_node=2 scripts/segmentation_sample.py --data_dir data/testing --model_path MODEL.pt

A checkpoint stores its model flags. Checkpoints of the published code do not: give theirs on the command line.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

import torch
from tqdm import tqdm

from .. import script_util
from ..checkpoints.files import fingerprint
from ..data.config import DataConfig
from ..data.files.case_files import is_image, list_files
from ..dist_util import Processes
from ..errors import ConfigError, DataError
from ..evaluation.case_figures import EvaluateConfig
from ..evaluation.summary import evaluate
from ..flags import command_line
from ..flags.configs import Configs, pick_flags
from ..lidcloader import LIDCDataset
from ..masks.postprocess import PostprocessConfig
from ..methods.registry import METHODS, MODEL_CONFIGS, PRESETS, MethodConfig
from ..sampling import store
from ..sampling.config import SampleConfig, finish, identity
from ..sampling.draw import draw_ensembles
from ..sampling.names import check_names
from ..sampling.protocol import Segmenter
from ..sampling.samplers import SamplerConfig
from ..sampling.watch import ChainWatch
from ..sampling.writer_pool import CaseWriter
from ..system import device, folders, threads
from ..system.device import ComputeConfig
from ..system.precision import advise_on_precision
from ..system.progress import progress_bar
from ..system.workers import usable_cores
from ..unet import UNetConfig
from ..visualize.connection import VisdomConfig
from ..visualize.windows import open_windows

CONFIGS = (SampleConfig, SamplerConfig, ComputeConfig, PostprocessConfig, VisdomConfig, DataConfig, *MODEL_CONFIGS)
TIMED_CALLS = 100  # fewest network calls for which timing different numbers of threads pays off


OF_PRESETS = (SamplerConfig, DataConfig, *MODEL_CONFIGS)  # a preset's other flags are those of training


@dataclass(frozen=True)
class Model:
    """A trained segmenter, ready to sample from."""

    segmenter: Segmenter  # on the timesteps of `sampler`
    configs: Configs  # its data and model flags
    sampler: SamplerConfig
    reading: int  # version of the reading rules of its training

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[C, H, W]."""
        unet = self.configs[UNetConfig]
        return unet.channels, *unet.size


def check_flags(config: SampleConfig) -> None:
    """ConfigError: the flags are invalid, whatever the files contain."""
    if config.evaluate and os.path.isfile(config.data_dir):
        remedy = "remove it" if is_image(config.data_dir) else "score the samples with segmentation_evaluate.py"
        raise ConfigError(f"--evaluate needs a folder of cases, and --data_dir {config.data_dir} is a file: {remedy}")


def load_model(flags: Configs) -> Model:
    """The checkpoint's Model; its sampler comes from the flags given, else the preset, else the checkpoint."""
    config = flags[SampleConfig]
    named = pick_flags({**flags.preset, **flags.given}, DataConfig, *MODEL_CONFIGS)
    loaded = script_util.load_segmenter(config.model_path, named, config.weights)
    script_util.refuse_foreign_flags(flags.given, loaded.configs)
    sampler = script_util.choose_sampler(flags, loaded.configs, loaded.sampler)
    return Model(loaded.segmenter.spaced(sampler), loaded.configs, sampler, loaded.reading)


def make_ready(
    model: Model, config: SampleConfig, how: ComputeConfig, total: int, processes: Processes
) -> tuple[int, list[str]]:
    """Move the model to the device, to draw `total` masks. Returns the batch size and lines to report."""
    device.prepare(model.segmenter.eval(), how, processes.device)
    one_call, most = partial(model.segmenter.one_call, config=model.sampler), max(total, 1)
    if config.batch_size == "auto":
        size = device.fitting_batch_size(one_call, model.image_shape, processes.device, most)
    else:
        size = config.batch_size
    if how.compile:
        size = min(size, most)
        device.compile_model(model.segmenter)
        if config.batch_size == "auto":
            size = device.running_batch_size(one_call, model.image_shape, processes.device, size)
    lines = [] if how.compile else settle_threads(model, one_call, size, total, processes)
    return size, lines


def settle_threads(
    model: Model, one_call: Callable[[torch.Tensor], object], size: int, total: int, processes: Processes
) -> list[str]:
    """Choose the number of threads by timing a network call, if enough calls follow. Returns lines to report."""
    alone = processes.device.type == "cpu" and processes.world_size == 1 and usable_cores() > 1
    if not alone or threads.set_by_user() or total * model.segmenter.num_timesteps / size < TIMED_CALLS:
        return []
    image = torch.zeros(size, *model.image_shape)
    with torch.inference_mode():
        return [threads.settle_by_time(lambda: one_call(image), usable_cores())]


def scored_cases(dataset: LIDCDataset, chosen: Sequence[int]) -> tuple[list[str], list[str]]:
    """The names of the chosen cases that have labels, and lines to report. DataError: none has any."""
    with_labels = [index for index in chosen if list_files(dataset.folders[index][1]).labels]
    if not with_labels:
        raise DataError(
            f"{dataset.directory}: none of the cases has labels, which --evaluate needs: remove it, or add labels"
        )
    without = len(chosen) - len(with_labels)
    lines = [f"{without} of {len(chosen)} cases have no labels and are not scored"] if without else []
    return [dataset.ids[index] for index in with_labels], lines


def lines_on_size(dataset: LIDCDataset, postprocess: PostprocessConfig) -> list[str]:
    """A line to report if the masks cannot have the size of their image."""
    if postprocess.output_size == "network" or dataset[0].geometry is not None:
        return []
    return [
        f"{dataset.directory}: packed by an earlier version, without the sizes of the images, so masks have the "
        "network's size; pack the cases again for masks that fit them"
    ]


def draw(
    model: Model, dataset: LIDCDataset, mine: Sequence[int], flags: Configs, processes: Processes, made_by: str
) -> None:
    """Draw and write the ensembles of the unfinished cases among those numbered `mine`.

    made_by  hash of the checkpoint
    """
    config, how = flags[SampleConfig], flags[ComputeConfig]
    chain = model.sampler if METHODS[model.configs[MethodConfig].method].has_chain else None
    settings = (config, chain, model.segmenter.num_timesteps, how.amp, model.configs.flags(), made_by)
    drawn_by = identity(*settings, reading=dataset.reading)
    finished_by = finish(config, flags[PostprocessConfig], model.configs[DataConfig].class_set)
    rewritten: list[str] = []
    classes = (SamplerConfig, *model.configs.classes)
    left = store.unfinished(dataset, mine, config, drawn_by, finished_by, classes, on_rewrite=rewritten.append)

    write = partial(store.write_case, config.out_dir, drawn_by=drawn_by, finished_by=finished_by)
    if processes.is_main:
        if rewritten:
            tqdm.write(f"masks of {len(rewritten)} cases written again from their samples")
        if left or not rewritten:
            tqdm.write(progress_line(len(left), len(mine), config.out_dir, processes))
    if left:
        draw_left(model, dataset, left, flags, processes, write)


def progress_line(left: int, total: int, out_dir: str, processes: Processes) -> str:
    """How many of this process's cases remain to be drawn."""
    if left:
        return f"{left} of {total} cases to draw, into {out_dir}"
    share = "" if processes.world_size == 1 else " of this process"
    return f"nothing to do: all {total} cases{share} are drawn, in {out_dir}"


def draw_left(
    model: Model,
    dataset: LIDCDataset,
    left: Sequence[int],
    flags: Configs,
    processes: Processes,
    write: Callable[..., None],
) -> None:
    """Draw the ensembles of the cases numbered `left`; `write` writes each."""
    config, how = flags[SampleConfig], flags[ComputeConfig]
    auto, total = config.batch_size == "auto", len(left) * config.num_ensemble
    smaller = "use a smaller one" if auto else "use a smaller one, or auto"
    none_fits = "a single mask does not fit; use --amp bf16 or free some memory"
    too_much = f"--batch_size {config.batch_size} is too large; {smaller}"
    with device.out_of_memory_as_error(processes.device, none_fits if auto else too_much):
        size, lines = make_ready(model, config, how, total, processes)
    if processes.is_main:
        advice = script_util.advice(model.segmenter, model.sampler)
        warnings = script_util.warnings_on_reading(model.reading, dataset)
        for line in (*dataset.notes, *warnings, *advice, *lines, f"batch size {size}"):
            tqdm.write(line)
    writers = max(1, min(CaseWriter.MOST, usable_cores() // processes.local_size))
    with (
        progress_bar(total=total, unit="mask", shown=processes.is_main) as bar,
        device.out_of_memory_as_error(processes.device, f"--batch_size {size} is too large; {smaller}"),
        CaseWriter(write, writers, -(-size // config.num_ensemble)) as writer,
        open_windows(flags[VisdomConfig], processes.is_main, tqdm.write) as windows,
    ):
        shown = (windows, flags[PostprocessConfig], model.configs[DataConfig].class_set)
        watch = ChainWatch(model.segmenter.num_timesteps, config.movie, *shown)
        drawn, index_of = replace(config, batch_size=size), {dataset.ids[index]: index for index in left}
        for case, samples in draw_ensembles(
            model.segmenter, dataset, left, drawn, model.sampler, bar.update, even=how.compile, watch=watch
        ):
            own = partial(dataset.own_arrays, index_of[case.id])
            writer(case, samples, frames=watch.case_done(case, samples), own=own)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        presets = {name: pick_flags(preset, *OF_PRESETS) for name, preset in PRESETS.items()}
        flags = command_line.parse_command_line(CONFIGS, __doc__, argv, presets)
        config = flags[SampleConfig]
        check_flags(config)
        model = load_model(flags)
        unet = model.configs[UNetConfig]
        dataset = LIDCDataset(
            config.data_dir, unet.image_size, unet.channels, model.configs[DataConfig], require_raters=False
        )

        script_util.check_planes(model.configs, dataset)
        script_util.check_classes(config.model_path, model.configs[DataConfig].class_set, dataset)
        # The processes synchronise only to score the samples, which does not need NCCL and its GPU memory.
        processes = Processes(timeout=timedelta(days=7), backend="gloo")
        processes.check_cards()
        precision = advise_on_precision(flags[ComputeConfig], processes.device)
        threads.share_cores(processes.local_size)
        device.keep_freed_memory(processes.device)
        chosen = range(len(dataset))[: config.num_samples]
        mine = chosen[processes.rank :: processes.world_size]
        scored, lines = scored_cases(dataset, chosen) if config.evaluate else ([], [])
        folders.check_writable(config.out_dir, "out_dir")
        lines += check_names(config.out_dir, [dataset.ids[index] for index in chosen])
        lines += [*lines_on_size(dataset, flags[PostprocessConfig]), *precision]
        for line in lines if processes.is_main else ():
            tqdm.write(line)
        draw(model, dataset, mine, flags, processes, fingerprint(config.model_path))
        if config.evaluate:
            with processes:
                processes.barrier()
            if processes.is_main:
                evaluate(EvaluateConfig(config.data_dir, config.out_dir), {}, scored)


if __name__ == "__main__":
    main()
