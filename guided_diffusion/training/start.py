"""The start of a run: from its own newest checkpoint, from another checkpoint, or from initial weights."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..checkpoints.folder import CheckpointFolder
from ..checkpoints.format import Checkpoint, RunInfo
from ..checkpoints.load import load_checkpoint, refuse_newer_reading
from ..checkpoints.weights import check_optimizer, check_weights, load_weights
from ..data.case_reader import READING_RULES
from ..data.config import DataConfig
from ..dist_util import Processes
from ..errors import CheckpointError, ConfigError
from ..flags.configs import Configs, Flags, differences
from ..flags.fields import flag_fields
from ..flags.retired import other_constants
from ..lidcloader import LIDCDataset
from ..sampling.protocol import Segmenter
from ..system import storage
from ..system.device import ComputeConfig
from ..unet import UNetConfig
from .config import TrainConfig
from .run_state import RunState, hash_of_cases

NOT_THE_SAME = "the result will not be bit-identical to an uninterrupted run"


@dataclass(frozen=True)
class Start:
    """The start of a run; without a checkpoint, from initial weights.

    path   of the checkpoint
    own    True: the checkpoint is in log_dir; False: it is from --resume_checkpoint
    lines  to log
    """

    checkpoint: Checkpoint | None = None
    path: str = ""
    own: bool = False
    lines: Sequence[str] = ()

    @property
    def step(self) -> int:
        """The number of completed steps."""
        return self.checkpoint.step if self.checkpoint else 0


def find_start(configs: Configs, flags: Flags, world_size: int = 1) -> Start:
    """Find the checkpoint that the run starts from, if any.

    The newest checkpoint in log_dir precedes --resume_checkpoint, so that rerunning the command resumes the run.

    configs  of the run
    flags    {name: value} of the run, as stored, without those that the run takes from the checkpoint
    CheckpointError: the flags contradict the checkpoint, its reading rules are newer than this program's, or log_dir
    is not empty with --resume never. A different --data_dir is checked by check_cases.
    """
    config, classes = configs[TrainConfig], configs.classes
    if config.resume == "never":
        _refuse_used_folder(config.log_dir)
    elif newest := CheckpointFolder(config.log_dir).newest():
        checkpoint, path, lines = newest
        refuse_newer_reading(checkpoint, path, READING_RULES)
        start = Start(checkpoint, path, is_own(path, config), lines)
        free = names_that_resume(classes, "free", "rounding")
        if _same_step(checkpoint, config, world_size):
            free.add("batch_size")
        _refuse_other_flags(start, flags, classes, free, "use the same flags, or another --log_dir")
        if config.resume_checkpoint:
            _refuse_other_origin(checkpoint, config)
        return start
    path = config.resume_checkpoint
    if not path:
        return Start()
    checkpoint = load_checkpoint(path)
    refuse_newer_reading(checkpoint, path, READING_RULES)
    if checkpoint.exported:  # only weights, from which a new run starts
        checkpoint = replace(checkpoint, step=0, samples=0)
    start = Start(checkpoint, path, is_own(path, config) and not checkpoint.exported)
    free = names_that_resume(classes, "free", "rounding", "new run")
    _refuse_other_flags(start, flags, classes, free, "use the checkpoint's flags")
    return start


def names_that_resume(classes: Iterable[type], *rules: str) -> set[str]:
    """Names of the flags of these classes whose `resume` is one of the rules."""
    return {name for name, field in flag_fields(*classes).items() if field.flag.resume in rules}


def is_own(path: str, config: TrainConfig) -> bool:
    """Whether the checkpoint at `path` is in log_dir."""
    return os.path.dirname(path) == os.path.dirname(os.path.join(config.log_dir, ""))


def _refuse_used_folder(folder: str) -> None:
    empty = {".gitkeep", storage.LOCK}  # the first keeps an empty folder in git
    if used := [name for name in storage.names(folder) if name not in empty]:
        raise CheckpointError(f"{folder}: --resume never requires an empty folder, but it holds {used[0]}")


def _refuse_other_origin(checkpoint: Checkpoint, config: TrainConfig) -> None:
    """CheckpointError: the run in log_dir did not start from --resume_checkpoint."""
    given = config.resume_checkpoint
    if checkpoint.flags and checkpoint.flags.get("resume_checkpoint") != given:
        raise CheckpointError(
            f"{config.log_dir} has a run that did not start from --resume_checkpoint {given}: use another --log_dir"
        )


def _refuse_other_flags(start: Start, flags: Flags, classes: Iterable[type], free: Iterable[str], remedy: str) -> None:
    """CheckpointError: the checkpoint was made with different flags, or with values that are no longer supported."""
    if start.checkpoint is None or start.checkpoint.is_published:
        return
    stored = start.checkpoint.flags
    if different := differences(stored, flags, *classes, free=free):
        raise CheckpointError(f"{start.path} was made with {', '.join(different)}: {remedy}")
    if removed := other_constants(stored):
        raise CheckpointError(
            f"{start.path} was made with {', '.join(removed)}, which is no longer supported: start a new run"
        )


def _same_step(checkpoint: Checkpoint, config: TrainConfig, world_size: int) -> bool:
    """Whether a step has as many masks over all processes as in the checkpoint's run."""
    each, rest = divmod(config.batch_size * world_size, checkpoint.processes or world_size)
    return rest == 0 and checkpoint.flags.get("batch_size") == each


def reading_of(start: Start, dataset: LIDCDataset) -> int:
    """The version of the reading rules of a run; a resumed run keeps its version, which reads the cases equally."""
    checkpoint = start.checkpoint
    if checkpoint is None or checkpoint.is_published or not start.own:
        return dataset.reading
    return min(checkpoint.reading, dataset.reading)


def check_cases(start: Start, flags: Flags, dataset: LIDCDataset) -> None:
    """Check the cases of a run that is resumed.

    CheckpointError: they have other classes, or are read differently from when the run began; or, with another
    --data_dir, their hash differs from that of the run's cases.
    """
    if start.checkpoint is None or not start.own:
        return
    _refuse_other_flags(
        start, {"classes": flags["classes"]}, (DataConfig,), (), "use these classes, or another --log_dir"
    )
    reading = reading_of(start, dataset)
    if reading < dataset.reading and dataset.departures:
        raise CheckpointError(
            f"{start.path}: the run read its cases by version {reading} of the reading rules, and version "
            f"{dataset.reading} reads them differently ({'; '.join(dataset.departures)}): use another --log_dir, or "
            "the version of this program that made the checkpoint"
        )
    found = hash_of_cases(dataset, reading)
    if found and start.checkpoint.data == found:
        return
    remedy = "the cases differ; use the run's cases, or another --log_dir"
    _refuse_other_flags(start, {"data_dir": flags["data_dir"]}, (), (), remedy)


# -- into the segmenter ------------------------------------------------------------------------------------------------


def check_start(segmenter: Segmenter, start: Start) -> None:
    """Compare the checkpoint's parameter names and shapes with the segmenter's, without copying.

    CheckpointError: weights, averages or optimizer state do not fit, or a part needed to resume is missing.
    """
    if (checkpoint := start.checkpoint) is None:
        return
    if missing := checkpoint.missing_to_resume():
        raise CheckpointError(f"{start.path} lacks {', '.join(missing)}, needed to resume; use another checkpoint")
    for weights in (*checkpoint.ema.values(), checkpoint.weights):
        check_weights(segmenter, weights, start.path, checkpoint.prefix)
    if checkpoint.optimizer is not None:
        check_optimizer(checkpoint.optimizer, list(segmenter.parameters()), start.path)


def load_start(segmenter: Segmenter, start: Start) -> None:
    """Copy the checkpoint's weights, if any, into `segmenter`. CheckpointError: see check_start."""
    check_start(segmenter, start)
    if start.checkpoint is not None:
        load_weights(segmenter, start.checkpoint.weights, start.path, start.checkpoint.prefix)


# -- what differs ------------------------------------------------------------------------------------------------------


def what_changed(checkpoint: Checkpoint, info: RunInfo, config: TrainConfig) -> list[str]:
    """Log lines: reasons why a resumed run will not be bit-identical to an uninterrupted run.

    info  of the run, as stored in its next checkpoints
    """
    names = names_that_resume((TrainConfig, ComputeConfig, UNetConfig), "rounding")
    rounding = {name: info.flags[name] for name in sorted(names & info.flags.keys())}
    lines = []
    if different := differences(checkpoint.flags, rounding):
        lines.append(f"the run was made with {', '.join(different)}: {NOT_THE_SAME}")
    if checkpoint.processes not in (None, info.processes):
        lines.append(_other_processes(checkpoint, info, config))
    elif info.threads and checkpoint.threads not in (None, info.threads):
        lines.append(
            f"the number of threads was {checkpoint.threads} and is {info.threads} (OMP_NUM_THREADS, or fewer usable "
            f"cores): {NOT_THE_SAME}"
        )
    if checkpoint.data not in (None, info.data):
        lines.append(f"the cases of {config.data_dir} have changed since the run started: training continues with them")
    return lines


def _other_processes(checkpoint: Checkpoint, info: RunInfo, config: TrainConfig) -> str:
    """The log line for a run that is resumed with a different number of processes."""
    draws = f"a step now has {info.processes * config.batch_size} masks; the order of the draws is the same"
    if _same_step(checkpoint, config, info.processes):
        draws = "the draws are the same, only rounding differs"
        if info.flags.get("dropout"):
            draws = "the draws are the same except for dropout"
    return f"the run had {checkpoint.processes} processes and now has {info.processes}: {draws}; {NOT_THE_SAME}"


def check_same_start(processes: Processes, state: RunState, fingerprint: str | None) -> None:
    """ConfigError: the processes are at different steps, draws or cases."""
    starts = processes.gather_objects([state.steps_done, state.samples, fingerprint])
    if any(other != starts[0] for other in starts):
        raise ConfigError(
            f"the processes start from different steps, draws or cases, {starts}: all must see the same --log_dir and "
            "--data_dir"
        )
