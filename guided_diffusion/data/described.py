"""The config of reading, with what a set of cases states: in dataset.json, file names, the header of a packed file."""

import os
from dataclasses import replace

from ..errors import DataError
from ..flags.classes import FROM_FILES, Classes, parse_classes, show_classes
from ..system.storage import walk
from .config import DataConfig
from .files.case_files import LABEL, Report
from .files.dataset_json import DatasetFile, read_dataset_file
from .stores.packed import PackedCases, is_packed


def with_intensity_range(config: DataConfig, file: DatasetFile | None) -> DataConfig:
    """`config` with the range of dataset.json, if it has none of its own."""
    if file is None or file.intensity_range is None or config.intensity_range is not None:
        return config
    return replace(config, intensity_range=file.intensity_range)


def with_level(config: DataConfig, file: DatasetFile | None, directory: str) -> DataConfig:
    """`config` with the levels of a structure that dataset.json names, in place of the name, unless files have it."""
    name = config.structure
    if file is None or name not in file.structures or _have_files(directory, (name,)):
        return config
    levels = file.levels_of(config.structure)
    return replace(config, structure="" if levels is None else "+".join(map(str, levels)))


def described(config: DataConfig, directory: str, report: Report = lambda line: None) -> DataConfig:
    """`config` with the classes and levels that the set in `directory` states; see `with_classes` and `with_level`."""
    config = with_classes(config, directory, report)
    return config if os.path.isfile(directory) else with_level(config, read_dataset_file(directory), directory)


def with_classes(config: DataConfig, directory: str, report: Report = lambda line: None) -> DataConfig:
    """`config` with the classes of the set in `directory`, and the level that its dataset.json ignores.

    Given classes get the levels of dataset.json, or the files that the cases have for each structure. Where all
    foreground is one class, or one structure is chosen, there are none.

    report  called with a line if dataset.json gives the classes other levels than `config`
    DataError: dataset.json is damaged, or names other classes, or ignores another level.
    """
    if os.path.isfile(directory):
        return _as_packed(config, directory) if is_packed(directory) else config
    file = read_dataset_file(directory)
    if file and file.ignored is not None:
        if config.ignore_label not in (None, file.ignored):
            raise DataError(
                f"{file.path}: labels ignores the level {file.ignored}, but --ignore_label is {config.ignore_label} "
                f"(given, or stored with the model): give --ignore_label {file.ignored}"
            )
        config = replace(config, ignore_label=file.ignored)
    if config.structure or config.merge_labels or config.label_threshold is not None:
        return config
    given = config.class_set
    if file and (len(file.structures) > 1 or (file.structures and given.several)):
        classes = agreed(given, file)
        if not given.plain and classes != given:
            report(f"{file.path}: its levels of the classes are used, {', '.join(show_classes(classes))}")
        config = replace(config, classes=show_classes(classes))
    classes, may_be_files = config.class_set, given.plain or not given.exclusive
    if may_be_files and not classes.from_files and _have_files(directory, classes.names):
        config = replace(config, classes=tuple(f"{name}={FROM_FILES}" for name in classes.names))
    return config


def agreed(given: Classes, file: DatasetFile) -> Classes:
    """The classes of dataset.json, in the order of the given ones, or those if they are of another kind.

    DataError: the names differ, or one has regions, the other exclusive classes, and not of the same levels.
    """
    own = file.classes
    if not given.names:
        return own
    if set(given.names) != set(own.names):
        raise DataError(
            f"{file.path}: labels names {', '.join(own.names)}, but the classes are {', '.join(given.names)} "
            "(--classes, or those of the checkpoint)"
        )
    levels = dict(zip(own.names, own.levels, strict=True))
    if given.exclusive != own.exclusive and not given.plain and not given.from_files:
        if all(one[0] == levels[name][0] for name, one in zip(given.names, given.levels, strict=True)):
            return given
        raise DataError(
            f"{file.path}: labels has {own.kind} as {', '.join(show_classes(own))}, which does not fit {given.kind} as "
            f"{', '.join(show_classes(given))} (--classes, or those of the checkpoint)"
        )
    if given.names == own.names:
        return own
    return parse_classes([f"{name}={'+'.join(map(str, levels[name]))}" for name in given.names])


def _as_packed(config: DataConfig, path: str) -> DataConfig:
    """`config` with the ignored level of a packed file, and its classes, if it has none or their names only."""
    rules = PackedCases(path).header.get("rules") or {}
    if config.ignore_label is None:
        config = replace(config, ignore_label=rules.get("ignore_label"))
    packed = tuple(rules.get("classes") or ())
    if not packed or config.structure or config.merge_labels or config.label_threshold is not None:
        return config
    own, given = parse_classes(packed), config.class_set
    if not given.names or (given.names == own.names and (given.plain or given.exclusive == own.exclusive)):
        return replace(config, classes=packed)
    return config


def _have_files(directory: str, names: tuple[str, ...]) -> bool:
    """Whether labels are named after structures, label0_NAME.png; the first folder that has labels decides."""
    if not names or not os.path.isdir(directory):
        return False
    for _, folders, files in walk(directory, lambda error: None):
        folders.sort()
        if found := [match[2] for file in files if (match := LABEL.match(file))]:
            return bool(set(found) & set(names))
    return False
