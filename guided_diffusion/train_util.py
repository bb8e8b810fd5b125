"""The training loop."""

import math
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch.utils.data import DataLoader

from . import checkpoint
from .ema import EMA
from .lidcloader import EndlessSampler, collate, pick_rater
from .logger import QUARTILES, Logger, LossMeter, NullLogger
from .nn import ConfigError, seeded_generator, stack_randn
from .resample import create_named_schedule_sampler

# Flags that a run may change when it continues; the others decide what it computes
FREE_FLAGS = {
    "log_interval", "save_interval", "iterations", "log_dir", "resume", "resume_checkpoint", "num_workers",
    "use_checkpoint", "eval_data_dir", "eval_interval", "eval_cases", "eval_ensemble", "eval_steps",
    "sampler", "steps", "spacing", "eta", "clip_denoised",
}  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    data_dir: Annotated[str, "folder of cases to train on"] = ""
    log_dir: Annotated[str, "where the log and the checkpoints go"] = "results"
    iterations: Annotated[int, "optimizer steps in all; 0: without end"] = 60_000
    batch_size: Annotated[int, "masks per step and process"] = 1
    microbatch: Annotated[int | None, "masks at a time in memory; -1: the whole batch"] = None
    lr: Annotated[float, "learning rate of AdamW"] = 1e-4
    lr_anneal_steps: Annotated[int, "anneal the learning rate linearly to 0 over so many steps, and end there; 0: do not"] = 0
    weight_decay: Annotated[float, "decoupled weight decay of AdamW"] = 0.0
    ema_rate: Annotated[tuple[float, ...], "rates of the moving averages; samples are drawn with the first"] = (0.9999,)
    schedule_sampler: Annotated[Literal["uniform", "loss-second-moment"], "which timesteps to train on"] = "uniform"
    log_interval: Annotated[int, "steps between two lines of the log"] = 100
    save_interval: Annotated[int, "steps between two checkpoints"] = 5000
    resume: Annotated[Literal["auto", "never"], "continue the run in log_dir, or want an empty one"] = "auto"
    resume_checkpoint: Annotated[str, "start from this checkpoint when log_dir has none"] = ""
    num_workers: Annotated[int, "processes that read cases; 0: the training process reads them itself"] = 0
    seed: Annotated[int, "of everything that is random"] = 0

    @property
    def last_step(self):
        """Where the run ends; None: nowhere."""
        ends = [end for end in (self.iterations, self.lr_anneal_steps) if end > 0]
        return min(ends, default=None)

    def learning_rate(self, step):
        """The learning rate of the step after `step` done ones."""
        return self.lr * max(0.0, 1 - step / self.lr_anneal_steps) if self.lr_anneal_steps else self.lr


def check_train_config(config):
    """Refuse, by the flag's name, what cannot be trained with."""
    for name in ("batch_size", "log_interval", "save_interval"):
        if getattr(config, name) < 1:
            raise ConfigError(f"--{name} {getattr(config, name)}: at least 1 is needed")
    for name in ("iterations", "lr_anneal_steps", "num_workers", "seed", "weight_decay"):
        if getattr(config, name) < 0:
            raise ConfigError(f"--{name} {getattr(config, name)}: at least 0 is needed")
    if config.microbatch is not None and config.microbatch < 1:
        raise ConfigError(f"--microbatch {config.microbatch}: at least 1 is needed, or -1 for the whole batch")
    if not math.isfinite(config.weight_decay):
        raise ConfigError(f"--weight_decay {config.weight_decay}: a number is needed")
    if not 0 < config.lr < math.inf:
        raise ConfigError(f"--lr {config.lr}: a positive number is needed")
    if not config.ema_rate or not all(0 <= rate < 1 for rate in config.ema_rate):
        raise ConfigError("--ema_rate: rates from 0 to below 1 are needed, e.g. 0.9999")


def find_start(config, flags):
    """
    The checkpoint that the run starts from, its path, and lines to tell; (None, None, []) for a fresh start.

    The newest of log_dir comes before --resume_checkpoint, so that running the same command again continues.
    CheckpointError: flags at odds with it, or a folder in use with --resume never.
    """
    if config.resume == "never":
        used = sorted(os.listdir(config.log_dir)) if os.path.isdir(config.log_dir) else []
        if used := [name for name in used if name != ".gitkeep"]:  # which keeps an empty folder under version control
            raise checkpoint.CheckpointError(f"{config.log_dir}: --resume never wants an empty folder, yet it holds {used[0]}")
    else:
        state, path, lines = checkpoint.find_newest(config.log_dir)
        if state is not None:
            _refuse_other_flags(state, path, flags, FREE_FLAGS, "use another --log_dir, or the folder's flags")
            if config.resume_checkpoint and state["flags"] and config.resume_checkpoint != state["flags"]["resume_checkpoint"]:
                raise checkpoint.CheckpointError(
                    f"{config.log_dir} holds a run that did not start from --resume_checkpoint {config.resume_checkpoint}: "
                    "use another --log_dir"
                )
            return state, path, lines

    if not config.resume_checkpoint:
        return None, None, []
    state = checkpoint.load(config.resume_checkpoint)
    training = set(TrainConfig.__dataclass_fields__) | FREE_FLAGS  # a new run may train otherwise, not another model
    _refuse_other_flags(state, config.resume_checkpoint, flags, training, "give the checkpoint's flags")
    return state, config.resume_checkpoint, []


def _refuse_other_flags(state, path, flags, free, remedy):
    if state["flags"] is not None and (unlike := checkpoint.differences(state["flags"], flags, free)):
        raise checkpoint.CheckpointError(f"{path} was made with {', '.join(unlike)}: {remedy}")


class Trainer:
    """
    Trains an AmbiguousSegmenter on a LIDCDataset.

    Every draw (case, rater, timestep, noise) is a function of the seed and its place in the endless stream of draws,
    so that a run that stops and continues, or is shared by several processes, makes the same draws.

    flags      every flag of the run, for its checkpoints
    start      what find_start gave
    validator  Validator; None: no validation
    """

    def __init__(self, segmenter, dataset, config, processes, flags, start=(None, None, []), validator=None):
        check_train_config(config)
        self.config, self.processes, self.flags, self.validator = config, processes, flags, validator
        self.scores, self.best = {}, None
        self.segmenter = segmenter.to(processes.device).train()
        self.trained = [p for p in segmenter.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=config.lr, weight_decay=config.weight_decay)
        self.ema = EMA(segmenter, config.ema_rate)
        self.schedule_sampler = create_named_schedule_sampler(
            config.schedule_sampler, segmenter.diffusion.num_timesteps
        )
        fp16 = getattr(segmenter.model.config, "use_fp16", False)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=fp16)
        self.steps_done, self.samples = 0, 0
        state, path, lines = start
        if state is not None:
            self.resume(state, path)

        self.module = processes.wrap(self.segmenter)  # after resuming: it hands the first process's weights to all
        self.meter = LossMeter(segmenter.diffusion.num_timesteps, processes.device)
        self.sampler = EndlessSampler(
            len(dataset), config.batch_size, config.seed, processes.rank, processes.world_size, self.samples
        )
        self.loader = DataLoader(
            dataset, batch_sampler=self.sampler, collate_fn=collate, num_workers=config.num_workers,
            pin_memory=processes.device.type == "cuda",
        )  # fmt: skip
        self.logger = Logger(config.log_dir, self.columns(), self.steps_done) if processes.is_main else NullLogger()
        for line in (*lines, *dataset.notes, self.greeting(len(dataset), path)):
            self.logger.info(line)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self):
        """Train to the last step, logging and saving on the way; the end is saved too."""
        config, end = self.config, self.config.last_step
        if end is not None and self.steps_done >= end:
            self.logger.info(f"nothing to do: {self.steps_done} of {end} steps are done (--iterations)")
            self.logger.close()
            return
        self.logged = (time.monotonic(), self.steps_done)
        with self.logger.progress(self.steps_done, end, "step") as bar:
            for batch in self.loader:
                self.step(batch)
                bar.update()
                if self.validator and (self.steps_done % self.eval_interval == 0 or self.steps_done == end):
                    self.validate()
                if self.scores or self.steps_done % config.log_interval == 0 or self.steps_done == end:
                    self.log(bar)
                if self.steps_done % config.save_interval == 0 or self.steps_done == end:
                    self.save()
                if self.steps_done == end:
                    break
        if self.validator and self.best:
            self.logger.info(f"best: step {self.best['step']}, {self.validator.names[0]} {self.best['score']:.4f} ({checkpoint.BEST})")
        self.logger.close()

    def step(self, batch):
        """One optimizer step on one batch."""
        batch_size = len(batch.ids)
        generators = [seeded_generator(self.config.seed, "draw", p) for p in self.sampler.places(self.samples)]
        u = torch.stack([torch.rand(2, generator=g) for g in generators])
        mask = pick_rater(batch, u[:, 0])
        t, weights = self.schedule_sampler.sample(u[:, 1])
        noise = stack_randn(generators, mask.shape[1:])
        self._seed_dropout()

        device = self.processes.device
        image, mask, t, weights, noise = (
            tensor.to(device, non_blocking=True) for tensor in (batch.image, mask, t, weights, noise)
        )
        size = self.config.microbatch or batch_size
        parts = [slice(i, i + size) for i in range(0, batch_size, size)]
        losses = []
        for part in parts:
            with self._gradient_traffic(part is parts[-1]):
                terms = self.module(image[part], mask[part], t[part], noise[part])
                loss = (weights[part] * terms["loss"]).sum() / batch_size
                self.scaler.scale(loss).backward()
            self.meter.add(terms, t[part], weights[part])
            losses.append(terms["loss"].detach())

        self._optimize()
        if self.schedule_sampler.learns:
            self.schedule_sampler.update(self.processes.gather(t), self.processes.gather(torch.cat(losses)))

    def _seed_dropout(self):
        key = (self.config.seed, "dropout", self.processes.rank, self.steps_done)
        torch.manual_seed(seeded_generator(*key).initial_seed())

    def _gradient_traffic(self, wanted):
        """The processes share their gradients in the last micro-batch only."""
        return nullcontext() if wanted or self.processes.world_size == 1 else self.module.no_sync()

    def _optimize(self):
        self.scaler.unscale_(self.optimizer)
        self.grad_norm = torch.nn.utils.get_total_norm([p.grad for p in self.trained if p.grad is not None])
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.steps_done)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.steps_done)
        self.steps_done += 1
        self.samples += self.processes.world_size * self.config.batch_size

    @property
    def eval_interval(self):
        return self.validator.config.eval_interval or self.config.save_interval

    def validate(self):
        """Score the averaged weights, for the next line of the log, and keep the checkpoint if it is the best so far."""
        then = time.monotonic()
        with self.ema.applied():
            self.scores = self.validator.score(self.segmenter)
        self.logged = (self.logged[0] + time.monotonic() - then, self.logged[1])  # the speed logged is that of training
        score, settings = self.scores[self.validator.names[0]], self.validator.settings
        if self.best is None or self.best["settings"] != settings or score < self.best["score"]:
            self.best = {"settings": settings, "step": self.steps_done, "score": score}
            if self.processes.is_main:
                checkpoint.save_best(self.config.log_dir, self.state())
            self.processes.barrier()

    # -- what it says -------------------------------------------------------------------------------------------------

    def columns(self):
        """The columns of progress.csv."""
        terms = ("loss", "mse", "vb", "kl")
        quartiles = [f"{term}_q{q}" for term in terms for q in range(QUARTILES)]
        scores = self.validator.names if self.validator else []
        return ["step", "samples", *terms, *scores, *quartiles, "grad_norm", "lr", "samples_per_second"]

    def greeting(self, num_cases, path):
        """What is about to be trained, in a line."""
        start = f"continuing {path} at step {self.steps_done}" if path else "starting afresh"
        count = sum(p.numel() for p in self.segmenter.model.parameters())
        end = self.config.last_step or "no last"
        return (
            f"{start}: {num_cases} cases, U-Net of {count:,} parameters, {self.processes.world_size} x "
            f"{self.processes.device}, to step {end}, into {self.config.log_dir}"
        )

    def log(self, bar):
        """One line of the log for the steps since the last one."""
        means = self.meter.read(self.processes)
        (then, steps_then), self.logged = self.logged, (time.monotonic(), self.steps_done)
        drawn = (self.steps_done - steps_then) * self.config.batch_size * self.processes.world_size
        self.logger.metrics({
            "step": self.steps_done, "samples": self.samples, **{k: means[k] for k in self.columns() if k in means},
            **self.scores, "grad_norm": float(self.grad_norm), "lr": self.optimizer.param_groups[0]["lr"], "samples_per_second": drawn / (self.logged[0] - then),
        })  # fmt: skip
        bar.set_postfix({name: f"{means[name]:.3g}" for name in ("loss", "mse", "vb", "kl") if name in means})
        self.scores = {}

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def state(self):
        """Everything that has a state."""
        return {
            "format": checkpoint.FORMAT, "version": checkpoint.VERSION,
            "step": self.steps_done, "samples": self.samples, "flags": self.flags,
            "weights": self.segmenter.state_dict(), "ema": self.ema.weights,
            "optimizer": self.optimizer.state_dict(), "schedule_sampler": self.schedule_sampler.state_dict(),
            "scaler": self.scaler.state_dict(), "random": {"seed": self.config.seed}, "best": self.best,
        }  # fmt: skip

    def save(self):
        """Write a checkpoint; every process waits until it is whole."""
        if self.processes.is_main:
            path = checkpoint.save(self.config.log_dir, self.state())
            self.logger.info(f"saved {path}")
        self.processes.barrier()

    def resume(self, state, path):
        """Take over a checkpoint's state, or as much of it as a published one has."""
        published = state["flags"] is None
        prefix = "model." if published else ""
        for weights in (*state["ema"].values(), state["weights"]):  # the averages only to see that they fit
            checkpoint.load_weights(self.segmenter, weights, path, prefix)
        self.ema.load(state["weights"], state["ema"])
        self.steps_done, self.samples = state["step"], state["samples"]
        if state["optimizer"] is not None:
            # Its settings are this run's. A published one had the U-Net's parameters, which are the first of ours.
            checkpoint.check_optimizer(state["optimizer"], self.trained, path)
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]["state"]})
        if not published:
            self.best = state.get("best")
            self.scaler.load_state_dict(state["scaler"])
            if state["flags"]["schedule_sampler"] == self.config.schedule_sampler:
                self.schedule_sampler.load_state_dict(state["schedule_sampler"])
