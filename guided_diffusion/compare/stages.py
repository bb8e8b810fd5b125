"""Trains, samples and scores several methods on the same cases with the same effort: what compare.py does.

Training, sampling and scoring are commands of their own, written to commands.txt, and go on where they were when they are
repeated. A method is a preset's name; flags that are given hold for every method that knows them.
"""

import json
import math
import os
import shlex
import shutil
import statistics
import time
from typing import Any

from .. import script_util
from ..data.case_cache import hash_cases
from ..data.case_reader import DataConfig
from ..errors import ConfigError, DataError
from ..evaluation.truth import read_truth
from ..flags import command_line
from ..flags.configs import Configs, Flags, configs_from_flags, flags_from_configs, json_like, pick_flags
from ..flags.fields import flag_fields
from ..flags.presets import FAST, preset_flags
from ..flags.retired import without_constants
from ..flags.rules import check_rules
from ..gaussian_diffusion import DiffusionConfig
from ..lidcloader import LIDCDataset
from ..logger import read_rows
from ..methods.registry import METHODS, MODEL_CONFIGS, PRESETS, foreign_flags
from ..predict import load
from ..sampling.samplers import SamplerConfig
from ..system import storage
from ..system.workers import sigterm_as_interrupt
from ..training.config import TrainConfig, check_num_cases
from ..unet import UNetConfig
from .config import CompareConfig
from .folds import check_links, link_cases, split_cases
from .runner import COMMANDS, run_command
from .table import SCORED, tabulate, training_of

PROBE_STEPS, PROBE_PARTS = 60, 3  # by which the speed of training is measured; the first part is left out
VALIDATIONS = 4  # of a training, for its curve
MOST_VALIDATED = 32  # cases of a validation
WARMUP_SHARE = (
    0.1  # of a run: the most that a preset's warm-up takes, so that short trials come to the rate that they try
)
TRIAL_SHARE = 0.2  # length of the trial of a learning rate, of the training
PATIENCE = 10  # seconds; a slower ensemble is timed once


class Comparison:
    """The stages of a comparison, method by method; each method's part of the table is kept in its folder, as result.json.

    config       CompareConfig
    flags        {name: value} that were given too: of the model, the data and the sampler
    tell         called with a line for each stage
    run_command  runs a command of a stage: (its name, arguments, log file) -> exit status
    """

    def __init__(self, config, flags, tell=print, run_command=run_command):
        self.config, self.flags, self.tell, self.run_command = config, flags, tell, run_command
        self.data = os.path.join(config.out_dir, "data")

    def run(self):
        """Do what is not done yet; returns the table of `tabulate`. ConfigError, DataError: a command failed, or would;
        OSError: another comparison writes into the folder.
        """
        config = self.config
        with sigterm_as_interrupt(), storage.FolderLock(config.out_dir) as lock:
            self.prepare(lock)
            for method in config.methods:
                if storage.read_bytes(self.path(method, "result.json")) is None:
                    self.run_method(method)
            self.evaluate()
            return tabulate(config.out_dir, config.methods)

    def prepare(self, lock):
        """Refuse what can be refused, and link the cases."""
        config = self.config
        if config.truth:
            read_truth(config.truth)
        self.splits, lines = split_cases(config)
        self.check_methods()
        check_links(self.data)
        storage.make_folder(config.out_dir)
        lock.take()
        self.refuse_other_settings()
        link_cases(self.splits, self.data)
        for line in lines:
            self.tell(line)

    def evaluate(self):
        """Score all methods' samples together."""
        first, *others = (self.path(method, "samples") for method in self.config.methods)
        more = ["--truth", self.config.truth] if self.config.truth else []
        more += ["--compare", ",".join(others)] if others else []
        data = os.path.join(self.data, "testing")
        self.call("evaluate", "--data_dir", data, "--samples", first, "--out_dir", self.config.out_dir, *more)

    def check_methods(self) -> None:
        """ConfigError: a method could not be trained or sampled with, or a flag has no effect with any of them."""
        everything = (DataConfig, SamplerConfig, *MODEL_CONFIGS)
        for name in self.flags:
            if not any(name in self.known(method, *everything) for method in self.config.methods):
                raise ConfigError(f"--{name} has no effect with --methods {','.join(self.config.methods)}; remove it")
        fewest = min(len(split["training"]) for split in self.splits)
        for method in self.config.methods:
            configs = self.configs_of(method)
            check_rules(configs)
            check_num_cases(configs[TrainConfig], fewest, world_size=1)
            segmenter = script_util.create_segmenter(configs)
            if METHODS[method_of(method)].has_chain:
                segmenter.spaced(configs[SamplerConfig])

    def configs_of(self, method: str) -> Configs:
        """The configs that a method is trained and sampled with, with flags that a stage sets at their defaults."""
        classes = (TrainConfig, DataConfig, SamplerConfig, *MODEL_CONFIGS)
        own = {**self.known(method, DataConfig, *MODEL_CONFIGS), **self.chain(method)}
        own |= {"batch_size": self.config.batch_size, "data_dir": self.config.data_dir}
        own |= {"augment": self.config.augment} if self.config.augment else {}
        return configs_from_flags({**preset_flags(PRESETS[method], own, *classes), **own}, *classes)

    def refuse_other_settings(self) -> None:
        """Keep in the folder what decides the figures; refuse a folder with other settings or cases. Methods may be added."""
        fixed = [name for name, field in flag_fields(CompareConfig).items() if field.flag.resume == "fixed"]
        own = {name: value for name, value in flags_from_configs(self.config).items() if name in fixed}
        folders = {folder: name for split in self.splits for part in split.values() for name, folder in part.items()}
        parts = [{part: sorted(cases) for part, cases in split.items()} for split in self.splits]
        settings = {
            **own,
            "flags": json_like(self.flags),
            "cases": parts,
            "data": hash_cases(sorted((n, f) for f, n in folders.items()), ()),
        }
        path = os.path.join(self.config.out_dir, "settings.json")
        before = storage.read_bytes(path)
        if before is not None and without_constants(json.loads(before)) != settings:
            raise ConfigError(
                f"{self.config.out_dir} holds a comparison with other flags or cases (settings.json): "
                "name another --out_dir"
            )
        storage.write_json(path, settings)

    def path(self, method, *parts):
        return os.path.join(self.config.out_dir, method, *parts)

    def run_method(self, method):
        """For every fold choose a learning rate, train, and sample the cases left out; then write result.json."""
        config, chosen, tried = self.config, [], []
        steps = self.steps_of(method)
        for fold in range(len(self.splits)):
            folder = self.path(method, f"fold{fold}")
            lr, trials = self.choose_lr(method, fold, steps)
            chosen.append(lr)
            tried.append(trials)
            rate = f", learning rate {lr:g}" if lr else ""
            self.tell(f"{method}: training fold {fold + 1} of {len(self.splits)}, {steps} steps{rate}")
            self.train(method, fold, folder, steps, lr=lr, eval_interval=math.ceil(steps / VALIDATIONS))
            self.tell(f"{method}: sampling")
            self.call(
                "sample",
                "--data_dir",
                os.path.join(self.data, f"fold{fold}", "testing"),
                "--out_dir",
                self.path(method, "samples"),
                "--model_path",
                os.path.join(folder, "savedmodel.pt"),
                "--num_ensemble",
                config.num_ensemble,
                "--batch_size",
                4 * config.num_ensemble,
                "--seed",
                config.seed,
                *as_arguments(self.chain(method)),
            )
        result = {
            "method": method,
            "steps": steps,
            "images": steps * config.batch_size,
            "lrs": chosen,
            "trials": tried,
            **self.measure(method),
            **training_of(self.path(method, "fold0")),
        }
        storage.write_json(self.path(method, "result.json"), result)

    def known(self, method, *classes):
        """{flag: value} of those flags of the config classes that were given and that the method knows."""
        architecture = {**PRESETS[method], **self.flags}.get("architecture", "unet")
        foreign = foreign_flags(method_of(method), architecture)
        return {name: value for name, value in pick_flags(self.flags, *classes).items() if name not in foreign}

    def chain(self, method: str) -> dict[str, Any]:
        """How the method's masks are drawn, {flag: value}: as its preset says, but for --fast and flags given."""
        own = self.known(method, SamplerConfig)
        takes_all = METHODS[method_of(method)].has_chain and "steps" not in PRESETS[method]
        if not (self.config.fast and takes_all):
            return own
        most = self.flags.get("diffusion_steps", DiffusionConfig.diffusion_steps)
        return {**FAST, "steps": min(FAST["steps"], most), **own}

    def train(self, method, fold, folder, steps, *, lr=None, eval_interval=None, log_interval=None, may_diverge=False):
        """Train, or go on. Returns whether it diverged, where it may. DataError: it ended before its last step.

        lr             None: the preset's
        eval_interval  steps between two looks at the validation cases; None: none
        """
        data = os.path.join(self.data, f"fold{fold}")
        warmup = min(PRESETS[method].get("lr_warmup_steps", 0), int(WARMUP_SHARE * steps))
        flags = {**self.known(method, DataConfig, *MODEL_CONFIGS), **self.chain(method)}
        more = ["--lr", lr] if lr else []
        more += ["--augment", self.config.augment] if self.config.augment else []
        if eval_interval:
            more += [
                "--eval_data_dir",
                os.path.join(data, "validation"),
                "--eval_interval",
                eval_interval,
                "--eval_ensemble",
                SCORED,
            ]
            more += ["--eval_cases", min(MOST_VALIDATED, len(self.splits[fold]["validation"]))]
        status = self.call(
            "train",
            "--preset",
            method,
            "--data_dir",
            os.path.join(data, "training"),
            "--log_dir",
            folder,
            "--iterations",
            steps,
            "--lr_anneal_steps",
            steps,
            "--lr_warmup_steps",
            warmup,
            "--batch_size",
            self.config.batch_size,
            "--save_interval",
            max(1, steps // 2),
            "--keep",
            1,
            "--log_interval",
            log_interval or max(1, steps // 20),
            "--seed",
            self.config.seed,
            *more,
            *as_arguments(flags),
            may_end=command_line.GAVE_UP,
        )
        if status and may_diverge:
            return True
        if status:
            rate = f"learning rate {lr:g}" if lr else "its preset's learning rate"
            remedy = "leave it out of --methods, or give smaller --lrs and another --out_dir"
            raise DataError(f"{method}: training diverged with {rate} ({folder}); {remedy}")
        rows = read_rows(os.path.join(folder, "progress.csv"))
        if not rows or int(rows[-1]["step"]) != steps or (eval_interval and not rows[-1][f"ged_{SCORED}"]):
            raise DataError(
                f"{folder}: the training was ended before its last step was done and validated; the same command goes on"
            )
        return False

    def steps_of(self, method):
        """How many steps the budget allows: counted, or timed on the first fold."""
        config = self.config
        if config.budget_images:
            return max(1, config.budget_images // config.batch_size)
        self.tell(f"{method}: measuring the speed of training")
        folder = self.path(method, "speed")
        rows = read_rows(os.path.join(folder, "progress.csv"))
        if rows and int(rows[-1]["step"]) != PROBE_STEPS:  # broken off: what goes on warms up once more
            shutil.rmtree(folder)
        self.train(method, 0, folder, PROBE_STEPS, log_interval=PROBE_STEPS // PROBE_PARTS)
        rows = read_rows(os.path.join(folder, "progress.csv"))
        speed = statistics.median(float(row["samples_per_second"]) for row in rows[1:])
        return max(1, int(60 * config.budget_minutes * speed / config.batch_size))

    def choose_lr(self, method, fold, steps):
        """(the learning rate with the least energy distance on the validation cases of the fold, {rate: distance}), None for
        one with which training diverged. DataError: all did.
        """
        config = self.config
        if len(config.lrs) < 2:
            return (config.lrs[0] if config.lrs else None), {}
        short, trials = max(1, round(TRIAL_SHARE * steps)), {}
        for lr in config.lrs:
            self.tell(f"{method}: trying learning rate {lr:g}, {short} steps")
            folder = self.path(method, f"fold{fold}-lr{lr:g}")
            diverged = self.train(method, fold, folder, short, lr=lr, eval_interval=short, may_diverge=True)
            score = (
                math.nan if diverged else float(read_rows(os.path.join(folder, "progress.csv"))[-1][f"ged_{SCORED}"])
            )
            trials[f"{lr:g}"] = score if math.isfinite(score) else None
        if not any(score is not None for score in trials.values()):
            raise DataError(f"{method}: none of --lrs {','.join(trials)} trains it; give smaller ones")
        scores = [score for score in trials.values() if score is not None]
        if len(set(scores)) < len(scores):
            self.tell(
                f"{method}: trials of different --lrs end alike, so that they decide nothing: give a larger budget"
            )
        return min((lr for lr in config.lrs if trials[f"{lr:g}"] is not None), key=lambda lr: trials[f"{lr:g}"]), trials

    def measure(self, method):
        """{"parameters": of what sampling needs, "seconds": for one case's ensemble}."""
        model = load(self.path(method, "fold0", "savedmodel.pt"))
        unet, data = model.configs[UNetConfig], os.path.join(self.data, "fold0", "validation")
        dataset = LIDCDataset(data, unet.image_size, unet.image_channels, model.configs[DataConfig])
        times = []
        while len(times) < 4 and (not times or times[0] < PATIENCE):
            start = time.perf_counter()
            model.sample(
                dataset[0].image, self.config.num_ensemble, batch_size=self.config.num_ensemble, **self.chain(method)
            )
            times.append(time.perf_counter() - start)
        parameters = sum(p.numel() for part in model.segmenter.sampling_parts for p in part.parameters())
        return {"parameters": parameters, "seconds": statistics.median(times[1:] or times)}

    def call(self, command, *arguments, may_end=0):
        """Run a command, its text to console.log; returns its status, 0 or may_end. DataError: another one, with its last line."""
        arguments = [str(argument) for argument in arguments]
        log = os.path.join(self.config.out_dir, "console.log")
        with open(os.path.join(self.config.out_dir, "commands.txt"), "a", encoding="utf-8") as file:
            file.write(shlex.join(["python", "-m", f"{COMMANDS}.{command}", *arguments]) + "\n")
        status = self.run_command(command, arguments, log)
        if status not in (0, may_end):
            with open(log, encoding="utf-8") as file:
                last = ([""] + file.read().strip().splitlines())[-1]
            raise DataError(f"{command} ended with status {status}: {last} ({log}; the same command goes on)")
        return status


def method_of(preset):
    """The --method of a preset."""
    return PRESETS[preset]["method"]


def as_arguments(flags: Flags) -> list[str]:
    """Flags {name: value} as they are typed."""
    known = flag_fields(DataConfig, SamplerConfig, *MODEL_CONFIGS)
    return [word for name, value in flags.items() for word in (f"--{name}", known[name].show(value))]
