"""The origin of a packed file, of pack_data.py or of the cache of decoded cases. Does not need torch."""

import collections
from collections.abc import Iterable

from ...data.config import DataConfig
from ...data.stores.case_cache import SetFacts
from ...data.stores.packed import MAGIC, PackedCases
from ...errors import DataError
from ...flags.retired import current_flags
from ...flags.typed import typed_flags
from ..pack_data import PackConfig
from .stored import NOT_STORED, Rows, class_rows, rules_in_words, sort_flags, titled, versions_in_words, with_others


def packed_rows(path: str) -> Rows:
    """What made a packed file. DataError: it is damaged, or not a packed file."""
    pack = PackedCases(path)
    try:
        facts, fingerprint = SetFacts.from_header(pack), pack.header["fingerprint"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: packed cases without what this program stores ({error}); pack them again") from error
    if not pack.is_sound():
        raise DataError(f"{path}: some of its cases are damaged; pack them again, or remove the file from the cache")
    by_user = isinstance(pack.header.get("rules"), dict)
    planes = {f"{entry.channels}{' in colour' if facts.colour else ''}" for entry in pack.entries}
    rows = [
        ("kind", f"{'packed cases' if by_user else 'decoded cases of the cache'}, format {MAGIC.decode()}"),
        ("written by", versions_in_words(pack.header.get("written_by"))),
        *(_command_rows(pack) if by_user else [("command", f"{NOT_STORED}; training wrote them on its first start")]),
        ("cases", str(len(pack))),
        ("sizes", _counts(f"{entry.width}x{entry.height}" for entry in pack.entries)),
        ("image channels", ", ".join(sorted(planes))),
        *_class_rows(pack),
        ("raters", _counts(pack.num_raters(index) for index in range(len(pack)))),
        ("hash", f"{fingerprint} of the cases and of how they were read, by which a run names its cases"),
        ("reading rules", rules_in_words(facts.reading)),
    ]
    return [*rows, *titled("notes", facts.notes)]


def _command_rows(pack: PackedCases) -> Rows:
    """The command that packed the cases."""
    current, others = sort_flags(current_flags(pack.header["rules"]), DataConfig)
    size = sort_flags({"image_size": pack.header.get("image_size")}, PackConfig)[0]
    given = {"data_dir": "DATA_DIR", "out": "OUT_DIR", **size, **current}
    rows = [("command", f"cimd-pack-data {typed_flags(given, PackConfig, DataConfig)}")]
    if "image_size" not in pack.header:
        rows.append(("", f"--image_size is {NOT_STORED}"))
    return with_others(rows, others)


def _class_rows(pack: PackedCases) -> Rows:
    """The classes of the masks, if there are several; the cache stores only their number."""
    rules = pack.header.get("rules") or {}
    return class_rows(rules.get("classes")) or ([("classes", str(pack.classes))] if pack.classes else [])


def _counts(values: Iterable[object]) -> str:
    """Distinct values with the number of cases, most frequent first."""
    return ", ".join(f"{value} in {count}" for value, count in collections.Counter(values).most_common())
