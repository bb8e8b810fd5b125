"""Log output of a training run: text lines, rows of metrics, pictures."""

import datetime
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from PIL import Image

from .. import __version__
from ..dist_util import Processes
from ..flags.configs import Configs
from ..flags.typed import typed_flags
from ..logger import QUARTILES, BaseLogger, Logger, LossMeter, NullLogger, Sink
from ..sampling.protocol import Segmenter
from ..system.device import peak_memory
from .config import TrainConfig
from .run_state import RunState
from .start import Start
from .validation import Validator

PACKAGE = "ambiguous-segmentation-diffusion"


def columns_of(segmenter: Segmenter, validator: Validator | None) -> list[str]:
    """The columns of progress.csv."""
    terms = ("loss", *segmenter.terms)
    quartiles = [f"{term}_q{q}" for term in terms for q in range(QUARTILES)]
    scores = validator.names if validator else []
    last = ["grad_norm", "lr", "bad_steps", "samples_per_second", "memory_gb"]
    return ["step", "samples", *terms, *scores, *quartiles, *last]


def run_header(configs: Configs, device: torch.device) -> list[str]:
    """The lines with which a run begins its log.txt: time, command, versions, and flags that are not at their defaults.

    The command is that of the process. Several processes are started by a launcher, whose own words it lacks.
    """
    cuda = f", CUDA {torch.version.cuda} on {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return [
        f"started: {datetime.datetime.now().astimezone().isoformat(timespec='seconds')}",
        f"command: {shlex.join(sys.orig_argv)}",
        f"versions: {PACKAGE} {__version__}, Python {platform.python_version()}, torch {torch.__version__}{cuda}",
        f"flags: {typed_flags(configs.values, *configs.classes)}",
    ]


def open_logger(
    segmenter: Segmenter,
    config: TrainConfig,
    processes: Processes,
    start: Start,
    validator: Validator | None = None,
    header: Sequence[str] = (),
) -> BaseLogger:
    """The logger to give to a run's Trainer. That of the first process writes into log_dir, the `header` first."""
    if not processes.is_main:
        return NullLogger()
    return Logger(config.log_dir, columns_of(segmenter, validator), start.step, config.tensorboard, header)


class RunLog:
    """Composes log rows and forwards them to the logger and the windows.

    windows  a sink from logger.py
    columns  column names of a row
    """

    def __init__(
        self, logger: BaseLogger, windows: Sink, columns: Sequence[str], num_timesteps: int, processes: Processes
    ) -> None:
        self.logger, self.windows, self.columns, self.processes = logger, windows, columns, processes
        self.meter = LossMeter(num_timesteps, processes.device)
        self.scores: dict[str, float] = {}  # of the last validation, for the next row
        self._row_time, self._row_step = time.monotonic(), 0  # of the last row
        self.earlier: Sequence[Mapping[str, float]] = list(logger.earlier)  # rows of earlier steps
        for row in self.earlier:  # so that curves start at the first step
            windows.show_metrics(row)

    def info(self, line: str) -> None:
        """Log a line of text."""
        self.logger.info(line)

    def picture(self, window: str, picture: Image.Image, caption: str) -> None:
        """Show a picture."""
        for sink in (self.windows, self.logger.events):
            sink.picture(window, picture, caption)

    def start_clock(self, step: int) -> None:
        """Start measuring the speed now, after `step` steps."""
        self._row_time, self._row_step = time.monotonic(), step

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Context whose duration does not count as training time."""
        then = time.monotonic()
        yield
        self._row_time += time.monotonic() - then

    def write_means(self, state: RunState, grad_norm: torch.Tensor) -> dict[str, str]:
        """Log a row for the steps since the last row; every process must call this. Returns {loss term: text}."""
        means = self.meter.read(self.processes)
        then, step_then = self._row_time, self._row_step
        self.start_clock(state.steps_done)
        masks = (state.steps_done - step_then) * state.masks_per_step
        values = {
            **{name: means[name] for name in self.columns if name in means},
            **self.scores,
            "grad_norm": float(grad_norm),
            "lr": state.optimizer.param_groups[0]["lr"],
            "bad_steps": state.bad_steps,
            "samples_per_second": masks / (self._row_time - then),
            "memory_gb": peak_memory(self.processes.device) / 1e9,
        }
        self.write(state, values)
        self.scores = {}
        return {name: f"{means[name]:.3g}" for name in ("loss", *state.segmenter.terms) if name in means}

    def write(self, state: RunState, values: dict[str, float]) -> None:
        """Log a row of {column: number}."""
        row = {"step": state.steps_done, "samples": state.samples, **values}
        self.logger.metrics(row)
        self.windows.show_metrics(row)

    def close(self) -> None:
        """Write pending output and close the sinks."""
        self.windows.close()
        self.logger.close()
