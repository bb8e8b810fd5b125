"""The converter of folders of pictures, in any of the known layouts or in one that --images and --masks describe."""

import collections
import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from ...data.config import DataConfig
from ...data.files.dataset_json import FILE, DatasetFile, read_one
from ...data.files.decoded import to_unit
from ...data.names import patient_of
from ...errors import DataError, first_lines
from ...flags.classes import parse_classes
from ..case_writer import Origin, RawCase
from ..formats.classes import complete, placed
from ..formats.config import ConvertConfig
from ..formats.facts import Facts
from ..formats.foreign_files import each, pages_of, read_images
from ..formats.volumes import is_volume, on_one_grid, read_volume, slices
from .beside import beside
from .drawing import nothing_usable
from .found import Case, Found, image_folder
from .listing import Listing, list_source
from .naming import Named, in_order, is_structure, name_masks, of_structures
from .patterns import by_patterns
from .words import in_natural_order, shown

UNSAFE = re.compile(r"[^\w.\-]+|^[.\-]+")


class Files(NamedTuple):
    """The files of a case.

    within  names of its folders in the source, and its own name last
    images  {modality: path}
    masks   of each rater in turn; "": an empty mask
    """

    id: str
    within: tuple[str, ...]
    split: str | None
    images: dict[str, str]
    masks: list[str] = []


def folders(config: ConvertConfig) -> Iterator[RawCase | DataError | str | Facts]:
    """Folders of pictures; docs/data.md draws the layouts.

    Each page of pictures with several pages is a case, and each slice of a volume.
    """
    listing = list_source(config.src)
    yield from listing.faults
    dataset = read_one(os.path.join(config.src, FILE))
    try:
        found = find_layout(listing, config)
        named, notes = name_masks(found)
        structures = _structures_in_names(config, {mask.structure for mask in named}, dataset)
        masks = of_structures(named, structures, "structure" if config.structure else "classes")
    except DataError as error:
        raise DataError("\n".join([str(error), *map(str, listing.faults)])) from error
    raters = _raters(config, masks, named)
    yield _facts(config, masks, raters, dataset)
    yield from notes
    yield _summary(found, masks)
    yield from _passed_over(listing, found, masks)
    yield from map(DataError, found.faults)
    channels = _channels(found, masks)
    items = sorted(_by_case(masks).items(), key=lambda item: item[1][0].mask.file.within)
    names = _ids([case for case, _ in items])
    for case, _ in items:
        try:
            files = _files(case, names[case], found, _modalities(channels, dataset))
        except DataError as error:
            yield error
            continue
        if isinstance(of_raters := raters[case], DataError):
            yield of_raters
            continue
        files = files._replace(masks=[path for paths in of_raters.values() for path in paths])
        yield from each([files], partial(_raw_cases, config, dataset.intensity_range if dataset else None))


def find_layout(listing: Listing, config: ConvertConfig) -> Found:
    """The images and masks of a source. DataError: no layout fits, or two do."""
    if config.images:
        return by_patterns(listing, config.images, config.masks)
    first = image_folder(listing)
    used = {mask.file.path for mask in first.masks}
    used |= {file.path for files in first.images.values() for file in files.values()} if used else set()
    rest = [file for file in listing.pictures if file.path not in used]
    second = beside(replace(listing, pictures=rest))
    if first.masks and second.masks:
        one, two = (f"{f.layout} ({len(f.masks)} masks, e.g. {f.masks[0].file.within})" for f in (first, second))
        raise DataError(f"{listing.src}: two layouts fit: {one}; {two}; choose one with --images and --masks")
    for found in (first, second, beside(listing, bare=True)):
        if found.masks:
            return found
    if second.faults:
        raise DataError("\n".join(first_lines(second.faults)))
    elsewhere = next((file for file in listing.pictures if file.role != "image"), None)
    reason = ""
    if first.images and elsewhere:
        image = next(iter(next(iter(first.images.values())).values()))
        reason = f": no mask has the name of an image; e.g. {image.within} and {elsewhere.within}"
    raise DataError(nothing_usable(listing, reason))


# -- structures and raters --------------------------------------------------------------------------------------------


def _structures_in_names(config: ConvertConfig, named: Set[str], dataset: DatasetFile | None) -> Sequence[str]:
    """The structures to convert that are names in the paths of masks; empty: the only one, or all are in each label.

    named  the structures that the paths name
    """
    if config.structure:
        in_dataset = dataset and len(named) == 1 and config.structure in dataset.structures
        return () if in_dataset or DataConfig(structure=config.structure).levels else (config.structure,)
    classes = parse_classes(config.classes)
    names = classes.names
    if not names and dataset and not config.merge_labels and config.label_threshold is None:
        names = dataset.classes.names if len(dataset.structures) > 1 else ()
    by_level = not (classes.plain or classes.from_files)
    are_named = any(is_structure(one, name) for one in named for name in names)
    return names if (are_named or (len(named) > 1 and config.classes)) and not by_level else ()


def _raters(
    config: ConvertConfig, masks: Sequence[Named], named: Sequence[Named]
) -> dict[Case, dict[str, tuple[str, ...]] | DataError]:
    """The files of each rater, one of each structure, of each case with masks; or what is wrong with them.

    Of a single structure, a rater without it may have others; the config says what that means.

    named  the masks of all structures
    """
    structures = list(dict.fromkeys(mask.structure for mask in masks))
    of_several = len(structures) == 1 and len({mask.structure for mask in named}) > 1
    everyone = _by_case(named) if of_several else {}
    found: dict[Case, dict[str, tuple[str, ...]] | DataError] = {}
    for case, of_case in _by_case(masks).items():
        files: dict[str, dict[str, str]] = {mask.rater: {} for mask in in_order(everyone.get(case, of_case))}
        try:
            for mask in in_order(of_case):
                path = mask.mask.file.path
                other = files[mask.rater].setdefault(mask.structure, path)
                if other != path:
                    raise DataError(f"{path}: {os.path.basename(other)} is by the same rater; remove one")
            place = f"{config.src}: {'/'.join((*case.folders, case.name))}"
            found[case] = complete(place, files, structures, config.missing)
        except DataError as error:
            found[case] = error
    return found


def _facts(
    config: ConvertConfig,
    masks: Sequence[Named],
    raters: Mapping[Case, Mapping[str, object] | DataError],
    dataset: DatasetFile | None,
) -> Facts:
    of_cases = [[] if isinstance(own, DataError) else list(own) for own in raters.values()]
    distinct = tuple(sorted(dict.fromkeys(name for own in of_cases for name in own), key=in_natural_order))
    same = all(own and own == list(distinct[: len(own)]) for own in of_cases)
    known = distinct if same and all(distinct) else ()
    structures = tuple(dict.fromkeys(mask.structure for mask in masks))
    structure, levels = structures[0] if len(structures) == 1 else "", DataConfig(structure=config.structure).levels
    if dataset and any(structures):  # its labels are not those of these files
        dataset = replace(dataset, labels={})
    elif not levels:
        structure = structure or config.structure
    elif dataset:
        structure = next((name for name, own in dataset.labels.items() if own == levels), "")
    return Facts(dataset, known, structure, structures if len(structures) > 1 else ())


def _summary(found: Found, masks: Sequence[Named]) -> str:
    """A line on the layout, and on the masks by rater."""
    counts = collections.Counter(mask.rater for mask in in_order(masks))
    raters = [f"{name or 'no name'} {count}" for name, count in counts.items()]
    names = list(dict.fromkeys(filter(None, (mask.structure for mask in masks))))
    noun = "structure" if len(names) == 1 else "structures"
    structure = f", {noun} {', '.join(names)}" if names else ""
    return f"layout {found.layout}; masks by rater: {shown(raters, 10)}{structure}"


def _passed_over(listing: Listing, found: Found, masks: Sequence[Named]) -> Iterator[str]:
    """Notes that count the files that are not used."""
    cases = {mask.mask.case for mask in masks}
    unlabelled = [files for case, files in found.images.items() if case not in cases]
    without = [file for files in unlabelled for file in files.values()]
    if without:
        noun = "image without masks is" if len(without) == 1 else "images without masks are"
        yield f"{len(without)} {noun} passed over, e.g. {without[0].within}"
    used = {mask.mask.file.path for mask in masks}
    used |= {file.path for files in found.images.values() for file in files.values()}
    yield from listing.passed_over(used)


def _by_case(masks: Sequence[Named]) -> dict[Case, list[Named]]:
    cases: dict[Case, list[Named]] = {}
    for mask in masks:
        cases.setdefault(mask.mask.case, []).append(mask)
    return cases


# -- the files of a case ----------------------------------------------------------------------------------------------


def _ids(cases: Sequence[Case]) -> dict[Case, str]:
    """The name of each case; those in several splits begin with their split."""
    names = {case: "-".join((*case.folders, case.name)) for case in cases}
    counts = collections.Counter(names.values())
    return {c: f"{c.split}-{name}" if counts[name] > 1 and c.split else name for c, name in names.items()}


def _channels(found: Found, masks: Sequence[Named]) -> list[str]:
    """The channels of most cases."""
    counts = collections.Counter(tuple(sorted(found.images[case])) for case in _by_case(masks))
    (most, _), *_ = sorted(counts.items(), key=lambda item: (-item[1], -len(item[0])))
    return list(most)


def _modalities(channels: Sequence[str], dataset: DatasetFile | None) -> dict[str, str]:
    """{channel: modality}, by the names in the source's dataset.json if it has them."""
    names = dataset.channel_names if dataset else ()
    if len(channels) == 1:
        return {channels[0]: ""}
    if len(names) != len(channels):
        return {channel: f"c{int(channel)}" if channel.isdecimal() else channel for channel in channels}
    safe = [UNSAFE.sub("_", name) for name in names]
    unique = [name if safe.count(name) == 1 else f"{name}_{k}" for k, name in enumerate(safe)]
    return dict(zip(channels, unique, strict=True))


def _files(case: Case, name: str, found: Found, modalities: Mapping[str, str]) -> Files:
    """The files of a case without those of its masks. DataError: its modalities are not those of most cases."""
    images = found.images[case]
    if set(images) != set(modalities):
        first = next(iter(images.values()))
        raise DataError(
            f"{first.path}: the modalities of this case are {', '.join(sorted(images)) or 'without a name'}, but those "
            f"of most cases are {', '.join(modalities)}; give all cases the same"
        )
    paths = {modalities[channel]: images[channel].path for channel in sorted(images)}
    return Files(name, (*case.folders, case.name), case.split, paths)


def _raw_cases(config: ConvertConfig, scale: tuple[float, float] | None, files: Files) -> Iterator[RawCase]:
    """The cases in the files of one: one for each page or slice."""
    case = RawCase(files.id, {}, [], split=files.split, within=files.within)
    patient = patient_of(files.within) or files.id  # of all pages or slices
    paths = [*files.images.values(), *filter(None, files.masks)]
    if any(map(is_volume, paths)):
        volumes, turned = on_one_grid([read_volume(path) for path in paths])
        images = zip(files.images, volumes, strict=False)
        planes = {modality: to_unit(volume.array[None], None, scale)[0] for modality, volume in images}
        whole = replace(case, patient=patient, turned=turned)
        for one in slices(whole, planes, volumes[len(files.images) :], config.axis):
            yield replace(one, raters=placed(one.raters, files.masks))
        return
    first, *others = paths
    pages = pages_of(first, others)
    if pages > 1:
        case = replace(case, patient=patient)
    for page in [None] if pages == 1 else range(pages):
        yield from each([page], partial(_page, case, files))  # type: ignore[misc]


def _page(case: RawCase, files: Files, page: int | None) -> Iterator[RawCase]:
    planes, labels, turned = read_images(files.images, list(filter(None, files.masks)), page)
    case = replace(case, planes=planes, raters=placed(labels, files.masks), turned=turned)
    yield case if page is None else replace(case, id=f"{case.id}_z{page:03d}", origin=Origin(slice=page))
