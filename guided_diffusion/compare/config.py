"""The flags of a comparison, and their checks."""

import os
from typing import Annotated

from ..data.names import PatientPattern, PatientTable
from ..errors import ConfigError
from ..flags.fields import Flag, config, each_once
from ..flags.words import AUGMENTATIONS, parts_of
from ..methods.registry import PRESETS


@config()
class CompareConfig:
    """What to compare, and with which effort."""

    data_dir: Annotated[str, Flag("folder of cases", required=True, resume="free")] = ""
    test_dir: Annotated[
        str, Flag("folder of cases to score on; empty: cross-validate on data_dir with --folds", resume="free")
    ] = ""
    methods: Annotated[
        tuple[str, ...],
        Flag(
            "presets to compare; differences are relative to the first",
            choices=tuple(PRESETS),
            check=each_once,
            resume="free",
        ),
    ] = ("cimd-small", "prob-unet")
    budget_minutes: Annotated[
        float, Flag("training minutes per method, from its measured speed; or use --budget_images", at_least=0)
    ] = 0.0
    budget_images: Annotated[int, Flag("masks to train each method on; or use --budget_minutes", at_least=0)] = 0
    lrs: Annotated[
        tuple[float, ...], Flag("learning rates to try for each method and fold; empty: the preset's", above=0)
    ] = ()
    folds: Annotated[int, Flag("number of cross-validation folds of data_dir")] = 5
    validation_share: Annotated[
        float, Flag("share of the training cases held out to choose among --lrs", above=0, below=1)
    ] = 0.15
    num_ensemble: Annotated[int, Flag("masks per case", at_least=1)] = 16
    batch_size: Annotated[int, Flag("masks per step, for every method", at_least=1)] = 8
    augment: Annotated[
        str | None,
        Flag(
            "augmentation in training, for every method; auto: the preset's", none="auto", check=parts_of(AUGMENTATIONS)
        ),
    ] = None
    fast: Annotated[bool, Flag("sample with --fast where a preset would use every timestep")] = False
    truth: Annotated[str, Flag("truth.json of the scored cases, if they are phantoms", resume="free")] = ""
    patient_pattern: PatientPattern = ""
    patients: PatientTable = ""
    out_dir: Annotated[str, Flag("output folder", local=True, resume="free")] = "results/comparison"
    seed: Annotated[int, Flag("random seed of folds, weights and masks", at_least=0)] = 0


def check_folders(config: CompareConfig) -> None:
    """ConfigError: out_dir is inside a folder of cases, or its name is invalid."""
    for name in ("data_dir", "test_dir"):
        folder = os.path.realpath(getattr(config, name))
        if getattr(config, name) and os.path.realpath(config.out_dir).startswith(os.path.join(folder, "")):
            raise ConfigError(
                f"--out_dir {config.out_dir} is inside --{name}, so its links would count as cases: use another folder"
            )
    if "," in config.out_dir:
        raise ConfigError(f"--out_dir {config.out_dir}: must not contain commas")
