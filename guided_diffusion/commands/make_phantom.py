"""Make a set of phantom cases, whose raters follow a known distribution.

    python scripts/make_phantom.py --out data/phantom --num_cases 200 --seed 1

In the formats that the tools of data preparation read, to try them out:

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
    """A set of phantoms."""

    out: Annotated[str, Flag("folder to write, new or empty", required=True, local=True)] = ""
    num_cases: Annotated[int, Flag("cases", at_least=1)] = 100
    size: Annotated[int, Flag("side of the images, pixels", at_least=16)] = 128
    raters: Annotated[int, Flag("raters for each case", at_least=1)] = 8
    modalities: Annotated[int, Flag("images for each case", at_least=1, at_most=4)] = 1
    nodules: Annotated[int, Flag("nodules in each image", at_least=1, at_most=3)] = 1
    modes: Annotated[tuple[str, ...], Flag("answers that raters give", choices=phantom.MODES, check=nonempty)] = (
        phantom.MODES
    )
    probabilities: Annotated[
        tuple[float, ...] | None,
        Flag("of these answers, the same in all cases; auto: as each image shows", none="auto", at_least=0),
    ] = None
    format: Annotated[
        Literal["cases", "lidc", "pickle", "hdf5", "crops", "qubiq", "brats", "ms-mri", "folders"],
        Flag("what to write"),
    ] = "cases"
    seed: Annotated[int, Flag("seed of the set; the same seed makes the same cases", at_least=0)] = 0


def check(config: PhantomConfig) -> None:
    """ConfigError: no phantoms can be made so."""
    if os.path.isdir(config.out) and os.listdir(config.out):
        raise ConfigError(f"--out {config.out} is not empty: name a new folder")
    modes, p = config.modes, config.probabilities
    if len(set(modes)) < len(modes) or modes == ("absent",):
        raise ConfigError(f"--modes {','.join(modes)}: must name each answer once, and not absent alone")
    if p is not None and (len(p) != len(modes) or not abs(sum(p) - 1) <= 1e-6):
        raise ConfigError(f"--probabilities {','.join(map(str, p))}: must be one for each of --modes, with sum 1")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        config = command_line.parse_command_line((PhantomConfig,), __doc__, argv)[PhantomConfig]
        check(config)
        modalities = config.modalities if config.format not in ("brats", "ms-mri") else 4  # which these formats have
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
