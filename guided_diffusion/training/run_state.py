"""Everything of a training run that has a state, as its checkpoints keep it."""

import torch

from ..checkpoints.format import FORMAT, VERSION
from ..checkpoints.weights import check_schedule_sampler
from ..dist_util import full, like, whole
from ..resample import create_named_schedule_sampler
from .ema import EMA


class RunState:
    """Weights, averages, optimizer, schedule sampler, loss scale and counters of a run.

    segmenter       on its device, sharded or not
    config          TrainConfig
    masks_per_step  over all processes
    """

    def __init__(self, segmenter, config, masks_per_step):
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
        self.best = None  # {settings, step, score} of the best validation

    # -- steps --------------------------------------------------------------------------------------------------------

    def unscale(self):
        """Take the loss scale out of the gradients; returns their norm over all parameters, a tensor []."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.trained]
        assert not any(gradient is None for gradient in gradients), "a trained part had no part in the loss"
        return full(torch.nn.utils.get_total_norm(gradients))

    def move(self, learning_rate, bad):
        """One step of optimizer and averages, which leaves them as they are where `bad`, a bool tensor [], is true."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        bad = bad.float()
        self.optimizer.found_inf = bad  # the fused kernel leaves everything as it is where this is 1
        self.optimizer.step()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.steps_done, moved=1 - bad)
        self.steps_done += 1
        self.samples += self.masks_per_step

    def count(self, bad):
        """Take in whether a step that is done was a bad one."""
        self.bad_in_a_row = self.bad_in_a_row + 1 if bad else 0
        self.bad_steps += bad

    def rewind(self, more):
        """Go back to before the last bad steps in a row: those counted, and `more` that are not. They moved no weight."""
        self.bad_steps -= self.bad_in_a_row
        undone = self.bad_in_a_row + more
        self.steps_done -= undone
        self.samples -= undone * self.masks_per_step
        self.bad_in_a_row = 0

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def whole(self, described, keep=True):
        """The content of a checkpoint, with whole tensors on the CPU. Every process that has a shard must call this.

        described  its flags, processes, threads, data and seed, by the names in checkpoints/format.py
        keep       False: no tensors, for a process that does not write them
        """
        return {
            "format": FORMAT,
            "version": VERSION,
            **described,
            "step": self.steps_done,
            "samples": self.samples,
            "weights": whole(self.segmenter.state_dict(), keep),
            "ema": whole(self.ema.weights, keep),
            "optimizer": whole(self.optimizer.state_dict(), keep),
            "scaler": self.scaler.state_dict(),
            "schedule_sampler": self.schedule_sampler.state_dict(),
            "best": self.best,
            "bad_steps": [self.bad_steps, self.bad_in_a_row],
        }

    def resume(self, stored, path, schedule_sampler, own):
        """Take over the checkpoint `stored` at `path`, or as much of it as a published one has. Its weights are the
        segmenter's already.

        schedule_sampler  the run's --schedule_sampler: the history of another one is left out
        own               whether it is of the same run, whose counts of bad steps and best score go on
        """
        self.ema.load(stored["weights"], stored["ema"])
        self.steps_done, self.samples = stored["step"], stored["samples"]
        if stored["optimizer"] is not None:
            self._resume_optimizer(stored["optimizer"]["state"])
        if stored["flags"] is None:
            return
        if own:
            self.best = stored.get("best")
            self.bad_steps, self.bad_in_a_row = stored.get("bad_steps", (0, 0))
        if stored["scaler"]:  # the run before had one
            self.scaler.load_state_dict(stored["scaler"])
        if stored["flags"].get("schedule_sampler") == schedule_sampler:
            check_schedule_sampler(stored["schedule_sampler"], self.schedule_sampler.state_dict(), path)
            self.schedule_sampler.load_state_dict(stored["schedule_sampler"])

    def _resume_optimizer(self, entries):
        """The moments of the parameters that are trained; the optimizer's settings are this run's."""
        # The U-Net's parameters come first, the encoders' are missing where they are not trained.
        kept = {
            index: {name: like(entry[name], self.trained[index]) for name in ("exp_avg", "exp_avg_sq")}
            | {"step": torch.as_tensor(entry["step"], dtype=torch.float32).reshape(())}
            for index, entry in entries.items()
            if index < len(self.trained)
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": kept})
