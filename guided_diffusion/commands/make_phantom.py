"""Generate phantom cases, whose rater masks follow a known distribution.

    python scripts/make_phantom.py --out data/phantom --num_cases 200 --seed 1

--kind fundus draws optic discs and cups, and --kind flips shapes of up to 19 classes:

    python scripts/make_phantom.py --kind fundus --out data/fundus --num_cases 200 --seed 1

With --format, writes the input formats of the data preparation tools, to try them out:

    python scripts/make_phantom.py --out /tmp/lidc --format lidc --num_cases 20
    python scripts/prepare_lidc.py --dicom /tmp/lidc/dicom --xml /tmp/lidc/xml --out /tmp/cases
"""

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from ..errors import ConfigError
from ..flags import command_line
from ..flags.fields import Flag, config, flag_fields, nonempty
from ..flags.sizes import PIXELS, Size, as_size
from ..prepare.phantoms import files as phantom_files
from ..prepare.phantoms import flips, fundus, label_maps, phantom
from ..system import storage

DEFAULT_SIZE = {"nodules": 128, "fundus": 64, "flips": 64}
DEFAULT_RATERS = {"nodules": 8, "fundus": 6, "flips": 8}
DEFAULT_CLASSES = 10  # of flips
ONLY_FOR = {  # the kind that reads a flag
    **dict.fromkeys(("modalities", "nodules", "modes", "probabilities", "format"), "nodules"),
    "num_classes": "flips",
}


@config()
class PhantomConfig:
    """The phantoms to generate."""

    out: Annotated[str, Flag("output folder, new or empty", required=True, local=True)] = ""
    kind: Annotated[
        Literal["nodules", "fundus", "flips"],
        Flag("nodules: one class; fundus: disc and cup, in colour; flips: classes that flip to a twin, in colour"),
    ] = "nodules"
    num_cases: Annotated[int, Flag("number of cases", at_least=1)] = 100
    size: Annotated[
        Size | None,
        Flag(
            f"size of the images, {PIXELS}, except of nodules; auto: 128 for nodules, otherwise 64",
            none="auto",
            at_least=16,
        ),
    ] = None
    raters: Annotated[int | None, Flag("raters per case; auto: 8, of fundus 6", none="auto", at_least=1)] = None
    num_classes: Annotated[
        int | None,
        Flag(
            f"classes of flips beside the background: at most five pairs, then classes that never flip; "
            f"auto: {DEFAULT_CLASSES}",
            none="auto",
            at_least=2,
            at_most=label_maps.MAX_CLASSES,
        ),
    ] = None
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
    for name, field in flag_fields(PhantomConfig).items():
        value = getattr(config, name)
        if ONLY_FOR.get(name, config.kind) != config.kind and value != field.default:
            raise ConfigError(f"--{name} {field.show(value)}: --kind {config.kind} does not use it; remove it")
    if config.kind == "nodules" and isinstance(config.size, tuple):
        height, width = config.size
        raise ConfigError(f"--size {height},{width}: images of nodules are square; give one number of pixels")
    modes, p = config.modes, config.probabilities
    if len(set(modes)) < len(modes) or modes == ("absent",):
        raise ConfigError(f"--modes {','.join(modes)}: must name each mode only once, and not only absent")
    if p is not None and (len(p) != len(modes) or not abs(sum(p) - 1) <= 1e-6):
        raise ConfigError(f"--probabilities {','.join(map(str, p))}: must be one per mode of --modes, and sum to 1")


def write_nodules(config: PhantomConfig, size: int, raters: int) -> None:
    """Write the cases of --kind nodules to --out, in the format of --format."""
    more: phantom.SceneOptions = {
        "num_nodules": config.nodules,
        "modes": config.modes,
        "probabilities": config.probabilities,
        "num_modalities": config.modalities if config.format not in ("brats", "ms-mri") else 4,  # as these require
    }
    if config.format == "cases":
        phantom.write_set(config.out, config.num_cases, config.seed, size, raters, **more)
        return
    storage.make_folder(config.out)
    cases = phantom_files.make_cases(config.num_cases, config.seed, size, raters, **more)
    phantom_files.write(config.format, config.out, cases)


def write_classes(config: PhantomConfig, size: Size, raters: int) -> None:
    """Write the cases of a kind with several classes to --out."""
    about: dict[str, Any] = {"kind": config.kind, "seed": config.seed, "size": size, "raters": raters}
    pixels, indices = as_size(size), range(config.num_cases)
    if config.kind == "fundus":
        phantoms = (fundus.make_fundus(config.seed, index, pixels, raters) for index in indices)
        label_maps.write_set(config.out, config.kind, phantoms, fundus.CLASSES, about)
        return
    count = config.num_classes or DEFAULT_CLASSES
    about["flips"] = {name: round(p, 6) for name, p in flips.flip_probabilities(count).items()}
    phantoms = (flips.make_flips(config.seed, index, pixels, raters, count) for index in indices)
    label_maps.write_set(config.out, config.kind, phantoms, flips.class_names(count), about)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        config = command_line.parse_command_line((PhantomConfig,), __doc__, argv)[PhantomConfig]
        check(config)
        size, raters = config.size or DEFAULT_SIZE[config.kind], config.raters or DEFAULT_RATERS[config.kind]
        if isinstance(size, int) and config.kind == "nodules":
            write_nodules(config, size, raters)
        else:
            write_classes(config, size, raters)
        print(f"{config.num_cases} cases in {config.out}")


if __name__ == "__main__":
    main()
