"""The flags of training, and which of them may change when a run is resumed."""

import importlib.util
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from ..errors import ConfigError
from ..flags.words import AUGMENTATIONS, split_kind
from ..system import storage

# Flags that a run may change when it continues; the others decide what it computes
FREE_FLAGS = {
    "log_interval",
    "save_interval",
    "keep",
    "iterations",
    "log_dir",
    "resume",
    "resume_checkpoint",
    "num_workers",
    "cache_dir",
    "max_bad_steps",
    "tensorboard",
    "visdom",
    "visdom_server",
    "visdom_port",
    "visdom_env",
    "visdom_log",
    "use_checkpoint",
    "eval_data_dir",
    "eval_interval",
    "eval_cases",
    "eval_ensemble",
    "eval_steps",
    "sampler",
    "steps",
    "spacing",
    "eta",
    "clip_denoised",
    "tta",
}
# These too, for they change how numbers are rounded and not what they mean; the run says so
ROUNDING_FLAGS = {"microbatch", "amp", "compile", "shard", "use_fp16"}
# What a new run from another's checkpoint may change besides how it trains: the weights and their meaning stay
NEW_RUN_FLAGS = {
    "dropout",
    "train_encoders",
    "kl_weight",
    "stable_target",
    "guess_weight",
    "label_threshold",
    "merge_labels",
    "intensity_range",
    "resize",
    "pad",
}


@dataclass(frozen=True)
class TrainConfig:
    data_dir: Annotated[str, "folder of cases to train on"] = ""
    log_dir: Annotated[str, "where the log and the checkpoints go: a folder, or gs://, az://"] = "results"
    iterations: Annotated[int, "optimizer steps in all; 0: without end"] = 60_000
    batch_size: Annotated[int, "masks per step and process"] = 1
    microbatch: Annotated[int | None, "masks at a time in memory; -1: the whole batch"] = None
    augment: Annotated[
        str,
        "change images at random: parts joined by +, of mirror, flip, rotate, deform, elastic, contrast, gamma, bias; or none",
    ] = "none"
    lr: Annotated[float, "learning rate of AdamW"] = 1e-4
    lr_anneal_steps: Annotated[int, "anneal the learning rate to 0 over so many steps, and end there; 0: do not"] = 0
    lr_shape: Annotated[Literal["linear", "cosine"], "how it falls with --lr_anneal_steps"] = "linear"
    lr_warmup_steps: Annotated[int, "raise the learning rate linearly from 0 over so many steps"] = 0
    weight_decay: Annotated[float, "decoupled weight decay of AdamW"] = 0.0
    ema_rate: Annotated[tuple[float, ...], "rates of the moving averages; samples are drawn with the first"] = (0.9999,)
    ema_halflife: Annotated[
        int, "one average that forgets half within so many masks, in place of --ema_rate; 0: --ema_rate"
    ] = 0
    raters_per_image: Annotated[int, "masks of one image, of different raters, that follow each other in a batch"] = 1
    schedule_sampler: Annotated[Literal["uniform", "loss-second-moment"], "which timesteps to train on"] = "uniform"
    max_bad_steps: Annotated[int, "stop after so many steps in a row whose loss or gradient is not finite"] = 10
    shard: Annotated[
        bool, "share weights, averages and optimizer out over the processes, for models that do not fit"
    ] = False
    log_interval: Annotated[int, "steps between two lines of the log"] = 100
    save_interval: Annotated[int, "steps between two checkpoints"] = 5000
    keep: Annotated[int | None, "numbered checkpoints that stay, the newest ones; -1: all"] = 3
    tensorboard: Annotated[bool, "write TensorBoard events too"] = False
    resume: Annotated[Literal["auto", "never"], "continue the run in log_dir, or want an empty one"] = "auto"
    resume_checkpoint: Annotated[str, "start from this checkpoint when log_dir has none"] = ""
    num_workers: Annotated[int, "processes that read cases; 0: the training process reads them itself"] = 0
    cache_dir: Annotated[str, "folder for decoded cases; empty: ambiguous-segmentation in the user's cache folder"] = ""
    seed: Annotated[int, "of everything that is random"] = 0

    @property
    def last_step(self):
        """Where the run ends; None: nowhere."""
        ends = [end for end in (self.iterations, self.lr_anneal_steps) if end > 0]
        return min(ends, default=None)

    def learning_rate(self, step):
        """The learning rate of the step after `step` done ones."""
        rate = self.lr
        if self.lr_anneal_steps:
            left = max(0.0, 1 - step / self.lr_anneal_steps)
            rate *= left if self.lr_shape == "linear" else (1 - math.cos(math.pi * left)) / 2
        return rate * min(1.0, (step + 1) / self.lr_warmup_steps) if self.lr_warmup_steps else rate

    def averages(self, masks_per_step):
        """{name: rate} of the moving averages, the one to sample with first."""
        if self.ema_halflife:
            return {f"halflife{self.ema_halflife}": 0.5 ** (masks_per_step / self.ema_halflife)}
        return {str(rate): rate for rate in self.ema_rate}


def check_train_config(config):
    """Refuse, by the flag's name, what cannot be trained with."""
    for name in ("batch_size", "log_interval", "save_interval", "max_bad_steps", "raters_per_image"):
        if getattr(config, name) < 1:
            raise ConfigError(f"--{name} {getattr(config, name)}: at least 1 is needed")
    for name in (
        "iterations",
        "lr_anneal_steps",
        "lr_warmup_steps",
        "ema_halflife",
        "num_workers",
        "seed",
        "weight_decay",
    ):
        if getattr(config, name) < 0:
            raise ConfigError(f"--{name} {getattr(config, name)}: at least 0 is needed")
    if config.seed >= 2**63:
        raise ConfigError(f"--seed {config.seed}: below 2^63 is needed")
    try:
        split_kind(config.augment, AUGMENTATIONS)
    except ValueError as error:
        raise ConfigError(f"--augment {config.augment}: {error}") from None
    for name, all_of in (("microbatch", "the whole batch"), ("keep", "all")):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: at least 1 is needed, or -1 for {all_of}")
    for name in ("batch_size", "microbatch"):
        if (getattr(config, name) or 0) % config.raters_per_image:
            raise ConfigError(
                f"--{name} {getattr(config, name)}: a multiple of --raters_per_image {config.raters_per_image} is needed"
            )
    if config.lr_shape != "linear" and not config.lr_anneal_steps:
        raise ConfigError(
            f"--lr_shape {config.lr_shape} wants --lr_anneal_steps: the steps over which the learning rate falls"
        )
    if not math.isfinite(config.weight_decay):
        raise ConfigError(f"--weight_decay {config.weight_decay}: a number is needed")
    if not 0 < config.lr < math.inf:
        raise ConfigError(f"--lr {config.lr}: a positive number is needed")
    if not config.ema_rate or not all(0 <= rate < 1 for rate in config.ema_rate):
        raise ConfigError("--ema_rate: rates from 0 to below 1 are needed, e.g. 0.9999")
    if reason := storage.unknown_store(config.log_dir):
        raise ConfigError(f"--log_dir {config.log_dir}: {reason}")
    if config.tensorboard and storage.is_remote(config.log_dir):
        raise ConfigError(f"--tensorboard writes into folders only, not into --log_dir {config.log_dir}")
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError('--tensorboard needs a package: pip install "ambiguous-segmentation-diffusion[tensorboard]"')


def check_processes(config, world_size):
    """Refuse what wants more processes than there are."""
    if config.shard and world_size == 1:
        raise ConfigError("--shard wants several processes: start them with torchrun --nproc_per_node=N")


def check_num_cases(config, num_cases, world_size):
    """Refuse a step that wants more cases than there are."""
    wanted = config.batch_size // config.raters_per_image * world_size
    if wanted > num_cases:
        each = f" ({world_size} processes of --batch_size {config.batch_size})" if world_size > 1 else " (--batch_size)"
        fewer = num_cases // world_size * config.raters_per_image
        remedy = f"--batch_size {fewer}" if fewer else f"at most {num_cases} processes"
        raise ConfigError(
            f"{config.data_dir} has {num_cases} cases, fewer than the {wanted} of a step{each}: use {remedy}"
        )
