"""Converters for challenge data sets; see `converters` for their interface."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ...errors import ConfigError, DataError
from ...flags.classes import parse_classes
from ...system.storage import walk
from ..case_writer import RawCase
from .classes import complete, placed
from .config import ConvertConfig
from .facts import Facts
from .foreign_files import each, folders_with, scaled
from .volumes import modalities_first, on_one_grid, read_volume, slices

BRATS = ("flair", "t1", "t1ce", "t2")
MS = (("flair",), ("t1", "mprage", "f1"), ("t2", "f2"), ("pd",))  # names of each modality
MS_FILE = re.compile(r"(.+?)_(flair|mprage|t1|f1|t2|f2|pd|mask\d+)(?:_.*)?\.nii(?:\.gz)?", re.IGNORECASE)


def qubiq(config: ConvertConfig) -> Iterator[RawCase | DataError | Facts]:
    """CASE/image.nii.gz, CASE/task01_seg01.nii.gz, ...; a third axis holds modalities or slices.

    Each of several tasks is a structure, which --classes may name.
    """
    structures: tuple[str, ...] = ()
    if len(config.task) > 1:
        structures = config.classes or tuple(f"task{number}" for number in config.task)
        if len(structures) != len(config.task) or not parse_classes(structures).plain:
            raise ConfigError(f"--classes must give a name for each of the {len(config.task)} numbers of --task")
        yield Facts(structures=structures)
    yield from each(folders_with(config.src, "image.nii.gz"), partial(_qubiq_case, config, structures))


def _qubiq_case(config: ConvertConfig, structures: Sequence[str], folder: str) -> Iterator[RawCase]:
    within = tuple(os.path.relpath(folder, config.src).split(os.sep))
    name = "-".join(within)
    files = _qubiq_masks(config, structures or [""], folder)
    image = read_volume(os.path.join(folder, "image.nii.gz"))
    masks = [read_volume(os.path.join(folder, file)) for file in files if file]
    stacked = image.array.ndim > masks[0].array.ndim
    if stacked:
        image = modalities_first(image, masks[0], config.axis)
    (image, *masks), turned = on_one_grid([image, *masks])
    images = {f"m{k}": scaled(plane, image.file) for k, plane in enumerate(image.array)} if stacked else {}
    case = RawCase(name, {}, [], name, turned=turned, within=within)
    for one in slices(case, images or {"": scaled(image.array, image.file)}, masks, config.axis):
        yield replace(one, raters=placed(one.raters, files))


def _qubiq_masks(config: ConvertConfig, structures: Sequence[str], folder: str) -> list[str]:
    """The file of each structure by each rater in turn, "" for an empty mask. DataError: some are missing."""
    raters: dict[int, dict[str, str]] = {}
    for number, structure in zip(config.task, structures, strict=True):
        mask_name = re.compile(rf"task{number:02d}_seg(\d+)\.nii(\.gz)?")
        for file in os.listdir(folder):
            if match := mask_name.fullmatch(file):
                raters.setdefault(int(match[1]), {})[structure] = file
    if not raters:
        raise DataError(f"{folder}: no task{config.task[0]:02d}_seg01.nii.gz (--task)")
    named = {str(rater): own for rater, own in sorted(raters.items())}
    return [file for own in complete(folder, named, structures, config.missing).values() for file in own]


def brats(config: ConvertConfig) -> Iterator[RawCase | DataError]:
    """Slices of the implicit-ensembles code: X_X_PATIENT_MODALITY_SLICE_X.nii.gz.

    Its classes are merged, unless --structure or --classes names them. Slices of 240x240 pixels are cropped by 8 on
    each side.
    """
    groups: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for base, _, files in walk(config.src):
        for file in files:
            parts = file.split("_")
            if file.endswith((".nii", ".nii.gz")) and len(parts) > 4:
                groups[base, "_".join(parts[:3] + parts[4:])][parts[3]] = os.path.join(base, file)
    return each(sorted(groups.items()), partial(_brats_case, config))


def _brats_case(config: ConvertConfig, item: tuple[tuple[str, str], Mapping[str, str]]) -> Iterator[RawCase]:
    (base, stem), files = item
    if missing := [modality for modality in (*BRATS, "seg") if modality not in files]:
        raise DataError(f"{os.path.join(base, stem)}: the modality {missing[0]} is missing")
    volumes, turned = on_one_grid([read_volume(files[modality]) for modality in (*BRATS, "seg")])
    if volumes[0].array.shape == (240, 240):
        volumes = [replace(volume, array=volume.array[8:-8, 8:-8]) for volume in volumes]
    *images, label = volumes
    if (label.array % 1 != 0).any():
        raise DataError(f"{label.file}: values between its classes, as in an interpolated mask; use the original one")
    if not config.structure and not config.classes:
        label = replace(label, array=label.array > 0)
    planes = {modality: scaled(volume.array, volume.file) for modality, volume in zip(BRATS, images, strict=True)}
    name, patient = re.sub(r"\.nii(\.gz)?$", "", stem), "_".join(stem.split("_")[:3])
    return slices(RawCase(name, {}, [], patient, turned=turned), planes, [label])


def ms_mri(config: ConvertConfig) -> Iterator[RawCase | DataError | str]:
    """Multiple sclerosis: *_flair_*, *_t1_* or *_mprage_*, *_t2_*, *_pd_* volumes, *_mask1*, *_mask2*, slice by slice.

    Of several files of the same volume, a file named _pp is preferred, then one in a folder named preprocessed, then
    the first by path.
    """
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for base, _, files in walk(config.src):
        for file in files:
            if match := MS_FILE.fullmatch(file):
                groups[match[1]][match[2].lower()].append(os.path.join(base, file))
    volumes = [paths for files in groups.values() for paths in files.values()]
    several = [paths for paths in volumes if len(paths) > 1]
    if several:
        yield (
            f"{len(several)} volumes exist more than once, e.g. with and without preprocessing; "
            f"using {_preprocessed(several[0])}, for example"
        )
    yield from each(sorted(groups.items()), partial(_ms_visit, config))


def _preprocessed(paths: Iterable[str]) -> str:
    """The preprocessed file among several of the same volume."""

    def rank(path: str) -> tuple[bool, bool]:
        return "_pp." not in os.path.basename(path).lower(), "preprocessed" not in path.lower().split(os.sep)

    return min(paths, key=rank)


def _ms_visit(config: ConvertConfig, item: tuple[str, Mapping[str, list[str]]]) -> Iterator[RawCase]:
    stem, files = item
    found = {names[0]: [path for name in names for path in files.get(name, ())] for names in MS}
    numbers = sorted((name for name in files if name.startswith("mask")), key=lambda name: int(name[4:]))
    missing = [name for name, paths in found.items() if not paths]
    if not numbers:
        missing.append("mask1")
    if missing:
        raise DataError(f"{config.src}: {stem} has no {missing[0]} file")
    chosen = {name: _preprocessed(paths) for name, paths in found.items()}
    read = [read_volume(path) for path in (*chosen.values(), *(_preprocessed(files[name]) for name in numbers))]
    volumes, turned = on_one_grid(read)
    images = {name: scaled(volume.array, volume.file) for name, volume in zip(chosen, volumes, strict=False)}
    case = RawCase(stem, {}, [], stem.split("_")[0], turned=turned)
    return slices(case, images, volumes[len(chosen) :], config.axis)
