"""The flags of a comparison, and what is refused."""

import math
import os
from dataclasses import dataclass
from typing import Annotated

from ..errors import ConfigError
from ..methods.registry import PRESETS
from ..sampling.samplers import FAST
from ..system.storage import refuse_remote


@dataclass(frozen=True)
class CompareConfig:
    data_dir: Annotated[str, "folder of cases"] = ""
    test_dir: Annotated[str, "folder of cases to score on; none: those of data_dir in turns, by --folds"] = ""
    methods: Annotated[tuple[str, ...], "presets to compare, of --preset's; differences are told from the first"] = (
        "cimd-small",
        "prob-unet",
    )
    budget_minutes: Annotated[float, "train each method for so long, as measured before; or give --budget_images"] = 0.0
    budget_images: Annotated[int, "train each method on so many masks; or give --budget_minutes"] = 0
    lrs: Annotated[tuple[float, ...], "learning rates that each method tries on each fold; none: the preset's own"] = ()
    trial_share: Annotated[float, "length of such a trial, as a share of the training"] = 0.2
    folds: Annotated[int, "parts of data_dir, each of which is scored by models that did not see it"] = 5
    validation_share: Annotated[float, "share of the cases left that is not trained on but chosen by"] = 0.15
    num_ensemble: Annotated[int, "masks for each case"] = 16
    batch_size: Annotated[int, "masks per step, of every method"] = 8
    augment: Annotated[str | None, "as in training, of every method; -1: its preset's"] = None
    fast: Annotated[bool, "sample by --fast those methods whose preset would take every timestep"] = False
    truth: Annotated[str, "truth.json of phantoms, of the cases that are scored"] = ""
    out_dir: Annotated[str, "where everything goes"] = "results/comparison"
    seed: Annotated[int, "of folds, weights and masks"] = 0


def check_compare_config(config, given):
    """Refuse, by the flag's name, what cannot be compared."""
    if not config.data_dir:
        raise ConfigError("--data_dir is missing: name the folder of cases")
    if unknown := [name for name in config.methods if name not in PRESETS]:
        raise ConfigError(f"--methods {unknown[0]} is unknown: choose some of {', '.join(PRESETS)}")
    if not config.methods or len(set(config.methods)) < len(config.methods):
        raise ConfigError("--methods: some are wanted, each once")
    if (config.budget_minutes > 0) == (config.budget_images > 0) or not math.isfinite(config.budget_minutes):
        raise ConfigError("give one of --budget_minutes and --budget_images, above 0")
    if config.folds < 2 and not config.test_dir:
        raise ConfigError(f"--folds {config.folds}: at least 2 are needed, or --test_dir")
    for name in ("trial_share", "validation_share"):
        if not 0 < getattr(config, name) < 1:
            raise ConfigError(f"--{name} {getattr(config, name)}: a share between 0 and 1 is needed")
    if min(config.num_ensemble, config.batch_size) < 1 or any(not 0 < lr < math.inf for lr in config.lrs):
        raise ConfigError("--num_ensemble and --batch_size want at least 1, --lrs positive numbers")
    if config.seed < 0:
        raise ConfigError(f"--seed {config.seed}: at least 0 is needed")
    if "method" in given:
        raise ConfigError("--method is the business of --methods, which names presets")
    if config.fast and (clash := sorted(given.keys() & FAST.keys())):
        raise ConfigError(f"--fast and --{clash[0]} contradict: give one of them")
    refuse_remote("out_dir", config.out_dir)
    for name in ("data_dir", "test_dir"):
        folder = os.path.realpath(getattr(config, name))
        if getattr(config, name) and os.path.realpath(config.out_dir).startswith(os.path.join(folder, "")):
            raise ConfigError(
                f"--out_dir {config.out_dir} lies in --{name}, whose cases would grow by its links: name another"
            )
    if "," in config.out_dir:
        raise ConfigError(f"--out_dir {config.out_dir}: a name without commas is needed")
