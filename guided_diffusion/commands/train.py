"""Train on a folder of cases.

    python scripts/segmentation_train.py --preset demo --data_dir data/training

On several GPUs, with the paper's flags:

    torchrun --nproc_per_node=2 scripts/segmentation_train.py --preset cimd --data_dir data/training
"""

import os
from collections.abc import Sequence
from typing import Any

import torch

from .. import script_util
from ..data.augmentation import check_augment
from ..data.config import DataConfig
from ..data.described import with_classes, with_intensity_range
from ..data.files.dataset_json import read_dataset_file
from ..dist_util import Processes
from ..errors import ConfigError, DataError
from ..flags import command_line
from ..flags.classes import parse_classes
from ..flags.configs import Configs, default_flags
from ..flags.rules import check_rules
from ..lidcloader import LIDCDataset
from ..methods.registry import MODEL_CONFIGS, PRESETS
from ..sampling.samplers import SamplerConfig
from ..system import folders, storage
from ..system.device import ComputeConfig, check_compiler, keep_freed_memory, out_of_memory_as_error
from ..system.precision import advise_on_precision
from ..train_util import Trainer
from ..training.config import TrainConfig, check_log_dir, check_num_cases, check_processes
from ..training.run_log import open_logger, run_header
from ..training.start import Start, check_cases, check_start, find_start, reading_of
from ..training.thread_choice import settle_threads
from ..training.validation import ValidationConfig, Validator
from ..unet import UNetConfig
from ..visualize.connection import VisdomConfig
from ..visualize.windows import open_windows

CONFIGS = (TrainConfig, ValidationConfig, ComputeConfig, SamplerConfig, VisdomConfig, DataConfig, *MODEL_CONFIGS)


def check_flags(configs: Configs) -> None:
    """ConfigError: a flag is invalid; checks what is possible without reading files."""
    check_rules(configs)
    script_util.check_model(configs)
    check_log_dir(configs[TrainConfig])
    if configs[ComputeConfig].compile:
        check_compiler()


def flags_to_store(configs: Configs) -> dict[str, Any]:
    """{name: JSON-like value} of all flags, as stored in checkpoints."""
    config, flags = configs[TrainConfig], configs.flags()
    if not storage.is_remote(config.log_dir):
        flags["data_dir"] = folders.relative(config.data_dir, config.log_dir)  # so that both can be moved together
    return flags


def with_stated(configs: Configs) -> Configs:
    """The configs with what the training cases state: the classes and, unless the flag is given, intensity range."""
    directory = configs[TrainConfig].data_dir
    if not directory or not os.path.exists(directory):  # opening the cases names the fault
        return configs
    given = configs[DataConfig].class_set
    data = with_classes(configs[DataConfig], directory)
    if "classes" in configs.given and not given.plain and given != data.class_set:
        raise ConfigError(
            f"--classes {','.join(configs[DataConfig].classes)} contradicts the cases, which state "
            f"{','.join(data.classes)}: remove the flag"
        )
    if "intensity_range" not in configs.given:
        data = with_intensity_range(data, read_dataset_file(directory))
    return configs.replace(**{name: getattr(data, name) for name in ("intensity_range", "classes", "ignore_label")})


def find_checkpoint(configs: Configs, world_size: int) -> Start:
    """The result of find_start; the checkpoint may have any number of the channels that the flags leave open.

    The levels of the classes follow from the cases, so `check_cases` compares them.
    """
    left_open = script_util.open_channels(configs) | {"classes"}
    flags = {name: value for name, value in flags_to_store(configs).items() if name not in left_open}
    return find_start(configs, flags, world_size)


def open_cases(configs: Configs, start: Start) -> tuple[Configs, LIDCDataset]:
    """The training cases, and the configs with the levels of their classes, and with the channels of the checkpoint.

    Without a checkpoint the channels are those of the cases.
    """
    if start.checkpoint is not None:
        stored = {**default_flags(*configs.classes), **start.checkpoint.flags}
        configs = script_util.settle_channels(configs, stored)
    dataset = open_dataset(configs, configs[TrainConfig].data_dir)
    if start.checkpoint is not None:
        trained_on = parse_classes(start.checkpoint.flags.get("classes", ()))
        script_util.check_classes(start.path, trained_on, dataset)
    else:
        configs = script_util.settle_channels(configs, dataset.num_planes)
    return configs.replace(classes=dataset.facts.classes), dataset


def open_dataset(configs: Configs, folder: str) -> LIDCDataset:
    """The cases of a folder as the network takes them. DataError: some are broken, or their planes do not fit."""
    unet, cache = configs[UNetConfig], configs[TrainConfig].cache_dir or folders.user_cache()
    dataset = LIDCDataset(folder, unet.image_size, unet.image_channels, configs[DataConfig], cache_dir=cache)
    script_util.check_planes(configs, dataset)
    return dataset


def check_dataset(config: TrainConfig, dataset: LIDCDataset, world_size: int) -> None:
    """ConfigError, DataError: the run cannot train on these cases."""
    check_num_cases(config, len(dataset), world_size)
    check_augment(config.augment, dataset.colour)
    dataset.check_trainable()


def open_validation(configs: Configs, dataset: LIDCDataset) -> LIDCDataset | None:
    """The cases to validate on, if any. DataError: they have other classes, or are some of the training cases."""
    folder = configs[ValidationConfig].eval_data_dir
    if not folder:
        return None
    eval_dataset = open_dataset(configs, folder)
    script_util.check_classes(f"--data_dir {configs[TrainConfig].data_dir}", dataset.classes, eval_dataset)
    check_validation(dataset, eval_dataset)
    return eval_dataset


def check_validation(dataset: LIDCDataset, eval_dataset: LIDCDataset) -> None:
    """DataError: some of the cases to validate on, found by links, are also trained on; all of them may be."""
    trained, validated = dataset.real_folders, eval_dataset.real_folders
    if trained != validated and (shared := sorted(trained & validated)):
        raise DataError(
            f"{len(shared)} of the {len(validated)} cases of --eval_data_dir are also in --data_dir, e.g. {shared[0]}: "
            "validate on other cases"
        )


def notes_of(dataset: LIDCDataset | None) -> list[str]:
    """Lines to log on the cases to validate on."""
    return [f"validation cases: {note}" for note in dataset.notes] if dataset is not None else []


def warnings_of(start: Start, dataset: LIDCDataset) -> list[str]:
    """Lines to log where a run starts from another run's checkpoint, whose cases were read by older rules."""
    if start.checkpoint is None or start.own:
        return []
    return script_util.warnings_on_reading(script_util.reading_rules_of(start.checkpoint), dataset)


def open_validator(configs: Configs, dataset: LIDCDataset, processes: Processes, reading: int) -> Validator:
    """Create the run's Validator on the cases of `dataset`; reading is that of the run."""
    config = configs[TrainConfig]
    options = (configs[ValidationConfig], configs[SamplerConfig], processes, config.seed, config.batch_size)
    return Validator(dataset, *options, shared=not config.shard, reading=reading)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        configs = command_line.parse_command_line(CONFIGS, __doc__, argv, PRESETS)
        script_util.refuse_foreign_flags(configs.given, configs)
        check_flags(configs)
        train(configs)


def train(configs: Configs) -> None:
    """Train with one config object per class in CONFIGS.

    All checks that can fail run before the processes connect.
    """
    config, how = configs[TrainConfig], configs[ComputeConfig]
    configs = with_stated(configs)
    processes = Processes()
    check_processes(config, processes.world_size)
    precision = advise_on_precision(how, processes.device)
    keep_freed_memory(processes.device)
    lock = storage.FolderLock(config.log_dir, enabled=processes.is_main)
    lock.take()  # before reading an existing folder
    start = find_checkpoint(configs, processes.world_size)
    configs, dataset = open_cases(configs, start)
    unet, flags = configs[UNetConfig], flags_to_store(configs)
    torch.manual_seed(config.seed)  # for the initial weights
    segmenter = script_util.create_segmenter(configs)
    check_start(segmenter, start)
    check_dataset(config, dataset, processes.world_size)
    check_cases(start, flags, dataset)
    eval_dataset = open_validation(configs, dataset)
    folders.check_writable(config.log_dir, "log_dir")
    lock.take()

    remedy = "use a smaller --microbatch, --use_checkpoint True or --amp bf16"
    image_shape = (unet.channels, *unet.size)
    with lock, out_of_memory_as_error(processes.device, remedy), processes:
        lines = settle_threads(segmenter, image_shape, config, how, processes, start)
        reading = reading_of(start, dataset)
        validator = open_validator(configs, eval_dataset, processes, reading) if eval_dataset is not None else None
        windows = open_windows(configs[VisdomConfig], processes.is_main, lambda line: logger.info(line))
        header = run_header(configs, processes.device)
        logger = open_logger(segmenter, config, processes, start, validator, header)
        for line in (*lines, *precision, *warnings_of(start, dataset), *notes_of(eval_dataset)):
            logger.info(line)
        parts = (segmenter, dataset, config, processes, flags, start)
        trainer = Trainer(*parts, validator=validator, how=how, logger=logger, windows=windows)
        del start, parts  # frees the checkpoint's tensors, which the trainer has copied
        trainer.run()


if __name__ == "__main__":
    main()
