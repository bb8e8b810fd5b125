"""Make a set of phantom cases, whose raters follow a known distribution:

    python scripts/make_phantom.py --out data/phantom --num_cases 200 --seed 1

In the formats that the tools of data preparation read, to try them out:

    python scripts/make_phantom.py --out /tmp/lidc --format lidc --num_cases 20
    python scripts/prepare_lidc.py --dicom /tmp/lidc/dicom --xml /tmp/lidc/xml --out /tmp/cases
"""

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from ..errors import ConfigError
from ..flags import command_line
from ..flags.fields import configs_from_flags
from ..prepare.phantoms import files as phantom_files
from ..prepare.phantoms import phantom
from ..system import storage
from ..system.storage import refuse_remote


@dataclass(frozen=True)
class PhantomConfig:
    out: Annotated[str, "folder to write, new or empty"] = ""
    num_cases: Annotated[int, "cases"] = 100
    size: Annotated[int, "side of the images, pixels"] = 128
    raters: Annotated[int, "raters for each case"] = 8
    modalities: Annotated[int, "images for each case, at most 4"] = 1
    nodules: Annotated[int, "nodules in each image, at most 3"] = 1
    modes: Annotated[str, "answers that raters give, of tight, loose, lobulated, absent"] = (
        "tight,loose,lobulated,absent"
    )
    probabilities: Annotated[
        tuple[float, ...] | None, "of these answers, the same in all cases; -1: as each image shows"
    ] = None
    format: Annotated[
        Literal["cases", "lidc", "pickle", "hdf5", "crops", "qubiq", "brats", "ms-mri", "folders"], "what to write"
    ] = "cases"
    seed: Annotated[int, "of the set; the same seed makes the same cases"] = 0


def check(config):
    if not config.out:
        raise ConfigError("--out is missing: name the folder to write")
    refuse_remote("out", config.out)
    if os.path.isdir(config.out) and os.listdir(config.out):
        raise ConfigError(f"--out {config.out} is not empty: name a new folder")
    if config.num_cases < 1 or config.raters < 1 or config.seed < 0 or config.size < 16:
        raise ConfigError("--num_cases and --raters want at least 1, --seed at least 0, --size at least 16")
    if not 1 <= config.modalities <= 4 or not 1 <= config.nodules <= 3:
        raise ConfigError("--modalities wants 1 to 4, --nodules 1 to 3")
    modes = config.modes.split(",")
    if not set(modes) <= set(phantom.MODES) or len(set(modes)) < len(modes) or modes == ["absent"]:
        raise ConfigError(f"--modes {config.modes}: some of {','.join(phantom.MODES)} are wanted")
    p = config.probabilities
    if p is not None and (len(p) != len(modes) or min(p) < 0 or not abs(sum(p) - 1) <= 1e-6):
        raise ConfigError(f"--probabilities {','.join(map(str, p))}: one for each of --modes is wanted, 1 in all")
    return tuple(modes)


def main(argv=None):
    with command_line.one_line_errors():
        given, _ = command_line.parse_command_line((PhantomConfig,), __doc__, argv)
        (config,) = configs_from_flags(given, PhantomConfig)
        modalities = config.modalities if config.format not in ("brats", "ms-mri") else 4  # which these formats have
        more = {
            "num_nodules": config.nodules,
            "modes": check(config),
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
