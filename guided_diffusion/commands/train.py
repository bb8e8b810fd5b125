"""Train on a folder of cases:

    python scripts/segmentation_train.py --preset demo --data_dir data/training

On several GPUs, with the paper's flags:

    torchrun --nproc_per_node=2 scripts/segmentation_train.py --preset cimd --data_dir data/training
"""

import os

import torch
from tqdm import tqdm

from .. import script_util
from ..data.case_cache import default_cache_dir
from ..data.case_reader import DataConfig
from ..dist_util import Processes
from ..errors import ConfigError
from ..flags import command_line
from ..flags.fields import configs_from_flags, default_flags, flags_from_configs
from ..lidcloader import LIDCDataset
from ..methods.registry import MODEL_CONFIGS, PRESETS
from ..sampling.samplers import SamplerConfig
from ..system import storage
from ..system.device import ComputeConfig, check_compiler, out_of_memory_as_error
from ..train_util import Trainer
from ..training.config import TrainConfig, check_num_cases, check_processes, check_train_config
from ..training.start import check_cases, find_start, load_start
from ..training.thread_choice import settle_threads
from ..training.validation import ValidationConfig, Validator, check_validation_config
from ..visualize.connection import VisdomConfig
from ..visualize.windows import open_windows

CONFIGS = (TrainConfig, ValidationConfig, ComputeConfig, SamplerConfig, VisdomConfig, DataConfig, *MODEL_CONFIGS)


def check_flags(given, config, validation, how):
    """Refuse, by its name, a flag that can be refused without reading a file."""
    check_train_config(config)
    check_validation_config(validation, given)
    if how.compile:
        check_compiler()
    if {"ema_rate", "ema_halflife"} <= given.keys():
        raise ConfigError("--ema_rate and --ema_halflife contradict: give one of them")
    if given.get("stable_target") and config.raters_per_image == 1:
        raise ConfigError(
            "--stable_target True wants --raters_per_image of at least 2: one mask of an image is its own mean"
        )
    if not config.data_dir:
        raise ConfigError("--data_dir is missing: name the folder of cases to train on")


def open_datasets(config, validation, unet, data_config):
    """The cases to train on, and then, if they are given, those to validate on."""
    folders = [folder for folder in (config.data_dir, validation.eval_data_dir) if folder]
    cache = config.cache_dir or default_cache_dir()
    return [
        LIDCDataset(folder, unet.image_size, unet.image_channels, data_config, cache_dir=cache) for folder in folders
    ]


def main(argv=None):
    with command_line.one_line_errors():
        given, preset = command_line.parse_command_line(CONFIGS, __doc__, argv, PRESETS)
        script_util.check_flags({**preset, **given})
        script_util.refuse_classes(given)
        configs = configs_from_flags({**preset, **given}, *CONFIGS)
        script_util.refuse_foreign_flags({**preset, **given}, given)
        check_flags(given, *configs[:3])
        flags = flags_from_configs(*configs)
        train(configs, flags)


def train(configs, flags):
    """Train with one config object of each class of CONFIGS, which `flags` holds too, {name: value}.

    Everything that can be refused is, before the processes meet.
    """
    config, validation, how, sampler, visdom, data_config, _, unet = configs[:8]
    if not storage.is_remote(config.log_dir):
        flags["data_dir"] = os.path.relpath(config.data_dir, config.log_dir)  # both may move together
    processes = Processes()
    check_processes(config, processes.world_size)
    torch.manual_seed(config.seed)  # of the initial weights
    segmenter = script_util.create_segmenter(flags)
    lock = storage.FolderLock(config.log_dir, wanted=processes.is_main)
    lock.take()  # before it is read, where it is there
    start = find_start(config, flags, processes.world_size, default_flags(*CONFIGS))
    load_start(segmenter, start)
    dataset, *eval_dataset = open_datasets(config, validation, unet, data_config)
    check_num_cases(config, len(dataset), processes.world_size)
    check_cases(start, config, flags, dataset.fingerprint)
    storage.make_folder(config.log_dir)
    lock.take()

    remedy = "give a smaller --microbatch, --use_checkpoint True or --amp bf16"
    image_shape = (unet.image_channels, unet.image_size, unet.image_size)
    with lock, out_of_memory_as_error(processes.device, remedy), processes:
        start = (*start[:2], start[2] + settle_threads(segmenter, image_shape, config, how, processes, start))
        validators = [
            Validator(d, validation, sampler, processes, config.seed, config.batch_size, not config.shard)
            for d in eval_dataset
        ]
        windows = open_windows(visdom, processes.is_main, tqdm.write)
        trainer = Trainer(segmenter, dataset, config, processes, flags, start, *validators, how=how, windows=windows)
        del start  # all of its tensors, of which the trainer has its own by now
        trainer.run()


if __name__ == "__main__":
    main()
