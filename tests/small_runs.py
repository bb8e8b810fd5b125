"""Runs of training in this process: the smallest network on a few cases, and what they leave behind."""

import csv

import torch
from helpers import LEAST, nonzero, segmenter_of

from guided_diffusion.dist_util import Processes
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.flags.rules import check_rules
from guided_diffusion.methods.registry import MODEL_CONFIGS
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.train_util import Trainer
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.run_log import open_logger
from guided_diffusion.training.start import find_start
from guided_diffusion.training.validation import ValidationConfig, Validator

CONFIGS = (TrainConfig, ValidationConfig, SamplerConfig, *MODEL_CONFIGS)
DEFAULTS = {
    **LEAST,
    "iterations": 6,
    "batch_size": 4,
    "log_interval": 2,
    "save_interval": 3,
    "lr": 1e-3,
    "seed": 3,
    "dropout": 0.1,
}


def train_small(dataset, **given):
    """The trainer of a run that has ended, with the flags DEFAULTS and `given`.

    It validates, on the cases that it trains on, if `eval_steps` is given.
    """
    configs = configs_from_flags({**DEFAULTS, **given}, *CONFIGS)
    config, validation, sampler = configs[TrainConfig], configs[ValidationConfig], configs[SamplerConfig]
    check_rules(configs)
    flags = configs.flags()
    start = find_start(configs, flags)
    torch.manual_seed(0)
    segmenter, processes = nonzero(segmenter_of(flags)), Processes({})
    validator = (
        Validator(dataset, validation, sampler, processes, config.seed, config.batch_size)
        if "eval_steps" in given
        else None
    )
    logger = open_logger(segmenter, config, processes, start, validator)
    trainer = Trainer(segmenter, dataset, config, processes, flags, start, validator=validator, logger=logger)
    trainer.run()
    return trainer


def rows_of(folder):
    """The rows of progress.csv."""
    with open(f"{folder}/progress.csv", newline="") as file:
        return list(csv.DictReader(file))


def learnt(trainer):
    """All that a checkpoint has but the flags."""
    content = trainer.state.checkpoint(trainer.info).content()
    return {key: value for key, value in content.items() if key != "flags"}


def same(a, b):
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
