"""The flags of training, and what they need of the machine and the cases."""

import importlib.util
import math
from typing import Annotated, Literal

from ..errors import ConfigError
from ..flags.fields import Flag, config, nonempty
from ..flags.words import AUGMENTATIONS, parts_of
from ..system import storage


@config(resume="new run")
class TrainConfig:
    """The training loop."""

    data_dir: Annotated[str, Flag("folder of cases to train on", required=True, resume="free")] = ""
    log_dir: Annotated[str, Flag("where the log and the checkpoints go: a folder, or gs://, az://", resume="free")] = (
        "results"
    )
    iterations: Annotated[int, Flag("optimizer steps in all; 0: without end", resume="free", at_least=0)] = 60_000
    batch_size: Annotated[int, Flag("masks per step and process", at_least=1)] = 1
    microbatch: Annotated[
        int | None, Flag("masks at a time in memory; none: the whole batch", none="none", resume="rounding", at_least=1)
    ] = None
    augment: Annotated[
        str,
        Flag(
            "change images at random: parts joined by +, of mirror, flip, rotate, deform, elastic, contrast, gamma, "
            "bias; or none",
            check=parts_of(AUGMENTATIONS),
        ),
    ] = "none"
    lr: Annotated[float, Flag("learning rate of AdamW", above=0)] = 1e-4
    lr_anneal_steps: Annotated[
        int, Flag("anneal the learning rate to 0 over this many steps, and end there; 0: do not", at_least=0)
    ] = 0
    lr_shape: Annotated[Literal["linear", "cosine"], Flag("how it falls with --lr_anneal_steps")] = "linear"
    lr_warmup_steps: Annotated[
        int, Flag("raise the learning rate linearly from 0 over this many steps", at_least=0)
    ] = 0
    weight_decay: Annotated[float, Flag("decoupled weight decay of AdamW", at_least=0)] = 0.0
    ema_rate: Annotated[
        tuple[float, ...],
        Flag("rates of the moving averages; samples are drawn with the first", at_least=0, below=1, check=nonempty),
    ] = (0.9999,)
    raters_per_image: Annotated[
        int, Flag("masks of one image, of different raters, that follow each other in a batch", at_least=1)
    ] = 1
    schedule_sampler: Annotated[Literal["uniform", "loss-second-moment"], Flag("which timesteps to train on")] = (
        "uniform"
    )
    max_bad_steps: Annotated[
        int, Flag("stop after this many steps in a row whose loss or gradient is not finite", resume="free", at_least=1)
    ] = 10
    shard: Annotated[
        bool,
        Flag("shard weights, averages and optimizer over the processes, for models that do not fit", resume="rounding"),
    ] = False
    log_interval: Annotated[int, Flag("steps between two lines of the log", resume="free", at_least=1)] = 100
    save_interval: Annotated[int, Flag("steps between two checkpoints", resume="free", at_least=1)] = 5000
    keep: Annotated[
        int | None, Flag("how many of the newest numbered checkpoints stay", none="all", resume="free", at_least=1)
    ] = 3
    tensorboard: Annotated[bool, Flag("write TensorBoard events too", resume="free")] = False
    resume: Annotated[
        Literal["auto", "never"], Flag("continue the run in log_dir, or require an empty one", resume="free")
    ] = "auto"
    resume_checkpoint: Annotated[str, Flag("start from this checkpoint when log_dir has none", resume="free")] = ""
    num_workers: Annotated[
        int, Flag("processes that read cases; 0: the training process reads them itself", resume="free", at_least=0)
    ] = 0
    cache_dir: Annotated[
        str, Flag("folder for decoded cases; empty: ambiguous-segmentation in the user's cache folder", resume="free")
    ] = ""
    seed: Annotated[int, Flag("seed of everything that is random", at_least=0, below=2**63)] = 0

    @property
    def last_step(self) -> int | None:
        """Where the run ends; None: nowhere."""
        ends = [end for end in (self.iterations, self.lr_anneal_steps) if end > 0]
        return min(ends, default=None)

    @property
    def averages(self) -> dict[str, float]:
        """{name: rate} of the moving averages, the one to sample with first."""
        return {str(rate): rate for rate in self.ema_rate}

    def learning_rate(self, step: int) -> float:
        """The learning rate of the step that follows `step` completed ones."""
        rate = self.lr
        if self.lr_anneal_steps:
            left = max(0.0, 1 - step / self.lr_anneal_steps)
            rate *= left if self.lr_shape == "linear" else (1 - math.cos(math.pi * left)) / 2
        return rate * min(1.0, (step + 1) / self.lr_warmup_steps) if self.lr_warmup_steps else rate


def check_log_dir(config: TrainConfig) -> None:
    """ConfigError: the log cannot be written where, or as, the flags say."""
    if reason := storage.unknown_store(config.log_dir):
        raise ConfigError(f"--log_dir {config.log_dir}: {reason}")
    if config.tensorboard and storage.is_remote(config.log_dir):
        raise ConfigError(f"--tensorboard writes into folders only, not into --log_dir {config.log_dir}")
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError('--tensorboard needs a package: pip install "ambiguous-segmentation-diffusion[tensorboard]"')


def check_processes(config: TrainConfig, world_size: int) -> None:
    """ConfigError: the run needs more processes than there are."""
    if config.shard and world_size == 1:
        raise ConfigError("--shard needs several processes: start them with torchrun --nproc_per_node=N")


def check_num_cases(config: TrainConfig, num_cases: int, world_size: int) -> None:
    """ConfigError: a step needs more cases than there are."""
    needed = config.batch_size // config.raters_per_image * world_size
    if needed > num_cases:
        each = f" ({world_size} processes of --batch_size {config.batch_size})" if world_size > 1 else " (--batch_size)"
        fewer = num_cases // world_size * config.raters_per_image
        remedy = f"--batch_size {fewer}" if fewer else f"at most {num_cases} processes"
        raise ConfigError(
            f"{config.data_dir} has {num_cases} cases, fewer than the {needed} of a step{each}: use {remedy}"
        )
