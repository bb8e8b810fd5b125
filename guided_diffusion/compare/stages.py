"""The stages of compare.py: train, sample and score several methods on the same cases with equal effort.

Training, sampling and scoring run as separate commands, listed in commands.txt, and resume when rerun. Methods are
named by their presets; given flags apply to every method that reads them.
"""

import json
import os
from collections.abc import Callable

from .. import script_util
from ..data.config import DataConfig
from ..data.stores.case_cache import hash_cases
from ..errors import ConfigError
from ..evaluation.truth import read_truth
from ..flags.configs import Configs, Flags, flags_from_configs, json_like
from ..flags.fields import flag_fields
from ..flags.retired import without_constants
from ..flags.rules import check_rules
from ..lidcloader import LIDCDataset
from ..sampling.samplers import SamplerConfig
from ..system import folders, storage
from ..system.workers import sigterm_as_interrupt
from ..training.config import TrainConfig, check_num_cases
from ..unet import UNetConfig
from .config import CompareConfig
from .folds import Split, check_links, link_cases, split_cases
from .method_run import MethodRun
from .page import Table
from .runner import RunCommand, Runner, run_command
from .table import tabulate


class Comparison:
    """The stages of a comparison; each method's results are stored in its folder as result.json.

    flags        {name: value} of model, data and sampler, given on the command line
    report       called with a line of text per stage
    run_command  (command name, arguments, log file) -> exit status
    """

    def __init__(
        self,
        config: CompareConfig,
        flags: Flags,
        report: Callable[[str], None] = print,
        run_command: RunCommand = run_command,
    ) -> None:
        self.config, self.flags, self.report = config, flags, report
        self.runner = Runner(config.out_dir, run_command)
        self.methods = [MethodRun(name, config, flags, self.runner, report) for name in config.methods]

    def run(self) -> Table:
        """Run all stages that are not finished; returns the result of `tabulate`.

        ConfigError, DataError: a command failed, or would fail. OSError: another comparison is using the folder.
        """
        with sigterm_as_interrupt(), storage.FolderLock(self.config.out_dir) as lock:
            splits = self.prepare(lock)
            for method in self.methods:
                if storage.read_bytes(method.path("result.json")) is None:
                    method.run(splits)
            self.evaluate()
            return tabulate(self.config.out_dir, self.config.methods)

    def prepare(self, lock: storage.FolderLock) -> list[Split]:
        """Check flags and cases, and link the cases; returns the split of each fold."""
        config, data = self.config, os.path.join(self.config.out_dir, "data")
        if config.truth:
            read_truth(config.truth)
        splits, lines = split_cases(config, DataConfig(skip_unlabelled=self.flags.get("skip_unlabelled", False)))
        self.check_methods(splits)
        check_links(data)
        folders.check_writable(config.out_dir, "out_dir")
        lock.take()
        self.refuse_other_settings(splits)
        link_cases(splits, data)
        for line in lines:
            self.report(line)
        return splits

    def evaluate(self) -> None:
        """Score all methods' samples together."""
        first, *others = (method.path("samples") for method in self.methods)
        more = ["--truth", self.config.truth] if self.config.truth else []
        more += ["--compare", ",".join(others)] if others else []
        data, out = os.path.join(self.config.out_dir, "data", "testing"), self.config.out_dir
        self.runner("evaluate", "--data_dir", data, "--samples", first, "--out_dir", out, *more)

    def check_methods(self, splits: list[Split]) -> None:
        """ConfigError, DataError: a method cannot be trained or sampled, or a flag has no effect with any method."""
        for name in self.flags:
            if not any(name in method.flags for method in self.methods):
                raise ConfigError(f"--{name} has no effect with --methods {','.join(self.config.methods)}; remove it")
        fewest = min(len(split["training"]) for split in splits)
        some_case = next(iter(splits[0]["training"].values()))
        for method in self.methods:
            configs = method.configs()
            check_rules(configs)
            check_num_cases(configs[TrainConfig], fewest, world_size=1)
            segmenter = script_util.create_segmenter(with_channels_of(some_case, configs))
            if method.has_chain:
                segmenter.spaced(configs[SamplerConfig])

    def refuse_other_settings(self, splits: list[Split]) -> None:
        """Store the settings that affect the results. ConfigError: the folder has other settings or cases.

        More methods may be added.
        """
        fixed = [name for name, field in flag_fields(CompareConfig).items() if field.flag.resume == "fixed"]
        folders = {folder: name for split in splits for part in split.values() for name, folder in part.items()}
        settings = {
            **{name: value for name, value in flags_from_configs(self.config).items() if name in fixed},
            "flags": json_like(self.flags),
            "cases": [{part: sorted(cases) for part, cases in split.items()} for split in splits],
            "data": hash_cases(sorted((name, folder) for folder, name in folders.items()), ()),
        }
        path = os.path.join(self.config.out_dir, "settings.json")
        before = storage.read_bytes(path)
        if before is not None and without_constants(json.loads(before)) != settings:
            raise ConfigError(
                f"{self.config.out_dir} has a comparison with different flags or cases (settings.json): "
                "use another --out_dir"
            )
        storage.write_json(path, settings)


def with_channels_of(case: str, configs: Configs) -> Configs:
    """The configs with the channels that training takes from cases like that in the folder `case`.

    DataError: the case has another number of planes than --image_channels.
    """
    unet = configs[UNetConfig]
    dataset = LIDCDataset(case, unet.image_size, unet.image_channels, configs[DataConfig])
    return script_util.settle_channels(configs, dataset.num_planes)
