"""The flags of the LIDC-IDRI preparation."""

import os
from typing import Annotated

from ...errors import DataError
from ...flags.fields import Flag, config, lower_first
from .idri import MOST_READERS

SOURCE, LICENCE = "LIDC-IDRI, doi:10.7937/K9/TCIA.2015.LO9QL9SX", "CC BY 3.0"


@config()
class PrepareConfig:
    """Input, output and options of the LIDC-IDRI preparation."""

    dicom: Annotated[str, Flag("folder of the CT series, searched recursively", required=True)] = ""
    xml: Annotated[str, Flag("folder of the readers' XML files, searched recursively; empty: --dicom")] = ""
    out: Annotated[str, Flag("output folder of cases", required=True, local=True)] = ""
    window: Annotated[
        tuple[float, ...], Flag("LO,HI in Hounsfield units, mapped to black and white", check=lower_first)
    ] = (-1000.0, 400.0)
    pixel_mm: Annotated[
        float | None,
        Flag("pixel size of the crops, mm; none: that of the scanner", none="none", at_least=0.05, at_most=10),
    ] = 0.5
    crop: Annotated[int, Flag("side of the crops, pixels", at_least=8)] = 128
    min_raters: Annotated[int, Flag("skip slices on which fewer readers drew", at_least=1, at_most=MOST_READERS)] = 1
    processes: Annotated[int | None, Flag("series in parallel; auto: one per core", none="auto", at_least=1)] = None
    keep_ids: Annotated[
        bool, Flag("name patients by the IDs of the DICOM files, not by pseudonyms; LIDC-IDRI-NNNN stays in any case")
    ] = False
    seed: Annotated[int, Flag("seed of the random split by patient", at_least=0)] = 0


def check_prepare_config(config: PrepareConfig) -> None:
    """DataError: an input folder does not exist."""
    for folder in (config.dicom, config.xml or config.dicom):
        if not os.path.isdir(folder):
            raise DataError(f"{folder}: no such folder")
