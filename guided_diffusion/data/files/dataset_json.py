"""dataset.json beside the cases: what nnU-Net's file of this name states, and what else is known of a data set."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import DataError
from ...flags.classes import Classes, parse_classes
from ...system import storage
from ..names import SPLIT_NAMES

FILE = "dataset.json"
TEXTS = ("name", "licence", "source")
BACKGROUND, IGNORED = "background", "ignore"


@dataclass(frozen=True)
class DatasetFile:
    """What dataset.json states; empty or None: nothing.

    path             of the file
    channel_names    names of the modalities, in the order of their files
    labels           {structure: its levels}, without background
    background       level of the background
    paint_order      value that each structure has in a label map, if they are regions (nnU-Net: regions_class_order)
    raters           names of the raters; label k of each case is by rater k
    intensity_range  (low, high) of the values of images, which become 0 and 1
    """

    path: str = FILE
    name: str = ""
    channel_names: tuple[str, ...] = ()
    labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    background: int = 0
    paint_order: tuple[int, ...] = ()
    raters: tuple[str, ...] = ()
    intensity_range: tuple[float, float] | None = None
    licence: str = ""
    source: str = ""

    @property
    def structures(self) -> list[str]:
        """The names of `labels`, without the level that nnU-Net ignores."""
        return [name for name in self.labels if name != IGNORED]

    @property
    def ignored(self) -> int | None:
        """The level of pixels that count in no loss and no figure."""
        return next(iter(self.labels.get(IGNORED, ())), None)

    @property
    def classes(self) -> Classes:
        """The structures as classes; exclusive if each has one level, otherwise regions. DataError: they cannot be."""
        names = self.structures
        several = any(len(self.labels[name]) > 1 for name in names)
        levels = [self._painted_first(k, name) if several else self.labels[name] for k, name in enumerate(names)]
        texts = ["+".join(map(str, one)) for one in levels]
        try:
            return parse_classes([f"{name}={text}" for name, text in zip(names, texts, strict=True)])
        except ValueError as error:
            raise DataError(f"{self.path}: labels {error}; correct it") from error

    def _painted_first(self, number: int, name: str) -> tuple[int, ...]:
        """The levels of a region, first the one that it is painted with: by default, that of no later region."""
        levels, later = self.labels[name], self.structures[number + 1 :]
        own = [level for level in levels if not any(level in self.labels[other] for other in later)]
        value = self.paint_order[number] if self.paint_order else next(iter(own), None)
        if value not in levels:
            needed = "must have" if self.paint_order else "is missing, which has"
            raise DataError(
                f"{self.path}: regions_class_order {needed} a level of each region, by which it is painted; {name} has "
                f"{', '.join(map(str, levels))}"
            )
        return (value, *(level for level in levels if level != value))

    def levels_of(self, structure: str) -> tuple[int, ...] | None:
        """The levels of a structure; None: it is the only label, so that all foreground is this structure.

        DataError: the file does not name it.
        """
        if structure not in self.structures:
            known = ", ".join(self.structures) or "no structures"
            raise DataError(f"{self.path}: --structure {structure} is not among its labels, which are {known}")
        return None if list(self.labels) == [structure] else self.labels[structure]

    def in_words(self) -> str:
        """The structures with their levels: "1 liver, 2 tumour"."""
        pairs = [("+".join(map(str, levels)), name) for name, levels in self.labels.items()]
        return ", ".join(f"{levels} {name}" for levels, name in pairs)


# -- reading ----------------------------------------------------------------------------------------------------------


def read_dataset_file(directory: str) -> DatasetFile | None:
    """The dataset.json of a folder of cases: in it or, if the folder is a split such as training, above it.

    Of a file, such as a packed one, the folder that contains it counts. None: there is none.
    DataError: it is damaged, or contradicts itself, or both places have one and they differ.
    """
    if storage.is_remote(directory):  # cases are read from local folders only
        return None
    folder = os.path.dirname(directory) or "." if os.path.isfile(directory) else directory
    places = [folder]
    if os.path.basename(os.path.normpath(folder)).lower() in SPLIT_NAMES:
        places.append(os.path.dirname(os.path.normpath(folder)) or ".")
    found = [file for place in places if (file := read_one(os.path.join(place, FILE)))]
    if len(found) == 2 and dataclasses.replace(found[1], path=found[0].path) != found[0]:
        raise DataError(f"{found[0].path}: differs from {found[1].path}; remove one of them")
    return found[0] if found else None


def read_one(path: str) -> DatasetFile | None:
    """The content of a dataset.json; None: there is no such file. DataError: it is damaged or contradicts itself."""
    content = storage.read_bytes(path)
    if content is None:
        return None
    try:
        stored = json.loads(content.decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); repair or remove it") from error
    if not isinstance(stored, dict):
        raise DataError(f"{path}: not a JSON object of keys such as channel_names and labels; repair or remove it")
    try:
        labels, background = _labels(stored.get("labels") or {})
        return DatasetFile(
            path,
            channel_names=_channels(stored.get("channel_names") or stored.get("modality") or {}),
            labels=labels,
            background=background,
            paint_order=_paint_order(stored.get("regions_class_order"), labels),
            raters=_names("raters", stored.get("raters") or ()),
            intensity_range=_range(stored.get("intensity_range")),
            **{key: _text(key, stored.get(key, stored.get("license") if key == "licence" else "")) for key in TEXTS},
        )
    except ValueError as error:
        raise DataError(f"{path}: {error}; correct or remove it") from error


def _channels(value: Any) -> tuple[str, ...]:
    """The names of channels, from {"0": name, ...} or a list."""
    if isinstance(value, dict):
        numbers = sorted(value, key=lambda key: int(key) if str(key).isdecimal() else -1)
        if [str(k) for k in range(len(value))] != numbers:
            raise ValueError(f'channel_names has the keys {", ".join(map(str, value))}; they must be "0", "1", ...')
        value = [value[key] for key in numbers]
    return _names("channel_names", value, unique=False)


def _names(key: str, value: Any, unique: bool = True) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) and name.strip() for name in value):
        raise ValueError(f"{key} must be a list of names")
    if unique and len(set(value)) < len(value):
        raise ValueError(f"{key} contains a name twice")
    return tuple(value)


def _labels(value: Any) -> tuple[dict[str, tuple[int, ...]], int]:
    """{structure: levels} and the level of the background, from {name: level} or, as earlier, {level: name}."""
    if not isinstance(value, dict):
        raise ValueError('labels must be an object such as {"background": 0, "lesion": 1}')
    if value and all(str(key).lstrip("-").isdecimal() and isinstance(name, str) for key, name in value.items()):
        pairs = [(name, int(key)) for key, name in value.items()]
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("labels contains a name twice")
        value = dict(pairs)
    labels = {name: _levels(name, levels) for name, levels in value.items()}
    background = labels.pop(next((name for name in labels if name.lower() == BACKGROUND), BACKGROUND), (0,))
    single = [levels[0] for levels in labels.values() if len(levels) == 1]
    if len(set(single)) < len(single) or set(single) & set(background) or len(background) != 1:
        raise ValueError("labels gives one level to two structures")
    return labels, background[0]


def _paint_order(value: Any, labels: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """regions_class_order: a value for each structure."""
    if value in (None, []):
        return ()
    whole = isinstance(value, list) and all(isinstance(level, int) for level in value)
    if not whole or len(value) != len(labels.keys() - {IGNORED}):
        raise ValueError("regions_class_order must be a list with a level for each structure of labels")
    return tuple(value)


def _levels(name: str, value: Any) -> tuple[int, ...]:
    levels = tuple(value) if isinstance(value, list) else (value,)
    if not levels or not all(isinstance(level, int) and not isinstance(level, bool) and level >= 0 for level in levels):
        raise ValueError(f"labels gives {name} the level {json.dumps(value)}; an integer of at least 0 is required")
    return levels


def _range(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    numbers = isinstance(value, list) and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)
    if not numbers or len(value) != 2 or not value[0] < value[1] or not all(abs(x) < float("inf") for x in value):
        raise ValueError(f"intensity_range is {json.dumps(value)}; two numbers are required, the lower one first")
    return float(value[0]), float(value[1])


def _text(key: str, value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} must be text")
    return value or ""


# -- writing ----------------------------------------------------------------------------------------------------------


def write_dataset_file(directory: str, file: DatasetFile) -> None:
    """Write DIRECTORY/dataset.json, without the keys that `file` does not state."""
    labels = {name: levels[0] if len(levels) == 1 else list(levels) for name, levels in file.labels.items()}
    content = {
        "name": file.name,
        "channel_names": {str(k): name for k, name in enumerate(file.channel_names)},
        "labels": {BACKGROUND: file.background, **labels} if labels else {},
        "regions_class_order": list(file.paint_order),
        "raters": list(file.raters),
        "intensity_range": list(file.intensity_range or ()),
        "licence": file.licence,
        "source": file.source,
    }
    storage.write_json(os.path.join(directory, FILE), {key: value for key, value in content.items() if value})


# -- check -------------------------------------------------------------------------------------------------------------


def dataset_faults(
    directory: str, modalities: Sequence[str] = (), planes: int = 0, levels: Sequence[float] = (), raters: int = 0
) -> list[str]:
    """What contradicts the cases in the dataset.json of a folder, one line each.

    modalities  names of those of the cases, in the order of their files; empty: not known
    planes      of each image; 0: not known
    levels      of all labels that are not lossy
    raters      the largest number of raters of a case
    """
    try:
        file = read_dataset_file(directory)
    except DataError as error:
        return [str(error)]
    if file is None:
        return []
    return [f"{file.path}: {text}" for text in _contradictions(file, modalities, planes, levels, raters)]


def _contradictions(
    file: DatasetFile, modalities: Sequence[str], planes: int, levels: Sequence[float], raters: int
) -> list[str]:
    faults, names = [], file.channel_names
    counts = {count for count in (len(modalities), planes) if count}
    if names and counts and len(names) not in counts:
        noun = f"{len(modalities) or planes} image files" if modalities else f"{planes} planes"
        faults.append(f"channel_names has {len(names)} names, but each case has {noun}; correct it")
    bare = [name.lstrip("0123456789").strip("_-. ") or name for name in modalities]
    if names and sorted(bare) == sorted(names) and bare != list(names):
        faults.append(
            f"channel_names is in the order {', '.join(names)}, but the files of each case are in the order "
            f"{', '.join(bare)}; correct it"
        )
    known = {file.background, *(level for values in file.labels.values() for level in values)}
    strange = sorted(level for level in levels if level not in known)
    if file.labels and strange and (len(file.labels) > 1 or len(levels) > 2):
        shown = ", ".join(f"{level:g}" for level in strange[:5])
        faults.append(f"labels does not name the level {shown} of the label files; it names 0 and {file.in_words()}")
    if file.raters and raters > len(file.raters):
        faults.append(f"raters has {len(file.raters)} names, but a case has {raters} labels; correct it")
    return faults
