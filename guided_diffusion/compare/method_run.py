"""One method of a comparison: choose a learning rate, train, sample, and measure the effort."""

import math
import os
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

from ..data.config import DataConfig
from ..errors import DataError
from ..flags.command_line import GAVE_UP
from ..flags.configs import Configs, Flags, configs_from_flags, pick_flags
from ..flags.fields import flag_fields
from ..flags.presets import FAST, preset_flags
from ..gaussian_diffusion import DiffusionConfig
from ..lidcloader import LIDCDataset
from ..logger import read_rows
from ..methods.registry import METHODS, MODEL_CONFIGS, PRESETS, foreign_flags
from ..predict import load
from ..sampling.config import SampleConfig
from ..sampling.samplers import SamplerConfig
from ..system import storage
from ..training.config import TrainConfig
from ..unet import UNetConfig
from .config import CompareConfig
from .folds import Split
from .runner import Runner
from .table import SCORED, training_of

PROBE_STEPS, PROBE_PARTS = 60, 3  # of the training that measures speed; the first part is warm-up
VALIDATIONS = 4  # per training, for its curve
MOST_VALIDATED = 32  # cases per validation
WARMUP_SHARE = 0.1  # longest warm-up, as a share of a run, so that short trials reach their learning rate
TRIAL_SHARE = 0.2  # length of a learning rate trial, as a share of the training
PATIENCE = 10  # seconds; a slower ensemble is timed only once
FLAGS = (DataConfig, SamplerConfig, *MODEL_CONFIGS)  # flags that a comparison accepts


class MethodRun:
    """One method of a comparison; its output is in OUT_DIR/METHOD.

    method  name of a preset
    flags   {name: value} of FLAGS, given on the command line
    report  called with a line of text per stage
    """

    def __init__(
        self, method: str, config: CompareConfig, flags: Flags, runner: Runner, report: Callable[[str], None] = print
    ) -> None:
        self.method, self.config, self.runner, self.report = method, config, runner, report
        self.preset = PRESETS[method]
        self.has_chain = METHODS[self.preset["method"]].has_chain
        architecture = {**self.preset, **flags}.get("architecture", "unet")
        foreign = foreign_flags(self.preset["method"], architecture)
        self.flags = {name: value for name, value in flags.items() if name not in foreign}

    # -- flags --------------------------------------------------------------------------------------------------------

    def configs(self) -> Configs:
        """The configs for training and sampling; flags that a stage sets have their defaults."""
        classes = (TrainConfig, SampleConfig, *FLAGS)
        own = {**self.flags, **self.chain(), "batch_size": self.config.batch_size, "data_dir": self.config.data_dir}
        own |= {"augment": self.config.augment} if self.config.augment else {}
        configs = configs_from_flags({**preset_flags(self.preset, own, *classes), **own}, *classes)
        configs.given = self.flags
        return configs

    def chain(self) -> dict[str, Any]:
        """Sampling flags {flag: value} that override the preset: those of --fast, and given ones."""
        own = pick_flags(self.flags, SamplerConfig)
        takes_all = self.has_chain and "steps" not in self.preset
        if not (self.config.fast and takes_all):
            return own
        most = self.flags.get("diffusion_steps", DiffusionConfig.diffusion_steps)
        return {**FAST, "steps": min(FAST["steps"], most), **own}

    def path(self, *parts: str) -> str:
        """A path in the method's folder."""
        return os.path.join(self.config.out_dir, self.method, *parts)

    def data(self, fold: int, part: str) -> str:
        """The folder of links to the cases of one part of a fold."""
        return os.path.join(self.config.out_dir, "data", f"fold{fold}", part)

    # -- the stages ---------------------------------------------------------------------------------------------------

    def run(self, splits: list[Split]) -> None:
        """For each fold choose a learning rate, train, and sample the test cases; then write result.json."""
        config, chosen, tried = self.config, [], []
        steps = self.count_steps()
        for fold, split in enumerate(splits):
            lr, trials = self.choose_lr(fold, split, steps)
            chosen.append(lr)
            tried.append(trials)
            rate = f", learning rate {lr:g}" if lr else ""
            self.report(f"{self.method}: training fold {fold + 1} of {len(splits)}, {steps} steps{rate}")
            validation = self.validation(fold, split, math.ceil(steps / VALIDATIONS))
            self.train(fold, self.path(f"fold{fold}"), steps, {"lr": lr, **validation})
            self.report(f"{self.method}: sampling")
            self.sample(fold)
        result = {
            "method": self.method,
            "steps": steps,
            "images": steps * config.batch_size,
            "lrs": chosen,
            "trials": tried,
            **self.measure(),
            **training_of(self.path("fold0")),
        }
        storage.write_json(self.path("result.json"), result)

    def validation(self, fold: int, split: Split, interval: int) -> dict[str, Any]:
        """Training flags {flag: value} to validate every `interval` steps."""
        return {
            "eval_data_dir": self.data(fold, "validation"),
            "eval_interval": interval,
            "eval_ensemble": SCORED,
            "eval_cases": min(MOST_VALIDATED, len(split["validation"])),
        }

    def train(self, fold: int, folder: str, steps: int, more: Flags, may_diverge: bool = False) -> bool:
        """Train, or resume. Returns whether training diverged, if it may. DataError: training did not complete.

        more  {flag: value} of training; value None: the preset's
        """
        flags = {
            "data_dir": self.data(fold, "training"),
            "log_dir": folder,
            "iterations": steps,
            "lr_anneal_steps": steps,
            "lr_warmup_steps": min(self.preset.get("lr_warmup_steps", 0), int(WARMUP_SHARE * steps)),
            "batch_size": self.config.batch_size,
            "save_interval": max(1, steps // 2),
            "keep": 1,
            "log_interval": max(1, steps // 20),
            "seed": self.config.seed,
            "augment": self.config.augment,
            **more,
            **self.flags,
            **self.chain(),
        }
        given = {name: value for name, value in flags.items() if value is not None or name in self.flags}
        status = self.runner("train", "--preset", self.method, *as_arguments(given), may_end=GAVE_UP)
        if status and may_diverge:
            return True
        if status:
            rate = f"learning rate {more['lr']:g}" if more.get("lr") else "its preset's learning rate"
            remedy = "remove it from --methods, or use smaller --lrs and another --out_dir"
            raise DataError(f"{self.method}: training diverged with {rate} ({folder}); {remedy}")
        rows = read_rows(os.path.join(folder, "progress.csv"))
        if not rows or int(rows[-1]["step"]) != steps or ("eval_interval" in more and not rows[-1][f"ged_{SCORED}"]):
            raise DataError(f"{folder}: training ended before the last validation; rerun the command to resume")
        return False

    def sample(self, fold: int) -> None:
        """Sample masks for the test cases of a fold."""
        count = self.config.num_ensemble
        flags = {
            "data_dir": self.data(fold, "testing"),
            "out_dir": self.path("samples"),
            "model_path": self.path(f"fold{fold}", "savedmodel.pt"),
            "num_ensemble": count,
            "batch_size": 4 * count,
            "seed": self.config.seed,
            **self.chain(),
        }
        self.runner("sample", *as_arguments(flags))

    def count_steps(self) -> int:
        """The number of steps within the budget: from --budget_images, or from the speed measured on the first fold."""
        config = self.config
        if config.budget_images:
            return max(1, config.budget_images // config.batch_size)
        self.report(f"{self.method}: measuring the speed of training")
        folder = self.path("speed")
        rows = read_rows(os.path.join(folder, "progress.csv"))
        if rows and int(rows[-1]["step"]) != PROBE_STEPS:  # interrupted: a resumed run would include another warm-up
            shutil.rmtree(folder)
        self.train(0, folder, PROBE_STEPS, {"log_interval": PROBE_STEPS // PROBE_PARTS})
        rows = read_rows(os.path.join(folder, "progress.csv"))
        speed = statistics.median(float(row["samples_per_second"]) for row in rows[1:])
        return max(1, int(60 * config.budget_minutes * speed / config.batch_size))

    def choose_lr(self, fold: int, split: Split, steps: int) -> tuple[float | None, dict[str, float | None]]:
        """Return (the learning rate with the lowest GED on the fold's validation cases, {rate: GED}).

        The GED is None for rates with which training diverged. DataError: training diverged with all rates.
        """
        lrs = self.config.lrs
        if len(lrs) < 2:
            return (lrs[0] if lrs else None), {}
        scores = {lr: self.score_lr(fold, split, lr, max(1, round(TRIAL_SHARE * steps))) for lr in lrs}
        found = {lr: score for lr, score in scores.items() if score is not None}
        if not found:
            raise DataError(
                f"{self.method}: training diverged with all --lrs {','.join(f'{lr:g}' for lr in lrs)}; use smaller ones"
            )
        if len(set(found.values())) < len(found):
            self.report(
                f"{self.method}: different --lrs gave equal scores, so the choice is arbitrary: use a larger budget"
            )
        return min(found, key=lambda lr: found[lr]), {f"{lr:g}": score for lr, score in scores.items()}

    def score_lr(self, fold: int, split: Split, lr: float, steps: int) -> float | None:
        """The GED on the fold's validation cases after a short training; None: training diverged."""
        self.report(f"{self.method}: trying learning rate {lr:g}, {steps} steps")
        folder = self.path(f"fold{fold}-lr{lr:g}")
        if self.train(fold, folder, steps, {"lr": lr, **self.validation(fold, split, steps)}, may_diverge=True):
            return None
        score = float(read_rows(os.path.join(folder, "progress.csv"))[-1][f"ged_{SCORED}"])
        return score if math.isfinite(score) else None

    def measure(self) -> dict[str, float]:
        """{"parameters": number used in sampling, "seconds": for one case's ensemble}."""
        model, count = load(self.path("fold0", "savedmodel.pt")), self.config.num_ensemble
        unet = model.configs[UNetConfig]
        shape = (unet.image_size, unet.channels)
        dataset = LIDCDataset(self.data(0, "validation"), *shape, model.configs[DataConfig])
        times: list[float] = []
        while len(times) < 4 and (not times or times[0] < PATIENCE):
            start = time.perf_counter()
            model.sample(dataset[0].image, count, batch_size=count, **self.chain())
            times.append(time.perf_counter() - start)
        parameters = sum(p.numel() for part in model.segmenter.sampling_parts for p in part.parameters())
        return {"parameters": parameters, "seconds": statistics.median(times[1:] or times)}


def as_arguments(flags: Flags) -> list[str]:
    """Flags {name: value} as command line arguments."""
    known = flag_fields(*FLAGS)
    shown = {name: known[name].show(value) if name in known else str(value) for name, value in flags.items()}
    return [word for name, value in shown.items() for word in (f"--{name}", value)]
