"""Generate phantom cases, whose rater masks follow a known distribution.

    python scripts/make_phantom.py --out data/phantom --num_cases 200 --seed 1

With --format, writes the input formats of the data preparation tools, to try them out:

    python scripts/make_phantom.py --out /tmp/lidc --format lidc --num_cases 20
    python scripts/prepare_lidc.py --dicom /tmp/lidc/dicom --xml /tmp/lidc/xml --out /tmp/cases
"""

import os
from collections.abc import Sequence
from typing import Annotated, Literal

from ..errors import ConfigError
from ..flags import command_line
from ..flags.fields import Flag, config, nonempty
from ..prepare.phantoms import files as phantom_files
from ..prepare.phantoms import phantom
from ..system import storage


@config()
class PhantomConfig:
    """The phantoms to generate."""

    out: Annotated[str, Flag("output folder, new or empty", required=True, local=True)] = ""
    num_cases: Annotated[int, Flag("number of cases", at_least=1)] = 100
    size: Annotated[int, Flag("side of the images, pixels", at_least=16)] = 128
    raters: Annotated[int, Flag("raters per case", at_least=1)] = 8
    modalities: Annotated[int, Flag("images per case", at_least=1, at_most=4)] = 1
    nodules: Annotated[int, Flag("nodules per image", at_least=1, at_most=3)] = 1
    modes: Annotated[
        tuple[str, ...], Flag("segmentation modes that raters choose from", choices=phantom.MODES, check=nonempty)
    ] = phantom.MODES
    probabilities: Annotated[
        tuple[float, ...] | None,
        Flag("probabilities of the modes, equal in all cases; auto: drawn per nodule", none="auto", at_least=0),
    ] = None
    format: Annotated[
        Literal["cases", "lidc", "pickle", "hdf5", "crops", "qubiq", "brats", "ms-mri", "folders"],
        Flag("output format"),
    ] = "cases"
    seed: Annotated[int, Flag("random seed; the same seed generates the same cases", at_least=0)] = 0


def check(config: PhantomConfig) -> None:
    """ConfigError: the flags are invalid in combination, or --out is not empty."""
    if os.path.isdir(config.out) and os.listdir(config.out):
        raise ConfigError(f"--out {config.out} is not empty: use a new folder")
    modes, p = config.modes, config.probabilities
    if len(set(modes)) < len(modes) or modes == ("absent",):
        raise ConfigError(f"--modes {','.join(modes)}: must name each mode only once, and not only absent")
    if p is not None and (len(p) != len(modes) or not abs(sum(p) - 1) <= 1e-6):
        raise ConfigError(f"--probabilities {','.join(map(str, p))}: must be one per mode of --modes, and sum to 1")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        config = command_line.parse_command_line((PhantomConfig,), __doc__, argv)[PhantomConfig]
        check(config)
        modalities = config.modalities if config.format not in ("brats", "ms-mri") else 4  # as these formats require
        more: phantom.SceneOptions = {
            "num_nodules": config.nodules,
            "modes": config.modes,
            "probabilities": config.probabilities,
            "num_modalities": modalities,
        }
        if config.format == "cases":
            phantom.write_set(config.out, config.num_cases, config.seed, config.size, config.raters, **more)
        else:
            storage.make_folder(config.out)
            cases = phantom_files.make_cases(config.num_cases, config.seed, config.size, config.raters, **more)
            phantom_files.write(config.format, config.out, cases)
        print(f"{config.num_cases} cases in {config.out}")


if __name__ == "__main__":
    main()
