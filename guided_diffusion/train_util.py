"""The training loop."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from tqdm import tqdm

from .checkpoints.folder import CheckpointFolder
from .checkpoints.format import BEST, Checkpoint
from .data.stream import Batch, endless_batches
from .dist_util import Processes, gradient_traffic
from .errors import TrainingError
from .flags.configs import Flags
from .lidcloader import LIDCDataset
from .logger import BaseLogger, NullLogger, NullSink, Sink
from .nn import seeded_generator, to_device
from .sampling.protocol import Segmenter
from .system.device import ComputeConfig
from .system.signals import Signals
from .training.config import TrainConfig
from .training.draws import draw_inputs, sampler_of
from .training.run_log import RunLog, columns_of
from .training.run_state import RunState, describe_run, place
from .training.start import Start, check_same_start, load_start, reading_of, what_changed
from .training.step_status import StepReport, StepReports
from .training.validation import Validator

Saved = TypeVar("Saved")


class Trainer:
    """Trains a segmenter.

    Every draw (case, rater, timestep, noise, symmetry) depends only on the seed and its position in the endless stream
    of draws. A resumed run, or a run on several processes, therefore makes the same draws.

    flags      all flags of the run, stored in its checkpoints
    start      the result of find_start; the weights are loaded here
    validator  None: no validation
    logger     from open_logger; closed when the run ends, together with the windows
    windows    a sink from logger.py
    """

    def __init__(
        self,
        segmenter: Segmenter,
        dataset: LIDCDataset,
        config: TrainConfig,
        processes: Processes,
        flags: Flags,
        start: Start = Start(),
        *,
        validator: Validator | None = None,
        how: ComputeConfig = ComputeConfig(),
        logger: BaseLogger = NullLogger(),
        windows: Sink = NullSink(),
    ) -> None:
        self.config, self.dataset, self.processes, self.validator = config, dataset, processes, validator
        self.folder, self.saved = CheckpointFolder(config.log_dir, config.keep), ""
        load_start(segmenter, start)
        self.module = place(segmenter, config, how, processes)
        self.state = RunState(segmenter, config, config.batch_size * processes.world_size)
        self.info = describe_run(flags, config, processes, dataset, reading_of(start, dataset))
        self.sampler = sampler_of(dataset, config, processes)
        self.reports, self.signals = StepReports(processes.device), Signals()
        self.grad_norm = torch.tensor(math.nan)
        self.log = RunLog(logger, windows, columns_of(segmenter, validator), segmenter.num_timesteps, processes)
        self.resume(start)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last step or until a signal arrives, with regular logs and checkpoints; save at the end.

        TrainingError: too many consecutive steps with a loss or gradient that is not finite.
        """
        end, done = self.config.last_step, self.state.steps_done
        try:
            if end is None or done < end:
                self._run_to(end)
            else:
                self.run_missed_validation()
                self.log.info(f"nothing to do: {done} of {end} steps are done (--iterations)")
        finally:
            self.log.close()

    def _run_to(self, end: int | None) -> None:
        self.log.start_clock(self.state.steps_done)
        batches = endless_batches(
            self.dataset, self.sampler, self.config.num_workers, lambda: self.state.samples, self.log.info
        )
        with self.signals, self.log.logger.progress(self.state.steps_done, end, "step") as bar:
            for batch in batches:
                self.step(batch)
                bar.update()
                if self.after_step(bar):
                    break
        if self.validator and (best := self.state.best):
            self.log.info(f"best: step {best['step']}, {self.validator.names[0]} {best['score']:.4f} ({BEST})")

    def after_step(self, bar: tqdm) -> bool:
        """Validate, log and save after a step, where due or requested. Returns whether the run ends here."""
        config, step = self.config, self.state.steps_done
        at_end = step == config.last_step
        self.read_reports(all_of_them=at_end)
        if self._validates_at(step, at_end):
            self.validate()
        if self.log.scores or step % config.log_interval == 0 or at_end:
            bar.set_postfix(self.log.write_means(self.state, self.grad_norm))
        if step % config.save_interval == 0 or at_end or self.reports.stop or self.reports.save:
            self.save()
        if self.reports.stop:  # possibly read during the save
            name = self.signals.stop or "a signal"
            self.log.info(f"{name}: stopped after step {step}; rerun the command to resume")
        return self.reports.stop or at_end

    # -- a step -------------------------------------------------------------------------------------------------------

    def step(self, batch: Batch) -> None:
        """One optimizer step on one batch."""
        config, batch_size, n = self.config, self.config.batch_size, self.config.raters_per_image
        drawn = draw_inputs(batch, self.sampler.places(self.state.samples), config, self.state)
        self._seed_dropout()

        drawn = drawn.to(self.processes.device)
        size = config.microbatch or batch_size
        parts = [slice(i, min(i + size, batch_size)) for i in range(0, batch_size, size)]
        done = []
        for part in parts:
            with gradient_traffic(self.module, part is parts[-1]):  # one all-reduce per step
                image, mask, t, weights, noise, valid = drawn.part(part, n)
                rows = None if n == 1 else torch.arange(len(mask), device=mask.device) // n
                ignoring = {} if valid is None else {"valid": valid}  # which methods of others may lack
                terms = self.module(image, mask, t, noise, rows, **ignoring)
                loss = (weights * terms["loss"]).sum() / batch_size
                self.state.scaler.scale(loss).backward()
            done.append({name: values.detach() for name, values in terms.items()})

        terms = {name: torch.cat([part[name] for part in done]) for name in done[0]}
        self.log.meter.add(terms, drawn.t, drawn.weights)
        self._optimize(batch.ids, terms)
        if self.state.schedule_sampler.learns:
            self.state.schedule_sampler.update(self.processes.gather(drawn.t), self.processes.gather(terms["loss"]))

    def _seed_dropout(self) -> None:
        generator = seeded_generator(self.config.seed, "dropout", self.processes.rank, self.state.steps_done)
        torch.manual_seed(generator.initial_seed())

    def _optimize(self, ids: list[str], terms: dict[str, torch.Tensor]) -> None:
        """Update the weights unless a loss or gradient on any process is not finite; this is decided on the device."""
        asked = torch.tensor([0.0, bool(self.signals.stop), self.signals.take_save()])
        flags = to_device(asked, self.processes.device)
        flags[0] = ~torch.isfinite(terms["loss"]).all()
        flags = self.processes.sum(flags)

        self.grad_norm = self.state.unscale()
        overflow = ~torch.isfinite(self.grad_norm)
        flags[0] += overflow & self.state.has_least_scale()  # else it is expected in float16, and lowers the scale
        self.state.move(self.config.learning_rate(self.state.steps_done), bad=(flags[0] > 0) | overflow)
        self.reports.post(self.state.steps_done, ids, terms, flags)

    def read_reports(self, all_of_them: bool = False) -> None:
        """Process the reports of earlier steps. TrainingError: --max_bad_steps consecutive bad steps."""
        reports = self.reports.read(all_of_them)
        while reports:
            report = reports.pop(0)
            self.state.count(report.bad)
            if self.state.bad_in_a_row >= self.config.max_bad_steps:  # above, if a resumed run has a smaller limit
                reports += self.reports.read(all_of_them=True)
                if all(later.bad for later in reports):  # a later step was good: the run recovered
                    self.give_up(report, len(reports))

    def give_up(self, report: StepReport, more: int) -> None:
        """Save the state before the bad steps, `more` of which came after the report. Raises TrainingError.

        Bad steps do not change weights. A learning schedule sampler keeps the finite losses that it saw in them.
        """
        self.state.rewind(more)
        self.save()
        gathered = self.processes.gather_objects((report.bad_terms(), report.ids))
        terms, ids = (list(dict.fromkeys(x for part in parts for x in part)) for parts in zip(*gathered, strict=True))
        what = f"loss term {' and '.join(terms)}" if terms else "the gradient"
        message = (
            f"step {report.step}: {what} is not finite, for {self.config.max_bad_steps} steps in a row "
            f"(--max_bad_steps); cases of this step: {', '.join(ids)}; last good state: "
            f"{self.saved or self.config.log_dir}"
        )
        self.log.info(message)
        raise TrainingError(message)

    # -- validation ---------------------------------------------------------------------------------------------------

    def _validates_at(self, step: int, at_end: bool) -> bool:
        if self.validator is None or self.reports.stop:
            return False
        return at_end or step % (self.validator.config.eval_interval or self.config.save_interval) == 0

    def validate(self) -> None:
        """Score the averaged weights for the next log row, and save the checkpoint if it is the best so far."""
        validator, step = self.validator, self.state.steps_done
        if validator is None:
            return
        with self.log.clock_stopped(), self.state.ema.applied():
            # Processes with sharded weights must make the same network calls.
            self.log.scores = scores = validator.score(
                self.state.segmenter, give_up=lambda: self.signals.stop and not self.config.shard
            )
        if not scores:
            return
        if validator.sheet is not None:
            self.log.picture("validation samples", validator.sheet, f"step {step}")
        if validator.improves(scores, self.state.best):
            score = scores[validator.names[0]]
            self.state.best = {"settings": validator.settings, "step": step, "score": score}
            self.write(self.folder.save_best)

    def run_missed_validation(self) -> None:
        """Validate the final weights of a finished run if it was stopped before its last validation."""
        if self.validator is None:
            return
        step, name = self.state.steps_done, self.validator.names[0]
        done = any(row["step"] == step and name in row for row in self.log.earlier)
        if any(self.processes.gather_objects(done)):
            return
        with self.signals:
            self.validate()
        if self.log.scores:
            self.log.write(self.state, self.log.scores)
            self.save()  # stores the best score

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint; every process waits until it is complete."""
        self.read_reports(all_of_them=True)
        self.reports.save = False
        if saved := self.write(self.folder.save):
            self.saved = saved
            self.log.info(f"saved {saved}")

    def write(self, save: Callable[[Checkpoint], Saved]) -> Saved | None:
        """Call save(checkpoint) in the first process and return its result; other processes wait and return None."""
        # Other processes copy tensors to main memory only if the weights are sharded.
        is_main = self.processes.is_main
        if not is_main and not self.config.shard:
            self.processes.barrier()
            return None
        checkpoint = self.state.checkpoint(self.info, keep=is_main)
        saved = save(checkpoint) if is_main else None
        self.processes.barrier()
        return saved

    def resume(self, start: Start) -> None:
        """Restore the state from the start's checkpoint, if any, and log it. The weights are already loaded."""
        lines = [*start.lines]
        if start.checkpoint is not None:
            self.state.resume(start.checkpoint, start.path, self.config.schedule_sampler, start.own)
            if start.own:
                lines += what_changed(start.checkpoint, self.info, self.config)
        self.sampler.start = self.state.samples
        check_same_start(self.processes, self.state, self.info.data)
        for line in (*lines, *self.dataset.notes, self._first_line(start)):
            self.log.info(line)

    def _first_line(self, start: Start) -> str:
        """The log line that describes the run."""
        begin = f"continuing {start.path} at step {start.step}" if start.path else "starting a new run"
        count = sum(p.numel() for p in self.state.segmenter.model.parameters())
        return (
            f"{begin}: {len(self.dataset)} cases, network with {count:,} parameters, {self.processes.world_size} x "
            f"{self.processes.device}, last step {self.config.last_step or 'none'}, output in {self.config.log_dir}"
        )
