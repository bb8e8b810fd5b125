"""The flags of a comparison, and what is refused."""

import os
from typing import Annotated

from ..errors import ConfigError
from ..flags.fields import Flag, config, each_once
from ..flags.words import AUGMENTATIONS, parts_of
from ..methods.registry import PRESETS


@config()
class CompareConfig:
    """What is compared, and with which effort."""

    data_dir: Annotated[str, Flag("folder of cases", required=True, resume="free")] = ""
    test_dir: Annotated[
        str, Flag("folder of cases to score on; empty: those of data_dir in turns, by --folds", resume="free")
    ] = ""
    methods: Annotated[
        tuple[str, ...],
        Flag(
            "presets to compare; differences are reported from the first",
            choices=tuple(PRESETS),
            check=each_once,
            resume="free",
        ),
    ] = ("cimd-small", "prob-unet")
    budget_minutes: Annotated[
        float, Flag("minutes of training of each method, by its measured speed; or give --budget_images", at_least=0)
    ] = 0.0
    budget_images: Annotated[int, Flag("masks to train each method on; or give --budget_minutes", at_least=0)] = 0
    lrs: Annotated[
        tuple[float, ...], Flag("learning rates that each method tries on each fold; empty: the preset's", above=0)
    ] = ()
    folds: Annotated[int, Flag("parts of data_dir, each scored by models that were trained on the others")] = 5
    validation_share: Annotated[
        float, Flag("share of the remaining cases that chooses among --lrs", above=0, below=1)
    ] = 0.15
    num_ensemble: Annotated[int, Flag("masks for each case", at_least=1)] = 16
    batch_size: Annotated[int, Flag("masks per step, of every method", at_least=1)] = 8
    augment: Annotated[
        str | None,
        Flag("as in training, of every method; auto: its preset's", none="auto", check=parts_of(AUGMENTATIONS)),
    ] = None
    fast: Annotated[bool, Flag("sample by --fast those methods whose preset would take every timestep")] = False
    truth: Annotated[str, Flag("truth.json of phantoms, of the cases that are scored", resume="free")] = ""
    out_dir: Annotated[str, Flag("folder for everything", local=True, resume="free")] = "results/comparison"
    seed: Annotated[int, Flag("seed of folds, weights and masks", at_least=0)] = 0


def check_folders(config: CompareConfig) -> None:
    """ConfigError: the folders of the comparison are in each other's way."""
    for name in ("data_dir", "test_dir"):
        folder = os.path.realpath(getattr(config, name))
        if getattr(config, name) and os.path.realpath(config.out_dir).startswith(os.path.join(folder, "")):
            raise ConfigError(
                f"--out_dir {config.out_dir} lies in --{name}, whose cases would grow by its links: name another"
            )
    if "," in config.out_dir:
        raise ConfigError(f"--out_dir {config.out_dir}: must be a name without commas")
