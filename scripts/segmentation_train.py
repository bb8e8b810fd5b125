"""
Train on a folder of cases:

    python scripts/segmentation_train.py --preset demo --data_dir data/training

On several GPUs, with the paper's flags:

    torchrun --nproc_per_node=2 scripts/segmentation_train.py --preset cimd --data_dir data/training
"""

import os

import torch

from guided_diffusion import script_util
from guided_diffusion.dist_util import Processes
from guided_diffusion.lidcloader import DataConfig, LIDCDataset
from guided_diffusion.nn import ConfigError
from guided_diffusion.sampling import SamplerConfig
from guided_diffusion.train_util import TrainConfig, Trainer, check_train_config, find_start
from guided_diffusion.validation import ValidationConfig, Validator, check_validation_config

CONFIGS = (TrainConfig, ValidationConfig, SamplerConfig, DataConfig, *script_util.MODEL_CONFIGS)


def main(argv=None):
    with script_util.one_line_errors("segmentation_train.py"):
        given, preset = script_util.parse_command_line(CONFIGS, __doc__, argv)
        script_util.check_flags({**preset, **given})
        script_util.refuse_classes(given)
        configs = script_util.configs_from_flags({**preset, **given}, *CONFIGS)
        config, validation, sampler, data_config, unet = configs[:5]
        check_train_config(config)
        check_validation_config(validation)
        script_util.refuse_remote("log_dir", config.log_dir)
        if not config.data_dir:
            raise ConfigError("--data_dir is missing: name the folder of cases to train on")
        flags = script_util.flags_from_configs(*configs)
        flags["data_dir"] = os.path.relpath(config.data_dir, config.log_dir)  # both may move together

        torch.manual_seed(config.seed)  # of the initial weights
        segmenter = script_util.create_segmenter(flags)
        start = find_start(config, flags)
        folders = [folder for folder in (config.data_dir, validation.eval_data_dir) if folder]
        dataset, *eval_dataset = (LIDCDataset(f, unet.image_size, unet.image_channels, data_config) for f in folders)

        with Processes() as processes:
            validators = [Validator(d, validation, sampler, processes, config.seed, config.batch_size) for d in eval_dataset]
            Trainer(segmenter, dataset, config, processes, flags, start, *validators).run()


if __name__ == "__main__":
    main()
