"""Names of cases as every file system can store them, also with what sampling appends to them."""

import contextlib
import hashlib
import os
import re
import unicodedata

from ..data.names import normal
from ..errors import DataError

LONGEST_FILE = 255  # bytes, of common file systems
LONGEST_AROUND = "._output99999.nii.gz.writing"  # what files of samples have around the name of the case
UNSAFE = re.compile(r'[/\\:*?"<>|]')
UNSAFE_KINDS = ("Cc", "Cs", "Zl", "Zp")  # control characters, half characters, separators of lines
RESERVED = re.compile(
    r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(?:\..*)?", re.IGNORECASE
)  # Windows
HASH_DIGITS = 8


def longest_name(folder: str) -> int:
    """The most bytes of the name of a case in `folder`."""
    most = LONGEST_FILE
    if hasattr(os, "pathconf"):
        with contextlib.suppress(OSError, ValueError):  # unknown
            most = min(most, os.pathconf(folder, "PC_NAME_MAX"))
    return most - len(LONGEST_AROUND)


def safe_name(name: str, source: str, longest: int = LONGEST_FILE - len(LONGEST_AROUND)) -> str:
    """`name` in Unicode's composed form, if common file systems can store it; else a similar name with a hash of it.

    source   for messages
    longest  most bytes of the result
    DataError: the name is empty, or a path that leads out of the folder.
    """
    parts = re.split(r"[/\\]", name)
    if name == "" or parts[0] == "" or {".", ".."} & set(parts) or re.match(r"[A-Za-z]:[/\\]", name):
        raise DataError(f"{source}: {printable(name[:80])!r} is not a valid file name; rename the case")
    name = normal(name)
    safe = "".join("_" if unicodedata.category(char) in UNSAFE_KINDS else char for char in UNSAFE.sub("_", name))
    safe = re.sub(r"^\.+|[. ]+$", "_", safe)
    if RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    return name if safe == name and len(name.encode()) <= longest else with_hash(safe, name, longest)


def with_hash(safe: str, name: str, longest: int) -> str:
    """The beginning of a safe name, and a hash of the whole `name`, so that different names stay different."""
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:HASH_DIGITS]
    start = safe.encode()[: longest - HASH_DIGITS - 1].decode(errors="ignore")
    return f"{start.rstrip('. ')}_{digest}"


def printable(name: str) -> str:
    """`name` as text that can be encoded: bytes of a file name that are not UTF-8 become escapes."""
    return normal(name).encode(errors="backslashreplace").decode()
