"""The training loop."""

import math
import time

import torch

from .checkpoints.folder import CheckpointFolder
from .checkpoints.format import BEST, FORMAT, VERSION
from .checkpoints.weights import check_schedule_sampler
from .data.augmentation import NUM_DRAWS, augment
from .data.stream import EndlessSampler, endless_batches, pick_raters
from .dist_util import full, gradient_traffic, like, whole
from .ema import EMA
from .errors import ConfigError, TrainingError
from .logger import QUARTILES, Logger, LossMeter, NullLogger
from .nn import seeded_generator, stack_randn, to_device
from .resample import create_named_schedule_sampler
from .step_reports import StepReports
from .system.device import ComputeConfig, compile_model, peak_memory, prepare
from .system.signals import Signals
from .train_config import check_train_config, is_own, load_start, what_changed
from .windows import NullWindows, show_metrics


class Trainer:
    """
    Trains a segmenter, an AmbiguousSegmenter or a Baseline, on a LIDCDataset.

    Every draw (case, rater, timestep, noise, symmetry) is a function of the seed and its place in the endless stream of
    draws, so that a run that stops and continues, or is shared by several processes, makes the same draws.

    flags         every flag of the run, for its checkpoints
    start         what find_start gave
    validator     Validator; None: no validation
    how           ComputeConfig
    windows       Windows or NullWindows, closed when the run ends
    """

    def __init__(
        self, segmenter, dataset, config, processes, flags, start=(None, None, []), validator=None, *, how=ComputeConfig(), windows=NullWindows()
    ):  # fmt: skip
        check_train_config(config)
        self.config, self.processes, self.flags, self.validator = config, processes, flags, validator
        self.windows = windows
        self.dataset, self.folder = dataset, CheckpointFolder(config.log_dir, config.keep)
        self.steps_done, self.samples, self.bad_steps, self.bad_in_a_row = 0, 0, 0, 0
        self.scores, self.best, self.saved = {}, None, None
        self.stop, self.save_wanted = False, False  # what the processes agreed on
        load_start(segmenter, start)

        if config.shard:  # before anything whole goes to the device
            processes.shard(segmenter.shardable())
        # Sharded weights cannot lie channels-last, and on a CPU the backward pass and the norms are slower so.
        channels_last = processes.device.type == "cuda" and not config.shard
        self.segmenter = prepare(segmenter.train(), how, processes.device, channels_last)
        if how.compile:
            compile_model(segmenter, cuda_graphs=False)
        self.module = segmenter if config.shard else processes.wrap(segmenter)
        self.trained = [p for p in segmenter.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.ema = EMA(segmenter, config.averages(config.batch_size * processes.world_size))
        self.schedule_sampler = create_named_schedule_sampler(config.schedule_sampler, segmenter.num_timesteps)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=segmenter.model.autocast_dtype == torch.float16)

        state, path, lines = start
        if state is not None:
            lines = lines + self.resume(state, path)
        starts = processes.gather_objects([self.steps_done, self.samples, dataset.fingerprint])
        if any(other != starts[0] for other in starts):
            raise ConfigError(f"the processes start from unlike steps, draws and cases, {starts}: do all see the same --log_dir and --data_dir?")
        self.meter = LossMeter(segmenter.num_timesteps, processes.device)
        self.reports, self.signals = StepReports(processes.device), Signals()
        self.sampler = EndlessSampler(
            len(dataset), config.batch_size, config.seed, processes.rank, processes.world_size, self.samples, config.raters_per_image
        )
        self.logger = NullLogger()
        if processes.is_main:
            self.logger = Logger(config.log_dir, self.columns(), self.steps_done, config.tensorboard)
        for line in (*lines, *dataset.notes, self.greeting(path)):
            self.logger.info(line)
        for numbers in self.logger.earlier:  # the curves begin where the run did
            show_metrics(windows, numbers)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self):
        """
        Train to the last step, or until a signal asks for the end, logging and saving on the way; the end is saved too.

        TrainingError: too many steps in a row without a finite loss and gradient.
        """
        end, self.logged = self.config.last_step, (time.monotonic(), self.steps_done)
        if end is not None and self.steps_done >= end:
            self.make_up_validation()
            self.logger.info(f"nothing to do: {self.steps_done} of {end} steps are done (--iterations)")
            self.windows.close()
            self.logger.close()
            return
        batches = endless_batches(self.dataset, self.sampler, self.config.num_workers, lambda: self.samples, self.logger.info)
        try:
            with self.signals, self.logger.progress(self.steps_done, end, "step") as bar:
                for batch in batches:
                    self.step(batch)
                    bar.update()
                    if self.look_around(bar):
                        break
            if self.validator and self.best:
                self.logger.info(f"best: step {self.best['step']}, {self.validator.names[0]} {self.best['score']:.4f} ({BEST})")
        finally:
            self.windows.close()
            self.logger.close()

    def look_around(self, bar):
        """After a step: validate, log and save where that is due or asked for. Returns whether the run ends here."""
        config, at_end = self.config, self.steps_done == self.config.last_step
        self.read_reports(all_of_them=at_end)
        if self.validator and not self.stop and (self.steps_done % self.eval_interval == 0 or at_end):
            self.validate()
        if self.scores or self.steps_done % config.log_interval == 0 or at_end:
            self.log(bar)
        if self.steps_done % config.save_interval == 0 or at_end or self.stop or self.save_wanted:
            self.save()
        if self.stop:
            self.logger.info(f"{self.signals.stop or 'a signal'}: ended after step {self.steps_done}; the same command goes on")
        return self.stop or at_end

    def step(self, batch):
        """One optimizer step on one batch."""
        config, batch_size, K = self.config, self.config.batch_size, self.config.raters_per_image
        generators = [seeded_generator(config.seed, "draw", p) for p in self.sampler.places(self.samples)]
        u = torch.stack([torch.rand(2, generator=g) for g in generators])
        image, mask = batch.image, pick_raters(batch, u[::K, 0], K)
        t, weights = self.schedule_sampler.sample(u[:, 1])
        noise = stack_randn(generators, self.segmenter.noise_shape(mask.shape[2:]))
        if config.augment != "none":
            changes = torch.stack([torch.rand(NUM_DRAWS, generator=g) for g in generators[::K]])
            image, mask = augment(image, mask.unflatten(0, (-1, K)).squeeze(2), config.augment, changes)
            mask = mask.flatten(0, 1)[:, None]
        self._seed_dropout()

        image, mask, t, weights, noise = (to_device(x, self.processes.device) for x in (image, mask, t, weights, noise))
        size = config.microbatch or batch_size
        parts = [slice(i, min(i + size, batch_size)) for i in range(0, batch_size, size)]
        done = []
        for part in parts:
            with gradient_traffic(self.module, part is parts[-1]):  # the processes share gradients once a step
                rows = None if K == 1 else torch.arange(part.stop - part.start, device=image.device) // K
                terms = self.module(image[part.start // K : part.stop // K], mask[part], t[part], noise[part], rows)
                loss = (weights[part] * terms["loss"]).sum() / batch_size
                self.scaler.scale(loss).backward()
            done.append({name: values.detach() for name, values in terms.items()})

        terms = {name: torch.cat([part[name] for part in done]) for name in done[0]}
        self.meter.add(terms, t, weights)
        self._optimize(batch.ids, terms)
        if self.schedule_sampler.learns:
            self.schedule_sampler.update(self.processes.gather(t), self.processes.gather(terms["loss"]))

    def _seed_dropout(self):
        key = (self.config.seed, "dropout", self.processes.rank, self.steps_done)
        torch.manual_seed(seeded_generator(*key).initial_seed())

    def _optimize(self, ids, terms):
        """Move the weights, unless a loss or a gradient is not finite on some process; that is decided on the device."""
        asked = torch.tensor([0.0, bool(self.signals.stop), self.signals.take_save()])
        flags = to_device(asked, self.processes.device)
        flags[0] = ~torch.isfinite(terms["loss"]).all()
        flags = self.processes.sum(flags)

        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.trained]
        assert not any(gradient is None for gradient in gradients), "a part that is to be trained had no part in the loss"
        self.grad_norm = full(torch.nn.utils.get_total_norm(gradients))
        flags[0] += ~torch.isfinite(self.grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.steps_done)
        bad = (flags[0] > 0).float()
        self.optimizer.found_inf = bad  # the fused kernel leaves everything as it is where this is 1
        self.optimizer.step()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.steps_done, moved=1 - bad)

        self.steps_done += 1
        self.samples += self.processes.world_size * self.config.batch_size
        self.reports.post(self.steps_done, ids, terms, flags)

    def read_reports(self, all_of_them=False):
        """
        Take in what the processes agreed on in earlier steps. TrainingError: --max_bad_steps in a row were left out.
        """
        reports = self.reports.read(all_of_them)
        while reports:
            report = reports.pop(0)
            self.stop |= report.stop
            self.save_wanted |= report.save
            self.bad_in_a_row = self.bad_in_a_row + 1 if report.bad else 0
            self.bad_steps += report.bad
            if self.bad_in_a_row >= self.config.max_bad_steps:  # more, where a run goes on with a smaller limit
                reports += self.reports.read(all_of_them=True)
                if all(later.bad for later in reports):  # else the row has ended meanwhile
                    self.give_up(report, len(reports))

    def give_up(self, report, more):
        """
        Save what was before the bad steps, `more` of which came after the report. Raises TrainingError.

        No bad step moved a weight. A schedule sampler that learns keeps what it saw of their finite losses.
        """
        self.bad_steps -= self.bad_in_a_row
        self.bad_in_a_row += more
        self.steps_done -= self.bad_in_a_row
        self.samples -= self.bad_in_a_row * self.processes.world_size * self.config.batch_size
        self.bad_in_a_row = 0
        self.save()
        told = self.processes.gather_objects((report.bad_terms(), report.ids))
        terms, ids = (list(dict.fromkeys(x for part in parts for x in part)) for parts in zip(*told))
        what = f"loss term {' and '.join(terms)}" if terms else "the gradient"
        message = (
            f"step {report.step}: {what} is not finite, as in the {self.config.max_bad_steps} steps to it (--max_bad_steps); "
            f"its cases are {', '.join(ids)}; {self.saved or self.config.log_dir} is from before"
        )
        self.logger.info(message)
        raise TrainingError(message)

    @property
    def eval_interval(self):
        return self.validator.config.eval_interval or self.config.save_interval

    def validate(self):
        """Score the averaged weights, for the next line of the log, and keep the checkpoint if it is the best so far."""
        then = time.monotonic()
        with self.ema.applied():
            # Processes that share weights have to make the same network calls.
            self.scores = self.validator.score(self.segmenter, give_up=lambda: self.signals.stop and not self.config.shard)
        self.logged = (self.logged[0] + time.monotonic() - then, self.logged[1])  # the speed logged is that of training
        if not self.scores:
            return
        if self.validator.sheet is not None:
            self.windows.picture("validation samples", self.validator.sheet, f"step {self.steps_done}")
        score, settings = self.scores[self.validator.names[0]], self.validator.settings
        if math.isfinite(score) and (self.best is None or self.best["settings"] != settings or score < self.best["score"]):
            self.best = {"settings": settings, "step": self.steps_done, "score": score}
            self.write(self.folder.save_best)

    def make_up_validation(self):
        """Score the weights of a run that is at its end, if a stop kept it from that."""
        if not self.validator:
            return
        done = any(row["step"] == self.steps_done and self.validator.names[0] in row for row in self.logger.earlier)
        if any(self.processes.gather_objects(done)):
            return
        with self.signals:
            self.validate()
        if self.scores:
            self.tell({"step": self.steps_done, "samples": self.samples, **self.scores})
            self.save()  # with the best so far

    # -- what it says -------------------------------------------------------------------------------------------------

    def columns(self):
        """The columns of progress.csv."""
        terms = ("loss", *self.segmenter.terms)
        quartiles = [f"{term}_q{q}" for term in terms for q in range(QUARTILES)]
        scores = self.validator.names if self.validator else []
        return ["step", "samples", *terms, *scores, *quartiles, "grad_norm", "lr", "bad_steps", "samples_per_second", "memory_gb"]

    def greeting(self, path):
        """What is about to be trained, in a line."""
        start = f"continuing {path} at step {self.steps_done}" if path else "starting afresh"
        count = sum(p.numel() for p in self.segmenter.model.parameters())
        end = self.config.last_step or "no last"
        return (
            f"{start}: {len(self.dataset)} cases, network of {count:,} parameters, {self.processes.world_size} x "
            f"{self.processes.device}, to step {end}, into {self.config.log_dir}"
        )

    def log(self, bar):
        """One line of the log for the steps since the last one."""
        means = self.meter.read(self.processes)
        (then, steps_then), self.logged = self.logged, (time.monotonic(), self.steps_done)
        drawn = (self.steps_done - steps_then) * self.config.batch_size * self.processes.world_size
        told = {
            "step": self.steps_done, "samples": self.samples, **{k: means[k] for k in self.columns() if k in means},
            **self.scores, "grad_norm": float(self.grad_norm), "lr": self.optimizer.param_groups[0]["lr"],
            "bad_steps": self.bad_steps, "samples_per_second": drawn / (self.logged[0] - then),
            "memory_gb": peak_memory(self.processes.device) / 1e9,
        }  # fmt: skip
        self.tell(told)
        bar.set_postfix({name: f"{means[name]:.3g}" for name in ("loss", *self.segmenter.terms) if name in means})
        self.scores = {}

    def tell(self, row):
        """{column: number} as a line of progress.csv and of the log, and in the windows."""
        self.logger.metrics(row)
        show_metrics(self.windows, row)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    @property
    def threads(self):
        """CPU threads that each process computes with; None on a GPU, where they do not decide how results are rounded."""
        return torch.get_num_threads() if self.processes.device.type == "cpu" else None

    def state(self):
        """Everything that has a state, whole. With --shard every process must call this; all but the first get no tensors."""
        keep = self.processes.is_main
        return {
            "format": FORMAT, "version": VERSION, "step": self.steps_done, "samples": self.samples, "flags": self.flags,
            "processes": self.processes.world_size, "threads": self.threads, "data": self.dataset.fingerprint,
            "weights": whole(self.segmenter.state_dict(), keep), "ema": whole(self.ema.weights, keep),
            "optimizer": whole(self.optimizer.state_dict(), keep), "schedule_sampler": self.schedule_sampler.state_dict(),
            "scaler": self.scaler.state_dict(), "random": {"seed": self.config.seed}, "best": self.best,
            "bad_steps": [self.bad_steps, self.bad_in_a_row],
        }  # fmt: skip

    def save(self):
        """Write a checkpoint; every process waits until it is whole."""
        self.read_reports(all_of_them=True)
        self.save_wanted = False
        if saved := self.write(self.folder.save):
            self.saved = saved
            self.logger.info(f"saved {saved}")

    def write(self, save):
        """save(state) in the first process, whose result this returns; the others wait for it, and get None."""
        # Copying every tensor to its main memory is work that only shards ask of a process that writes nothing.
        state = self.state() if self.config.shard or self.processes.is_main else None
        saved = save(state) if self.processes.is_main else None
        self.processes.barrier()
        return saved

    def resume(self, state, path):
        """
        Take over the state of the checkpoint at `path`, or as much of it as a published one has; its weights are the
        segmenter's already. Returns lines that say what will not be as it would have been without a stop.
        """
        own = is_own(path, self.config)
        self.ema.load(state["weights"], state["ema"])
        self.steps_done, self.samples = state["step"], state["samples"]
        if state["optimizer"] is not None:
            # Its settings are this run's. The U-Net's parameters come first, the encoders' are missing where they are not trained.
            stored = {
                index: {name: like(entry[name], self.trained[index]) for name in ("exp_avg", "exp_avg_sq")}
                | {"step": torch.as_tensor(entry["step"], dtype=torch.float32).reshape(())}
                for index, entry in state["optimizer"]["state"].items() if index < len(self.trained)
            }
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": stored})
        if state["flags"] is None:
            return []
        if own:
            self.best = state.get("best")
            self.bad_steps, self.bad_in_a_row = state.get("bad_steps", (0, 0))
        if state["scaler"]:  # the run before had one
            self.scaler.load_state_dict(state["scaler"])
        if state["flags"].get("schedule_sampler") == self.config.schedule_sampler:
            check_schedule_sampler(state["schedule_sampler"], self.schedule_sampler.state_dict(), path)
            self.schedule_sampler.load_state_dict(state["schedule_sampler"])
        now = (self.config, self.flags, self.processes.world_size, self.dataset.fingerprint, self.threads)
        return what_changed(state, *now) if own else []
