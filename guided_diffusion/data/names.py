"""Names of splits, and the patient named by the path of a case."""

import re
from collections.abc import Sequence

SPLITS = {"training": 0.6, "validation": 0.2, "testing": 0.2}
SPLIT_NAMES = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "validation": "validation",
    "test": "testing",
    "testing": "testing",
}
PATIENT_RULE = (
    "the folder between split and case; otherwise LIDC-IDRI-NNNN; "
    "otherwise the part before _z, _s or _slice and a number"
)
LIDC_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
SLICE_OF = re.compile(r"(.+?)(?:_[0-9a-f]{6})?(?:_n\d+)?[_-](?:z|s|slice)[_-]?\d[\d.]*(?:_c\d+)?", re.IGNORECASE)


def patient_of(within: Sequence[str]) -> str | None:
    """The patient by PATIENT_RULE, from the folder names below a split, the case last; None if no patient is named."""
    *above, case = within
    if above:
        return above[0]
    if match := LIDC_PATIENT.search(case):
        return match[0]
    match = SLICE_OF.fullmatch(case)
    return match[1] if match else None
