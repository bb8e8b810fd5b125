"""Train on a folder of cases.

    python scripts/segmentation_train.py --preset demo --data_dir data/training

On several GPUs, with the paper's flags:

    torchrun --nproc_per_node=2 scripts/segmentation_train.py --preset cimd --data_dir data/training
"""

import os
from collections.abc import Sequence

import torch

from .. import script_util
from ..data.case_cache import default_cache_dir
from ..data.case_reader import DataConfig
from ..dist_util import Processes
from ..flags import command_line
from ..flags.configs import Configs
from ..flags.rules import check_rules
from ..lidcloader import LIDCDataset
from ..methods.registry import MODEL_CONFIGS, PRESETS
from ..sampling.samplers import SamplerConfig
from ..system import storage
from ..system.device import ComputeConfig, check_compiler, out_of_memory_as_error
from ..train_util import Trainer
from ..training.config import TrainConfig, check_log_dir, check_num_cases, check_processes
from ..training.run_log import open_logger, run_header
from ..training.start import check_cases, check_start, find_start
from ..training.thread_choice import settle_threads
from ..training.validation import ValidationConfig, Validator
from ..unet import UNetConfig
from ..visualize.connection import VisdomConfig
from ..visualize.windows import open_windows

CONFIGS = (TrainConfig, ValidationConfig, ComputeConfig, SamplerConfig, VisdomConfig, DataConfig, *MODEL_CONFIGS)


def check_flags(configs: Configs) -> None:
    """ConfigError: a flag is invalid; checks what is possible without reading files."""
    check_rules(configs)
    check_log_dir(configs[TrainConfig])
    if configs[ComputeConfig].compile:
        check_compiler()


def open_datasets(configs: Configs) -> list[LIDCDataset]:
    """The training cases and, if given, the validation cases."""
    config, unet = configs[TrainConfig], configs[UNetConfig]
    folders = [folder for folder in (config.data_dir, configs[ValidationConfig].eval_data_dir) if folder]
    cache = config.cache_dir or default_cache_dir()
    shape = (unet.image_size, unet.image_channels)
    return [LIDCDataset(folder, *shape, configs[DataConfig], cache_dir=cache) for folder in folders]


def open_validator(configs: Configs, dataset: LIDCDataset, processes: Processes) -> Validator:
    """Create the run's Validator on the cases of `dataset`."""
    config = configs[TrainConfig]
    options = (configs[ValidationConfig], configs[SamplerConfig], processes, config.seed, config.batch_size)
    return Validator(dataset, *options, shared=not config.shard)


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
    config, how, unet = configs[TrainConfig], configs[ComputeConfig], configs[UNetConfig]
    flags = configs.flags()  # to store
    if not storage.is_remote(config.log_dir):
        flags["data_dir"] = os.path.relpath(config.data_dir, config.log_dir)  # so that both can be moved together
    processes = Processes()
    check_processes(config, processes.world_size)
    torch.manual_seed(config.seed)  # for the initial weights
    segmenter = script_util.create_segmenter(configs)
    lock = storage.FolderLock(config.log_dir, enabled=processes.is_main)
    lock.take()  # before reading an existing folder
    start = find_start(configs, flags, processes.world_size)
    check_start(segmenter, start)
    dataset, *eval_dataset = open_datasets(configs)
    check_num_cases(config, len(dataset), processes.world_size)
    check_cases(start, flags, dataset.fingerprint)
    storage.make_folder(config.log_dir)
    lock.take()

    remedy = "use a smaller --microbatch, --use_checkpoint True or --amp bf16"
    image_shape = (unet.image_channels, unet.image_size, unet.image_size)
    with lock, out_of_memory_as_error(processes.device, remedy), processes:
        lines = settle_threads(segmenter, image_shape, config, how, processes, start)
        validator = open_validator(configs, eval_dataset[0], processes) if eval_dataset else None
        windows = open_windows(configs[VisdomConfig], processes.is_main, lambda line: logger.info(line))
        header = run_header(configs, processes.device)
        logger = open_logger(segmenter, config, processes, start, validator, header)
        for line in lines:
            logger.info(line)
        parts = (segmenter, dataset, config, processes, flags, start)
        trainer = Trainer(*parts, validator=validator, how=how, logger=logger, windows=windows)
        del start, parts  # frees the checkpoint's tensors, which the trainer has copied
        trainer.run()


if __name__ == "__main__":
    main()
