"""What is known of a source as a whole, and the dataset.json that a conversion writes from it."""

import os
from collections.abc import Collection
from dataclasses import dataclass

from ...data.files.dataset_json import DatasetFile
from ..lidc.config import LICENCE, SOURCE
from .config import ConvertConfig

LIDC = (SOURCE, LICENCE)
PUBLISHED = {  # {format: (source, licence)}
    "lidc-pickle": LIDC,
    "lidc-hdf5": LIDC,
    "lidc-crops": LIDC,
    "qubiq": ("QUBIQ, arXiv:2405.18435", ""),
    "brats": ("BraTS, doi:10.1109/TMI.2014.2377694", ""),
    "ms-mri": ("ISBI 2015 longitudinal MS lesion challenge, doi:10.1016/j.neuroimage.2016.12.064", ""),
}


@dataclass(frozen=True)
class Facts:
    """What a converter may yield before its cases.

    dataset     the source's own dataset.json; its labels are the levels of the label files
    raters      names of the raters, if label k of every case is by rater k
    structure   that of all masks
    structures  several, if each rater has a label of each, in this order; empty: a rater has one label
    """

    dataset: DatasetFile | None = None
    raters: tuple[str, ...] = ()
    structure: str = ""
    structures: tuple[str, ...] = ()


def structure_of(facts: Facts) -> str:
    """The name of the structure, if there is a single one."""
    own = facts.dataset or DatasetFile()
    return facts.structure or (own.structures[0] if len(own.structures) == 1 else "foreground")


def dataset_file(
    name: str, config: ConvertConfig, facts: Facts, modalities: Collection[tuple[str, ...]]
) -> DatasetFile:
    """The dataset.json of a conversion, without what its labels are.

    modalities  the names of those of each case
    """
    source, licence = PUBLISHED.get(name, (os.path.basename(os.path.abspath(config.src)), ""))
    own = facts.dataset or DatasetFile()
    channels = next(iter(modalities)) if len(set(modalities)) == 1 else ()
    if own.channel_names and len(own.channel_names) == len(channels):
        channels = own.channel_names
    return DatasetFile(
        name=own.name or os.path.basename(os.path.abspath(config.out)),
        channel_names=tuple(channel or "image" for channel in channels),
        raters=facts.raters,
        licence=own.licence or licence,
        source=own.source or source,
    )
