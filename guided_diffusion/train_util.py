"""The training loop."""

import math
import time

import torch

from .checkpoints.folder import CheckpointFolder
from .checkpoints.format import BEST
from .data.augmentation import NUM_DRAWS, augment
from .data.stream import EndlessSampler, endless_batches, pick_raters
from .dist_util import gradient_traffic
from .errors import TrainingError
from .logger import QUARTILES, Logger, LossMeter, NullLogger, NullSink
from .nn import seeded_generator, stack_randn, to_device
from .system.device import ComputeConfig, compile_model, peak_memory, prepare
from .system.signals import Signals
from .training.run_state import RunState
from .training.start import check_same_start, is_own, load_start, what_changed
from .training.step_status import StepReports


class Trainer:
    """Trains a segmenter, an AmbiguousSegmenter or a Baseline, on a LIDCDataset.

    Every draw (case, rater, timestep, noise, symmetry) is a function of the seed and its place in the endless stream of
    draws, so that a run that stops and continues, or is shared by several processes, makes the same draws.

    flags         every flag of the run, for its checkpoints
    start         what find_start gave
    validator     Validator; None: no validation
    how           ComputeConfig
    windows       a sink of logger.py, closed when the run ends
    """

    def __init__(
        self,
        segmenter,
        dataset,
        config,
        processes,
        flags,
        start=(None, None, []),
        validator=None,
        *,
        how=ComputeConfig(),
        windows=NullSink(),
    ):
        self.config, self.processes, self.flags, self.validator, self.windows = (
            config,
            processes,
            flags,
            validator,
            windows,
        )
        self.dataset, self.folder = dataset, CheckpointFolder(config.log_dir, config.keep)
        self.scores, self.saved = {}, None
        self.stop, self.save_wanted = False, False  # what the processes agreed on
        load_start(segmenter, start)

        if config.shard:  # before anything whole goes to the device
            processes.shard(segmenter.shardable())
        # Sharded weights cannot lie channels-last, and on a CPU the backward pass and the norms are slower so.
        channels_last = processes.device.type == "cuda" and not config.shard
        prepare(segmenter.train(), how, processes.device, channels_last)
        if how.compile:
            compile_model(segmenter, cuda_graphs=False)
        self.module = segmenter if config.shard else processes.wrap(segmenter)
        self.state = RunState(segmenter, config, config.batch_size * processes.world_size)
        stored, path, lines = start
        if stored is not None:
            own = is_own(path, config)
            self.state.resume(stored, path, config.schedule_sampler, own)
            lines = lines + (what_changed(stored, self.described, config) if own else [])
        check_same_start(processes, self.state, dataset.fingerprint)
        self.meter = LossMeter(segmenter.num_timesteps, processes.device)
        self.reports, self.signals = StepReports(processes.device), Signals()
        self.sampler = EndlessSampler(
            len(dataset),
            config.batch_size,
            config.seed,
            processes.rank,
            processes.world_size,
            self.state.samples,
            repeats=config.raters_per_image,
        )
        self.logger = NullLogger()
        if processes.is_main:
            self.logger = Logger(config.log_dir, self.columns(), self.state.steps_done, config.tensorboard)
        for line in (*lines, *dataset.notes, self.greeting(path)):
            self.logger.info(line)
        for numbers in self.logger.earlier:  # the curves begin where the run did
            windows.show_metrics(numbers)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self):
        """Train to the last step, or until a signal asks for the end, logging and saving on the way; the end is saved too.

        TrainingError: too many steps in a row without a finite loss and gradient.
        """
        end, self.logged = self.config.last_step, (time.monotonic(), self.state.steps_done)
        if end is not None and self.state.steps_done >= end:
            self.make_up_validation()
            self.logger.info(f"nothing to do: {self.state.steps_done} of {end} steps are done (--iterations)")
            self.windows.close()
            self.logger.close()
            return
        batches = endless_batches(
            self.dataset, self.sampler, self.config.num_workers, lambda: self.state.samples, self.logger.info
        )
        try:
            with self.signals, self.logger.progress(self.state.steps_done, end, "step") as bar:
                for batch in batches:
                    self.step(batch)
                    bar.update()
                    if self.look_around(bar):
                        break
            if self.validator and self.state.best:
                self.logger.info(
                    f"best: step {self.state.best['step']}, {self.validator.names[0]} {self.state.best['score']:.4f} ({BEST})"
                )
        finally:
            self.windows.close()
            self.logger.close()

    def look_around(self, bar):
        """After a step: validate, log and save where that is due or asked for. Returns whether the run ends here."""
        config, at_end = self.config, self.state.steps_done == self.config.last_step
        self.read_reports(all_of_them=at_end)
        if self.validator and not self.stop and (self.state.steps_done % self.eval_interval == 0 or at_end):
            self.validate()
        if self.scores or self.state.steps_done % config.log_interval == 0 or at_end:
            self.log(bar)
        if self.state.steps_done % config.save_interval == 0 or at_end or self.stop or self.save_wanted:
            self.save()
        if self.stop:
            self.logger.info(
                f"{self.signals.stop or 'a signal'}: ended after step {self.state.steps_done}; the same command goes on"
            )
        return self.stop or at_end

    def step(self, batch):
        """One optimizer step on one batch."""
        config, batch_size, K = self.config, self.config.batch_size, self.config.raters_per_image
        generators = [seeded_generator(config.seed, "draw", p) for p in self.sampler.places(self.state.samples)]
        u = torch.stack([torch.rand(2, generator=g) for g in generators])
        image, mask = batch.image, pick_raters(batch, u[::K, 0], K)
        t, weights = self.state.schedule_sampler.sample(u[:, 1])
        noise = stack_randn(generators, self.state.segmenter.noise_shape(mask.shape[2:]))
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
                self.state.scaler.scale(loss).backward()
            done.append({name: values.detach() for name, values in terms.items()})

        terms = {name: torch.cat([part[name] for part in done]) for name in done[0]}
        self.meter.add(terms, t, weights)
        self._optimize(batch.ids, terms)
        if self.state.schedule_sampler.learns:
            self.state.schedule_sampler.update(self.processes.gather(t), self.processes.gather(terms["loss"]))

    def _seed_dropout(self):
        generator = seeded_generator(self.config.seed, "dropout", self.processes.rank, self.state.steps_done)
        torch.manual_seed(generator.initial_seed())

    def _optimize(self, ids, terms):
        """Move the weights, unless a loss or a gradient is not finite on some process; that is decided on the device."""
        asked = torch.tensor([0.0, bool(self.signals.stop), self.signals.take_save()])
        flags = to_device(asked, self.processes.device)
        flags[0] = ~torch.isfinite(terms["loss"]).all()
        flags = self.processes.sum(flags)

        self.grad_norm = self.state.unscale()
        flags[0] += ~torch.isfinite(self.grad_norm)
        self.state.move(self.config.learning_rate(self.state.steps_done), bad=flags[0] > 0)
        self.reports.post(self.state.steps_done, ids, terms, flags)

    def read_reports(self, all_of_them=False):
        """Take in what the processes agreed on in earlier steps. TrainingError: --max_bad_steps in a row were left out."""
        reports = self.reports.read(all_of_them)
        while reports:
            report = reports.pop(0)
            self.stop |= report.stop
            self.save_wanted |= report.save
            self.state.count(report.bad)
            if self.state.bad_in_a_row >= self.config.max_bad_steps:  # more, where a run goes on with a smaller limit
                reports += self.reports.read(all_of_them=True)
                if all(later.bad for later in reports):  # else the row has ended meanwhile
                    self.give_up(report, len(reports))

    def give_up(self, report, more):
        """Save what was before the bad steps, `more` of which came after the report. Raises TrainingError.

        No bad step moved a weight. A schedule sampler that learns keeps what it saw of their finite losses.
        """
        self.state.rewind(more)
        self.save()
        told = self.processes.gather_objects((report.bad_terms(), report.ids))
        terms, ids = (list(dict.fromkeys(x for part in parts for x in part)) for parts in zip(*told, strict=True))
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
        with self.state.ema.applied():
            # Processes that share weights have to make the same network calls.
            self.scores = self.validator.score(
                self.state.segmenter, give_up=lambda: self.signals.stop and not self.config.shard
            )
        self.logged = (self.logged[0] + time.monotonic() - then, self.logged[1])  # the speed logged is that of training
        if not self.scores:
            return
        if self.validator.sheet is not None:
            for sink in (self.windows, self.logger.events):
                sink.picture("validation samples", self.validator.sheet, f"step {self.state.steps_done}")
        score, settings = self.scores[self.validator.names[0]], self.validator.settings
        if math.isfinite(score) and (
            self.state.best is None or self.state.best["settings"] != settings or score < self.state.best["score"]
        ):
            self.state.best = {"settings": settings, "step": self.state.steps_done, "score": score}
            self.write(self.folder.save_best)

    def make_up_validation(self):
        """Score the weights of a run that is at its end, if a stop kept it from that."""
        if not self.validator:
            return
        done = any(
            row["step"] == self.state.steps_done and self.validator.names[0] in row for row in self.logger.earlier
        )
        if any(self.processes.gather_objects(done)):
            return
        with self.signals:
            self.validate()
        if self.scores:
            self.tell({"step": self.state.steps_done, "samples": self.state.samples, **self.scores})
            self.save()  # with the best so far

    # -- what it says -------------------------------------------------------------------------------------------------

    def columns(self):
        """The columns of progress.csv."""
        terms = ("loss", *self.state.segmenter.terms)
        quartiles = [f"{term}_q{q}" for term in terms for q in range(QUARTILES)]
        scores = self.validator.names if self.validator else []
        return [
            "step",
            "samples",
            *terms,
            *scores,
            *quartiles,
            "grad_norm",
            "lr",
            "bad_steps",
            "samples_per_second",
            "memory_gb",
        ]

    def greeting(self, path):
        """What is about to be trained, in a line."""
        start = f"continuing {path} at step {self.state.steps_done}" if path else "starting afresh"
        count = sum(p.numel() for p in self.state.segmenter.model.parameters())
        end = self.config.last_step or "no last"
        return (
            f"{start}: {len(self.dataset)} cases, network of {count:,} parameters, {self.processes.world_size} x "
            f"{self.processes.device}, to step {end}, into {self.config.log_dir}"
        )

    def log(self, bar):
        """One line of the log for the steps since the last one."""
        means = self.meter.read(self.processes)
        (then, steps_then), self.logged = self.logged, (time.monotonic(), self.state.steps_done)
        drawn = (self.state.steps_done - steps_then) * self.config.batch_size * self.processes.world_size
        told = {
            "step": self.state.steps_done,
            "samples": self.state.samples,
            **{k: means[k] for k in self.columns() if k in means},
            **self.scores,
            "grad_norm": float(self.grad_norm),
            "lr": self.state.optimizer.param_groups[0]["lr"],
            "bad_steps": self.state.bad_steps,
            "samples_per_second": drawn / (self.logged[0] - then),
            "memory_gb": peak_memory(self.processes.device) / 1e9,
        }
        self.tell(told)
        bar.set_postfix({name: f"{means[name]:.3g}" for name in ("loss", *self.state.segmenter.terms) if name in means})
        self.scores = {}

    def tell(self, row):
        """{column: number} as a line of progress.csv and of the log, and in the windows."""
        self.logger.metrics(row)
        self.windows.show_metrics(row)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    @property
    def described(self):
        """What a checkpoint says of the run, besides its state."""
        # On a GPU threads do not decide how results are rounded.
        threads = torch.get_num_threads() if self.processes.device.type == "cpu" else None
        return {
            "flags": self.flags,
            "processes": self.processes.world_size,
            "threads": threads,
            "data": self.dataset.fingerprint,
            "random": {"seed": self.config.seed},
        }

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
        is_main = self.processes.is_main
        content = self.state.whole(self.described, is_main) if self.config.shard or is_main else None
        saved = save(content) if is_main else None
        self.processes.barrier()
        return saved
