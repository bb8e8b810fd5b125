"""Names of splits, and the patient of a case: by its folders and its name, by a pattern, or by a table."""

import collections
import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from ..errors import ConfigError, DataError
from ..flags.fields import Flag
from ..flags.rules import one_of
from ..system import storage

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
    "the folder between split and case; otherwise LIDC-IDRI-NNNN; otherwise the part of the name before a slice, a "
    "side or a visit, e.g. before _z12, _s3, -slice4, _L, _OD or _t0"
)
REMEDY = "pass --patient_pattern or --patients"

# -- by folders and names ---------------------------------------------------------------------------------------------

PUBLIC_ID = re.compile(r"LIDC-IDRI-\d{4}|^sub-[0-9A-Za-z]+(?=_|$)")  # of LIDC-IDRI, and of BIDS
SIDE = r"(?:l|r|left|right|od|os)"
VISIT = r"(?:t|tp|timepoint|v|visit|ses|session|exam|fu|followup|frame|page|im|img|image)"
MARKS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?i)(.+?)(?:_[0-9a-f]{6}_n\d+)?[ _-](?:z|s|sl|slice)[ _-]{0,2}\d[\d.]*(?:_c\d+)?",  # slices
        rf"(?i)(.+?)[ _-]{SIDE}(?:[ _-](?:cc|mlo)(?:[ _-]\d+)?)?",  # eyes and breasts, with the view of a mammogram
        r"(.*\d)(?:L|R|OD|OS)",
        rf"(?i)(.*\d.*?)[ _-]{VISIT}[ _-]?\d+",  # also words for a number: only after a name with a digit
        r"(?i)(.*\d.*?)[ _-](?:baseline|followup)",
    )
)
# Words that name no patient
GENERIC = re.compile(
    r"(?i)(?:(?:images?|imgs?|im|cases?|data|datasets?|files?|frames?|labels?|masks?|pictures?|pic|photos?|png|bild(?:er)?"
    r"|patients?|pat|pt|p|subjects?|subj|sub|id|samples?|scans?|series|sets?|slices?|study|volumes?|vol|test(?:ing)?"
    r"|train(?:ing)?|val(?:idation)?|ct|mri?|oct|us|x|x-?ray|fundus|eyes?|breasts?|brain|lung|lesions?|benign|malignant"
    r"|normal|healthy)(?:[ _.-]+|$))+"
)
# Folders that collect patients
COLLECTION = re.compile(
    r"(?i)(?:site|cent(?:er|re)|hospital|vendor|scanner|fold|batch|part|group|cohort|class|set|visit|session)"
    r"(?:[ _-]?(?:\d{1,2}|[a-z]))?|" + SIDE
)


def normal(name: str) -> str:
    """`name` in Unicode's composed form (NFC): file systems may store the same name in either form."""
    return unicodedata.normalize("NFC", name)


def place_of(folder: str, directory: str) -> tuple[str, tuple[str, ...]]:
    """The split of a case's folder below `directory`, or an empty string, and the names of its folders below the split.

    The last of them is that of the case.
    """
    parts = [normal(part) for part in os.path.relpath(folder, directory).split(os.sep)]
    if parts == ["."]:
        parts = [normal(os.path.basename(os.path.abspath(folder)))]
    split = SPLIT_NAMES.get(parts[0], "") if len(parts) > 1 else ""
    return split, tuple(parts[1:] if split else parts)


def public_id(name: str) -> str | None:
    """The public pseudonym of a patient in `name`: LIDC-IDRI-NNNN, or sub-NAME of BIDS; None if there is none."""
    match = PUBLIC_ID.search(name)
    return match[0] if match else None


def patient_of(within: Sequence[str]) -> str | None:
    """The patient by PATIENT_RULE, from the folder names below a split, the case last; None if no patient is named.

    Names of general words, e.g. images or benign, and those of collections, e.g. site2, are passed over.
    """
    *above, case = map(normal, within)
    if public := next(filter(None, map(public_id, (*above, case))), None):
        return public
    for folder in above:
        if not _is_generic(folder):
            return _before_marks(folder)
    stem = _before_marks(case)
    return None if stem == case else stem


def _before_marks(name: str) -> str:
    """The part of a name before its slice, side and visit; `name` if it has none."""
    while match := next(filter(None, (mark.fullmatch(name) for mark in MARKS)), None):
        if _is_generic(match[1]):
            break
        name = match[1]
    return name


def _is_generic(name: str) -> bool:
    return not name or bool(GENERIC.fullmatch(name) or COLLECTION.fullmatch(name))


# -- by flags ---------------------------------------------------------------------------------------------------------


def regular_expression(pattern: str) -> str | None:
    """The problem of a pattern, as the end of a sentence; None: it is valid."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"not a regular expression ({error})"
    return None


PatientPattern = Annotated[
    str,
    Flag(
        r"regular expression whose first group is the patient in the path of a case, e.g. (P\d+)_; empty: by names",
        check=regular_expression,
        resume="free",  # the splits that follow from it are compared
    ),
]
PatientTable = Annotated[
    str, Flag("CSV file with the columns case and patient; empty: by manifest.csv or names", resume="free")
]


class PatientFlags(Protocol):
    """A config with the flags of the rule."""

    @property
    def patient_pattern(self) -> str:
        """A `PatientPattern`."""

    @property
    def patients(self) -> str:
        """A `PatientTable`."""


@dataclass(frozen=True)
class PatientRule:
    """How the patient of a case is found: by `pattern`, by `table`, or without both by `patient_of`.

    pattern  searched in the case's folder names below the split, joined by slashes; its first group, or the whole match
             if it has none, is the patient
    table    {case: patient}
    file     of the table
    """

    pattern: str = ""
    table: Mapping[str, str] | None = None
    file: str = ""

    @classmethod
    def of(cls, flags: PatientFlags) -> "PatientRule":
        """The rule of --patient_pattern and --patients. ConfigError: both are given. DataError: an unusable table."""
        if flags.patient_pattern and flags.patients:
            raise ConfigError(one_of("patient_pattern", "patients"))
        table = read_patients(flags.patients) if flags.patients else None
        return cls(flags.patient_pattern, table, flags.patients)

    @property
    def is_given(self) -> bool:
        """Whether a flag gives it."""
        return bool(self.pattern) or self.table is not None

    def patient(self, within: Sequence[str]) -> str | None:
        """The patient, from the folder names below a split, the case last; None: unknown."""
        if self.table is not None:
            names = [normal(name) for name in ("/".join(within), "-".join(within), within[-1])]
            return next((self.table[name] for name in names if name in self.table), None)
        if self.pattern:
            match = re.search(self.pattern, normal("/".join(within)))
            return match[min(1, match.re.groups)] or None if match else None
        return patient_of(within)

    def check(self, cases: Iterable[Sequence[str]]) -> list[str]:
        """Check the flags with all cases of a set; returns notes.

        DataError: the table lacks cases, or the pattern matches none.
        """
        cases = list(cases)
        missing = [within for within in cases if not self.patient(within)]
        if not self.is_given or not missing:
            return []
        example = "/".join(missing[0])
        if self.table is not None:
            raise DataError(
                f"--patients {self.file}: lacks {len(missing)} of {len(cases)} cases, e.g. {example}; add their rows"
            )
        if len(missing) == len(cases):
            raise DataError(
                f"--patient_pattern {self.pattern}: matches none of {len(cases)} cases, e.g. {example}; change it"
            )
        return [
            f"--patient_pattern {self.pattern} matches {len(cases) - len(missing)} of {len(cases)} cases; each of the "
            f"others, e.g. {example}, counts as a patient of its own"
        ]


BY_NAMES = PatientRule()


def read_patients(path: str) -> dict[str, str]:
    """{case: patient} of a CSV file with these columns, separated by commas, semicolons or tabs.

    A case is named as its folder or its file, with or without the ending. DataError: the file is unusable.
    """
    content = storage.read_bytes(path)
    if content is None:
        raise DataError(f"--patients {path}: no such file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"--patients {path}: not encoded in UTF-8; save it as CSV in UTF-8") from None
    header = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
    if missing := [name for name in ("case", "patient") if name not in columns]:
        raise DataError(f"--patients {path}: the column {missing[0]} is missing; the first line must name it")
    table: dict[str, str] = {}
    for row in rows:
        case, patient = (normal(row[columns[name]] or "").strip() for name in ("case", "patient"))
        case = case.replace("\\", "/")
        if case and patient and table.setdefault(case, patient) != patient:
            raise DataError(f"--patients {path}: the case {case} has the patients {table[case]} and {patient}")
    endings = re.compile(r"\.(png|jpe?g|tiff?|bmp|gif|webp|npy|nii|nii\.gz)$", re.IGNORECASE)
    return {endings.sub("", case): patient for case, patient in table.items()} | table


# -- sets of cases ----------------------------------------------------------------------------------------------------


def patients_warning(cases: Iterable[tuple[str, str | None]]) -> str | None:
    """A warning about (name, patient or None) of all cases whose patients were found without flags, if they look wrong.

    All are of one patient; or none has a patient other than its own name, and the names are alike: img_001, img_002.
    """
    cases = list(cases)
    known = {patient for name, patient in cases if patient not in (None, name)}
    if len(cases) > 2 and len(known) == 1 and all(patient for _, patient in cases):
        return f"warning: all {len(cases)} cases count as cases of one patient, {known.pop()}; if not, {REMEDY}"
    kinds = collections.Counter(re.sub(r"\d+", "0", name) for name, _ in cases)
    if known or not kinds or max(kinds.values()) < max(2, len(cases) / 2):
        return None
    shown = re.sub(r"\d", "#", min(name for name, _ in cases))
    return (
        f"warning: {len(cases)} cases with names like {shown}: each case counts as a patient of its own; "
        f"if several cases belong to one patient, {REMEDY}"
    )
