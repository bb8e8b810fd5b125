"""The names of the files of a case's samples, and whether a folder takes them. Does not need torch."""

import contextlib
import errno
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

from ..data.surveys.changes import count
from ..errors import DataError, Fault, first_lines, group_faults

PNG, NIFTI = ".png", ".nii.gz"  # endings of masks
PROBE = ".{}_probability.nii.gz.probing"  # as long as the longest name of a file, a temporary one
ALIKE = ".{}_output0.png.alike"
MOST_BYTES = 255 - len(PROBE.format(""))  # of a stem, in UTF-8
HASH, SHOWN = 12, 20  # hexadecimal digits of the hash; characters of a long name in a message
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # stems that every file system takes
OF_THE_FOLDER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)  # errors not due to a name


def stem_of(case_id: str) -> str:
    """The start of the names of a case's files: the case's name; if it is too long, its start and a hash of it."""
    name = case_id.encode(errors="surrogateescape")
    if len(name) <= MOST_BYTES:
        return case_id
    kept = name[: MOST_BYTES - HASH - 1].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(name).hexdigest()[:HASH]}"


def mask_path(out_dir: str, case_id: str, k: int, ending: str = PNG) -> str:
    """Path of a case's k-th mask."""
    return os.path.join(out_dir, f"{stem_of(case_id)}_output{k}{ending}")


def consensus_path(out_dir: str, case_id: str, ending: str = PNG) -> str:
    """Path of a case's consensus."""
    return os.path.join(out_dir, f"{stem_of(case_id)}_consensus{ending}")


def probability_path(out_dir: str, case_id: str, ending: str = PNG) -> str:
    """Path of the mean of a case's masks."""
    return os.path.join(out_dir, f"{stem_of(case_id)}_probability{ending}")


def class_probability_path(out_dir: str, case_id: str, number: int, ending: str = PNG) -> str:
    """Path of the mean of a case's masks of one of several classes, counted from 1."""
    return os.path.join(out_dir, f"{stem_of(case_id)}_prob{number}{ending}")


def sheet_path(out_dir: str, case_id: str) -> str:
    """Path of a case's picture sheet."""
    return os.path.join(out_dir, f"{stem_of(case_id)}_sheet.png")


def movie_path(out_dir: str, case_id: str) -> str:
    """Path of the movie of a case's first mask."""
    return os.path.join(out_dir, f"{stem_of(case_id)}_movie.gif")


def samples_path(out_dir: str, case_id: str) -> str:
    """Path of a case's raw samples."""
    return os.path.join(out_dir, f"{stem_of(case_id)}_samples.npz")


def check_names(out_dir: str, case_ids: Sequence[str]) -> list[str]:
    """Check that the folder `out_dir` takes the names of the cases' files.

    Returns lines to report about names that are shortened. Unusual names are tried, with an empty file that is removed
    at once.
    DataError: the file system does not take a name, or takes those of two cases for the same. OSError: the folder
    cannot be written to.
    """
    tried = [case_id for case_id in case_ids if not PLAIN.fullmatch(stem_of(case_id))]
    faults = [Fault(case_id, case_id, text) for case_id in tried if (text := _refusal(out_dir, case_id))]
    if not faults:
        faults = _same_files(out_dir, case_ids)
    if faults:
        raise DataError("\n".join(f"{line} (--out_dir {out_dir})" for line in first_lines(group_faults(faults))))
    shortened = [case_id for case_id in case_ids if stem_of(case_id) != case_id]
    if not shortened:
        return []
    start, end = stem_of(shortened[0])[:SHOWN], stem_of(shortened[0])[-HASH:]
    return [f"shortened {count(len(shortened), 'name')} too long for files, with a hash: e.g. {start}...-{end}"]


def _refusal(out_dir: str, case_id: str) -> str | None:
    """Why the folder does not take the names of a case's files; None: it does."""
    path = os.path.join(out_dir, PROBE.format(stem_of(case_id)))
    try:
        with open(path, "wb"):
            pass
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in OF_THE_FOLDER:
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        return f"its name cannot be that of a file here ({reason}); rename the input, or use another --out_dir"
    _remove(path)
    return None


def _same_files(out_dir: str, case_ids: Iterable[str]) -> list[Fault]:
    """A fault for each case whose files would replace another's, where the case of letters or accents do not count."""
    alike: dict[str, list[str]] = {}
    for case_id in case_ids:
        alike.setdefault(unicodedata.normalize("NFC", case_id).casefold(), []).append(case_id)
    faults = []
    for first, *others in alike.values():
        if not others:
            continue
        path = os.path.join(out_dir, ALIKE.format(stem_of(first)))
        with open(path, "wb"):
            same = [other for other in others if os.path.exists(os.path.join(out_dir, ALIKE.format(stem_of(other))))]
        _remove(path)
        text = f"the file system takes its files for those of {first}; rename one of them"
        faults += [Fault(other, other, text) for other in same]
    return faults


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process of the run tried the same name
        os.unlink(path)
