"""The complete state of a training run, as stored in checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..checkpoints.format import Checkpoint, RunInfo
from ..checkpoints.weights import check_schedule_sampler
from ..dist_util import Processes, full, like, whole
from ..flags.configs import Flags
from ..lidcloader import LIDCDataset
from ..resample import create_named_schedule_sampler
from ..sampling.protocol import Segmenter
from ..system.device import ComputeConfig, compile_model, prepare
from .config import TrainConfig
from .ema import EMA


def place(segmenter: Segmenter, config: TrainConfig, how: ComputeConfig, processes: Processes) -> nn.Module:
    """Put a segmenter on the device, sharded or replicated over the processes; returns the module to call."""
    if config.shard:  # before unsharded weights are copied to the device
        processes.shard(segmenter.shardable())
    # Sharded weights do not support channels-last; on CPUs it slows down the backward pass and the norms.
    channels_last = processes.device.type == "cuda" and not config.shard
    prepare(segmenter.train(), how, processes.device, channels_last)
    if how.compile:
        compile_model(segmenter, training=True)
    return segmenter if config.shard else processes.wrap(segmenter)


def hash_of_cases(dataset: LIDCDataset, reading: int) -> str | None:
    """The hash of the cases as a run computes it whose cases are read by version `reading` of the reading rules.

    It is that of today's rules if they read some case differently.
    """
    if reading < dataset.reading and not dataset.departures:
        return dataset.former_fingerprint()
    return dataset.fingerprint


def describe_run(
    flags: Flags, config: TrainConfig, processes: Processes, dataset: LIDCDataset, reading: int
) -> RunInfo:
    """The RunInfo stored in the run's checkpoints.

    reading  version of the reading rules, from training.start.reading_of
    """
    # On a GPU, the number of threads does not affect rounding.
    threads = torch.get_num_threads() if processes.device.type == "cpu" else None
    return RunInfo(flags, processes.world_size, threads, hash_of_cases(dataset, reading), config.seed, reading)


class RunState:
    """Weights, averages, optimizer, schedule sampler, loss scale and counters of a run.

    segmenter       on its device, sharded or not
    masks_per_step  total over all processes
    """

    def __init__(self, segmenter: Segmenter, config: TrainConfig, masks_per_step: int) -> None:
        device = next(segmenter.parameters()).device
        self.segmenter, self.masks_per_step = segmenter, masks_per_step
        self.trained = [p for p in segmenter.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.ema = EMA(segmenter, config.averages)
        self.schedule_sampler = create_named_schedule_sampler(config.schedule_sampler, segmenter.num_timesteps)
        is_float16 = segmenter.model.autocast_dtype == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=is_float16)
        self.steps_done = self.samples = 0  # optimizer steps, and masks drawn from the data over all processes
        self.bad_steps = self.bad_in_a_row = 0
        self.best: dict[str, Any] | None = None  # {settings, step, score} of the best validation

    # -- steps --------------------------------------------------------------------------------------------------------

    def unscale(self) -> torch.Tensor:
        """Divide the gradients by the loss scale; returns their norm over all parameters, a tensor []."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.trained]
        found = [gradient for gradient in gradients if gradient is not None]
        assert len(found) == len(gradients), "a trained parameter did not contribute to the loss"
        return full(nn.utils.get_total_norm(found))

    def has_least_scale(self) -> torch.Tensor:
        """Whether the loss is not scaled, so that its gradients are finite if they can be; a bool tensor []."""
        return self.scaler.scale(torch.ones((), device=self.trained[0].device)) <= 1

    def move(self, learning_rate: float, bad: torch.Tensor) -> None:
        """One step of optimizer and averages. If `bad`, a bool tensor [], is true, they do not change."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        bad = bad.float()
        # The fused kernel skips the update if this is 1; GradScaler passes it as an attribute too.
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        self.optimizer.step()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.steps_done, moved=1 - bad)
        self.steps_done += 1
        self.samples += self.masks_per_step

    def count(self, bad: bool) -> None:
        """Count a completed step as good or bad."""
        self.bad_in_a_row = self.bad_in_a_row + 1 if bad else 0
        self.bad_steps += bad

    def rewind(self, more: int) -> None:
        """Reset the counters to before the last consecutive bad steps: those counted and `more` others."""
        self.bad_steps -= self.bad_in_a_row
        undone = self.bad_in_a_row + more
        self.steps_done -= undone
        self.samples -= undone * self.masks_per_step
        self.bad_in_a_row = 0

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def checkpoint(self, info: RunInfo, keep: bool = True) -> Checkpoint:
        """A checkpoint with unsharded tensors on the CPU. With sharded weights, every process must call this.

        keep  False: without tensors, for a process that does not write the checkpoint
        """
        return Checkpoint(
            flags=info.flags,
            processes=info.processes,
            threads=info.threads,
            data=info.data,
            reading=info.reading,
            random={"seed": info.seed},
            step=self.steps_done,
            samples=self.samples,
            weights=whole(self.segmenter.state_dict(), keep),
            ema=whole(self.ema.weights, keep),
            optimizer=whole(self.optimizer.state_dict(), keep),
            scaler=self.scaler.state_dict(),
            schedule_sampler=self.schedule_sampler.state_dict(),
            best=self.best,
            bad_steps=(self.bad_steps, self.bad_in_a_row),
        )

    def resume(self, checkpoint: Checkpoint, path: str, schedule_sampler: str, own: bool) -> None:
        """Restore the state from the checkpoint at `path`; published checkpoints have only a part of it.

        The weights are already loaded.

        schedule_sampler  the run's --schedule_sampler; the history of a different one is dropped
        own               True: the checkpoint belongs to this run; also restore bad step counts and best score
        """
        self.ema.load(checkpoint.weights, checkpoint.ema)
        self.steps_done, self.samples = checkpoint.step, checkpoint.samples or 0
        if checkpoint.optimizer is not None:
            self._resume_optimizer(checkpoint.optimizer["state"])
        if own:
            self.best = checkpoint.best
            self.bad_steps, self.bad_in_a_row = checkpoint.bad_steps
        if checkpoint.scaler:  # the earlier run used one
            self.scaler.load_state_dict(checkpoint.scaler)
        history = checkpoint.schedule_sampler
        if history is not None and checkpoint.flags.get("schedule_sampler") == schedule_sampler:
            check_schedule_sampler(history, self.schedule_sampler.state_dict(), path)
            self.schedule_sampler.load_state_dict(history)

    def _resume_optimizer(self, entries: Mapping[int, Mapping[str, Any]]) -> None:
        """Load the moments of the trained parameters; the optimizer's settings remain those of this run."""
        # The U-Net's parameters come first; the encoders' are absent if they are not trained.
        kept = {
            index: {name: like(entry[name], self.trained[index]) for name in ("exp_avg", "exp_avg_sq")}
            | {"step": torch.as_tensor(entry["step"], dtype=torch.float32).reshape(())}
            for index, entry in entries.items()
            if index < len(self.trained)
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": kept})
