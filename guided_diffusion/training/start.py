"""What a run starts from: its own newest checkpoint, another one, or nothing."""

import os

from ..checkpoints.folder import CheckpointFolder
from ..checkpoints.format import check_complete
from ..checkpoints.load import load_checkpoint
from ..checkpoints.weights import check_optimizer, load_weights
from ..errors import CheckpointError, ConfigError
from ..flags.configs import differences
from ..flags.fields import flag_fields
from ..flags.retired import other_constants
from ..system import storage
from ..system.device import ComputeConfig
from ..unet import UNetConfig
from .config import TrainConfig


def find_start(configs, flags, world_size=1):
    """The checkpoint that the run starts from, its path, and lines to tell; (None, None, []) for a fresh start.

    The newest of log_dir comes before --resume_checkpoint, so that running the same command again continues.

    configs  of the run
    flags    {name: value} of it, as they are stored

    CheckpointError: flags at odds with it, or a folder in use with --resume never. Another --data_dir is left to check_cases.
    """
    config = configs[TrainConfig]
    if config.resume == "never":
        empty = {".gitkeep", storage.LOCK}  # the first keeps an empty folder in git
        if used := [name for name in storage.names(config.log_dir) if name not in empty]:
            raise CheckpointError(f"{config.log_dir}: --resume never wants an empty folder, yet it holds {used[0]}")
    else:
        state, path, lines = CheckpointFolder(config.log_dir).newest()
        if state is not None:
            free = names_that_resume(configs.classes, "free", "rounding")
            if _same_step(state, config, world_size):
                free.add("batch_size")
            _refuse_other_flags(
                state, path, flags, configs.classes, free, "use another --log_dir, or the folder's flags"
            )
            if (
                config.resume_checkpoint
                and state["flags"]
                and config.resume_checkpoint != state["flags"].get("resume_checkpoint")
            ):
                raise CheckpointError(
                    f"{config.log_dir} holds a run that did not start from --resume_checkpoint {config.resume_checkpoint}: "
                    "use another --log_dir"
                )
            return state, path, lines

    if not config.resume_checkpoint:
        return None, None, []
    state = load_checkpoint(config.resume_checkpoint)
    free = names_that_resume(configs.classes, "free", "rounding", "new run")
    _refuse_other_flags(state, config.resume_checkpoint, flags, configs.classes, free, "give the checkpoint's flags")
    return state, config.resume_checkpoint, []


def names_that_resume(classes, *rules):
    """Names of the flags of these classes whose `resume` is one of the rules."""
    return {name for name, field in flag_fields(*classes).items() if field.flag.resume in rules}


def is_own(path, config):
    """Whether the checkpoint at `path` is of the run in log_dir, and not one that another run starts from."""
    return os.path.dirname(path) == os.path.dirname(os.path.join(config.log_dir, ""))


def _same_step(state, config, world_size):
    """Whether a step has as many masks, over all processes, as those of the run of a checkpoint."""
    each, rest = divmod(config.batch_size * world_size, state.get("processes", world_size))
    return bool(state["flags"]) and rest == 0 and state["flags"].get("batch_size") == each


def check_cases(start, config, flags, fingerprint):
    """CheckpointError: the run goes on with another --data_dir, whose cases are not, by their hash, those that it began with."""
    state, path, _ = start
    if state is None or not is_own(path, config) or (fingerprint and state.get("data") == fingerprint):
        return
    _refuse_other_flags(
        state,
        path,
        {"data_dir": flags["data_dir"]},
        (),
        (),
        "it has other cases; use another --log_dir, or the run's cases",
    )


def _refuse_other_flags(state, path, flags, classes, free, remedy):
    """CheckpointError: the checkpoint was made with other flags than these, or with what is no longer possible."""
    if state["flags"] is None:
        return
    if different := differences(state["flags"], flags, *classes, free=free):
        raise CheckpointError(f"{path} was made with {', '.join(different)}: {remedy}")
    if removed := other_constants(state["flags"]):
        raise CheckpointError(
            f"{path} was made with {', '.join(removed)}, which is no longer possible: train a new run"
        )


def load_start(segmenter, start):
    """Put the weights of what find_start gave into `segmenter`. CheckpointError: they, or the averages, or the optimizer's
    state, do not fit it, or something is missing that a run wants.
    """
    state, path, _ = start
    if state is None:
        return
    check_complete(state, path)
    prefix = "model." if state["flags"] is None else ""  # published ones hold the U-Net alone
    for weights in (*state["ema"].values(), state["weights"]):  # the averages only to see that they fit
        load_weights(segmenter, weights, path, prefix)
    if state["optimizer"] is not None:
        check_optimizer(state["optimizer"], list(segmenter.parameters()), path)


def what_changed(state, described, config):
    """A line for everything that keeps a resumed run from being the same, bit for bit, as one without a stop.

    state      the checkpoint that the run resumes from
    described  flags, processes, threads and data of the run, by those names, as its own checkpoints will have them
    """
    flags, world_size, threads, fingerprint = (described[name] for name in ("flags", "processes", "threads", "data"))
    rounding = names_that_resume((TrainConfig, ComputeConfig, UNetConfig), "rounding")
    unlike = differences(state["flags"], {name: flags[name] for name in sorted(rounding & flags.keys())})
    lines = (
        [f"the run was made with {', '.join(unlike)}: its result is not bit for bit that of the run as it was"]
        if unlike
        else []
    )
    if state.get("processes", world_size) != world_size:
        draws = f"a step has now {world_size * config.batch_size} masks; the draws go on in their order"
        if _same_step(state, config, world_size):
            draws = (
                "the draws are the same but for dropout's"
                if flags.get("dropout")
                else "the draws are the same, only rounding differs"
            )
        lines.append(
            f"{world_size} processes go on with a run of {state['processes']}: {draws}; "
            "the result is not bit for bit that of the run as it was"
        )
    elif threads and state.get("threads") not in (None, threads):
        lines.append(
            f"the number of threads was {state['threads']} and is {threads} (OMP_NUM_THREADS, or fewer usable cores): "
            "its result is not bit for bit that of the run as it was"
        )
    if state.get("data", fingerprint) != fingerprint:
        lines.append(f"the cases of {config.data_dir} are not those that the run began with: it goes on with these")
    return lines


def check_same_start(processes, state, fingerprint):
    """ConfigError: the processes are at different steps, draws or cases."""
    starts = processes.gather_objects([state.steps_done, state.samples, fingerprint])
    if any(other != starts[0] for other in starts):
        raise ConfigError(
            f"the processes start from unlike steps, draws and cases, {starts}: do all see the same --log_dir and --data_dir?"
        )
