"""The flags of training, and checks against the machine and the cases."""

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
    log_dir: Annotated[str, Flag("output folder for log and checkpoints: a path, gs:// or az://", resume="free")] = (
        "results"
    )
    iterations: Annotated[int, Flag("total number of optimizer steps; 0: unlimited", resume="free", at_least=0)] = (
        60_000
    )
    batch_size: Annotated[int, Flag("masks per step and process", at_least=1)] = 1
    microbatch: Annotated[
        int | None,
        Flag(
            "masks per forward pass, to save memory; none: the whole batch", none="none", resume="rounding", at_least=1
        ),
    ] = None
    augment: Annotated[
        str,
        Flag(
            "random augmentation: any of mirror, flip, rotate, deform, elastic, contrast, gamma, bias, colour, joined "
            "by +; or none",
            check=parts_of(AUGMENTATIONS),
        ),
    ] = "none"
    lr: Annotated[float, Flag("learning rate of AdamW", above=0)] = 1e-4
    lr_anneal_steps: Annotated[
        int, Flag("anneal the learning rate to 0 over this many steps, then stop; 0: no annealing", at_least=0)
    ] = 0
    lr_shape: Annotated[Literal["linear", "cosine"], Flag("shape of the decay with --lr_anneal_steps")] = "linear"
    lr_warmup_steps: Annotated[int, Flag("steps of linear learning rate warm-up from 0", at_least=0)] = 0
    weight_decay: Annotated[float, Flag("decoupled weight decay of AdamW", at_least=0)] = 0.0
    ema_rate: Annotated[
        tuple[float, ...],
        Flag("decay rates of the weight averages (EMA); sampling uses the first", at_least=0, below=1, check=nonempty),
    ] = (0.9999,)
    raters_per_image: Annotated[
        int, Flag("raters drawn per image; their masks are consecutive in the batch", at_least=1)
    ] = 1
    schedule_sampler: Annotated[
        Literal["uniform", "loss-second-moment"], Flag("distribution of the training timesteps")
    ] = "uniform"
    max_bad_steps: Annotated[
        int, Flag("stop after this many consecutive steps without finite loss and gradient", resume="free", at_least=1)
    ] = 10
    shard: Annotated[
        bool,
        Flag("shard weights, averages and optimizer over processes, for models too large for one", resume="rounding"),
    ] = False
    log_interval: Annotated[int, Flag("steps between log rows", resume="free", at_least=1)] = 100
    save_interval: Annotated[int, Flag("steps between checkpoints", resume="free", at_least=1)] = 5000
    keep: Annotated[int | None, Flag("number of newest checkpoints to keep", none="all", resume="free", at_least=1)] = 3
    tensorboard: Annotated[bool, Flag("also write TensorBoard events", resume="free")] = False
    resume: Annotated[
        Literal["auto", "never"],
        Flag("auto: resume the run in log_dir; never: require an empty log_dir", resume="free"),
    ] = "auto"
    resume_checkpoint: Annotated[str, Flag("checkpoint or model to start from if log_dir has none", resume="free")] = ""
    num_workers: Annotated[
        int, Flag("data loader processes; 0: load cases in the training process", resume="free", at_least=0)
    ] = 0
    cache_dir: Annotated[
        str, Flag("cache of decoded cases; empty: ambiguous-segmentation in the user's cache folder", resume="free")
    ] = ""
    seed: Annotated[int, Flag("random seed", at_least=0, below=2**63)] = 0

    @property
    def last_step(self) -> int | None:
        """The last step of the run; None: unlimited."""
        ends = [end for end in (self.iterations, self.lr_anneal_steps) if end > 0]
        return min(ends, default=None)

    @property
    def averages(self) -> dict[str, float]:
        """{name: rate} of the moving averages; sampling uses the first."""
        return {str(rate): rate for rate in self.ema_rate}

    def learning_rate(self, step: int) -> float:
        """The learning rate of the step after `step` completed steps."""
        rate = self.lr
        if self.lr_anneal_steps:
            left = max(0.0, 1 - step / self.lr_anneal_steps)
            rate *= left if self.lr_shape == "linear" else (1 - math.cos(math.pi * left)) / 2
        return rate * min(1.0, (step + 1) / self.lr_warmup_steps) if self.lr_warmup_steps else rate


def check_log_dir(config: TrainConfig) -> None:
    """ConfigError: the log cannot be written to log_dir, or not in the requested form."""
    if reason := storage.unknown_store(config.log_dir):
        raise ConfigError(f"--log_dir {config.log_dir}: {reason}")
    if config.tensorboard and storage.is_remote(config.log_dir):
        raise ConfigError(f"--tensorboard requires a local folder, not --log_dir {config.log_dir}")
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError('--tensorboard: package missing; pip install "ambiguous-segmentation-diffusion[tensorboard]"')


def check_processes(config: TrainConfig, world_size: int) -> None:
    """ConfigError: the run needs more processes."""
    if config.shard and world_size == 1:
        raise ConfigError("--shard needs several processes: start them with torchrun --nproc_per_node=N")


def check_num_cases(config: TrainConfig, num_cases: int, world_size: int) -> None:
    """ConfigError: a step needs more cases than data_dir has."""
    needed = config.batch_size // config.raters_per_image * world_size
    if needed > num_cases:
        each = f" ({world_size} processes of --batch_size {config.batch_size})" if world_size > 1 else " (--batch_size)"
        fewer = num_cases // world_size * config.raters_per_image
        remedy = f"--batch_size {fewer}" if fewer else f"at most {num_cases} processes"
        raise ConfigError(f"{config.data_dir} has {num_cases} cases, but a step needs {needed}{each}: use {remedy}")
