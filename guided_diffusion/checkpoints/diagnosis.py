"""Says what a file is that cannot be loaded as a checkpoint, and what to do about it."""

import codecs
import pickletools
import zipfile
from typing import IO

import torch

from ..system import storage
from ..system.device import is_out_of_memory

NAMES_SHOWN = 3  # types and functions
HEAD = 4096  # bytes at the beginning, which identify the kind of a file
AGAIN = "copy or download it again"
UNPACK = "unpack it and pass the checkpoint in it"
SAVE_WEIGHTS = "save only the weights, by torch.save(model.state_dict(), FILE)"
OTHER = "pass a checkpoint of this program, or weights written by torch.save"

# {first bytes: (what the file is, what to do)}
KINDS = {
    b"\x1f\x8b": ("a gzip archive", UNPACK),
    b"BZh": ("a bzip2 archive", UNPACK),
    b"\xfd7zXZ\x00": ("an xz archive", UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", UNPACK),
    b"Rar!": ("a RAR archive", UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", UNPACK),
    b"\x89HDF": ("an HDF5 file", OTHER),
    b"\x93NUMPY": ("a NumPy array", OTHER),
    b"GGUF": ("a GGUF file", OTHER),
    b"\x89PNG": ("a picture", OTHER),
    b"\xff\xd8\xff": ("a picture", OTHER),
    b"%PDF": ("a PDF document", OTHER),
}
POINTERS = ("version https://git-lfs", "version https://hawser")  # of Git LFS, in its present and its first form
PAGES = ("<!doctype", "<html", "<head", "<?xml", "<!--", "<script")


def why_unreadable(path: str, error: Exception) -> str:
    """A sentence on the file or object at `path`, whose loading raised `error`, with the remedy."""
    if is_out_of_memory(error):
        return "the checkpoint does not fit into memory; free some, or use a machine with more"
    try:
        with storage.open_to_read(path) as file:
            return _by_content(file)
    except OSError as problem:
        return f"the file cannot be read ({problem.strerror or problem}); check its permissions and the disk"
    except Exception:  # on damaged files, zipfile and pickletools raise any type of exception
        return f"the file is damaged; {AGAIN}"


def _by_content(file: IO[bytes]) -> str:
    """The sentence on an open file."""
    head = file.read(HEAD)
    if not head:
        return f"the file is empty; {AGAIN}"
    if not head.strip(b"\0"):
        return f"the file begins with zeros only, as an incomplete download does; {AGAIN}"
    text = _text(head)
    if text is not None:
        return _of_text(text)
    if head.startswith(b"PK\x03\x04"):
        return _of_zip(file)
    if head[257:262] == b"ustar":
        return f"the file is a tar archive; {UNPACK}"
    for magic, (kind, remedy) in KINDS.items():
        if head.startswith(magic):
            return f"the file is {kind}, not a checkpoint; {remedy}"
    if is_safetensors(head):
        return (
            "the file is in the safetensors format; of a model folder, pass the folder with its config.json; convert "
            "other weights once, by torch.save(safetensors.torch.load_file(FILE), NEW_FILE), and pass NEW_FILE"
        )
    if head.startswith(b"\x80"):
        file.seek(0)
        return _of_objects(_names_in(file)) or f"the file is truncated or damaged; {AGAIN}"
    return f"the file is damaged or not a checkpoint; {OTHER}"


def is_safetensors(head: bytes) -> bool:
    """Whether a file with these first bytes is in the safetensors format, be it intact or not."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**30


def _text(head: bytes) -> str | None:
    """The beginning of a text file; None: the bytes are not text."""
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = head.decode(encoding, errors="ignore")
    whole = len(text.encode(encoding)) >= len(head) - 4  # all but a character that the end of `head` cuts
    return text.strip() if whole and all(c.isprintable() or c.isspace() for c in text) else None


def _of_text(text: str) -> str:
    if text.startswith(POINTERS):
        return "the file is a Git LFS pointer, not the checkpoint itself; run git lfs pull where it was cloned"
    if text.lower().startswith(PAGES):
        return (
            "the file is a web page that was saved in place of the checkpoint; download the file itself, "
            "e.g. by the button of the page instead of its address"
        )
    return f"the file is a text file, not a checkpoint; {OTHER}"


def _of_zip(file: IO[bytes]) -> str:
    """The sentence on a zip archive, which is what torch.save writes."""
    if not zipfile.is_zipfile(file):
        return f"the file is truncated, its end is missing; {AGAIN}"
    with zipfile.ZipFile(file) as archive:
        members = archive.namelist()
    inner = {name.partition("/")[2] for name in members}
    if "constants.pkl" in inner:
        return f"the file is a TorchScript program; {SAVE_WEIGHTS}"
    if "data.pkl" not in inner:
        remedy = OTHER if all(name.endswith(".npy") for name in members) else UNPACK
        return f"the file is a zip archive that torch.save did not write; {remedy}"
    file.seek(0)
    return _of_objects(torch.serialization.get_unsafe_globals_in_checkpoint(file)) or f"the file is damaged; {AGAIN}"


def _of_objects(names: list[str]) -> str:
    """The sentence on a pickle with objects of these types; empty if there are none."""
    if not names:
        return ""
    shown = ", ".join(sorted(names)[:NAMES_SHOWN])[:200]
    return (
        f"the file has Python objects besides tensors ({shown}), which could run code as they are read, so it is "
        f"refused; {SAVE_WEIGHTS}"
    )


def _names_in(file: IO[bytes]) -> list[str]:
    """Types and functions that the pickles in a file name, without those of plain weights."""
    names, pushed = set(), ["", ""]  # the last two strings
    memo: dict[object, str] = {}
    try:
        while True:  # torch's older format is a sequence of pickles
            for code, argument, _ in pickletools.genops(file):
                if code.name == "GLOBAL":
                    names.add(str(argument).replace(" ", "."))
                elif code.name == "STACK_GLOBAL":
                    names.add(".".join(pushed))
                elif code.name == "MEMOIZE":
                    memo[len(memo)] = pushed[1]
                elif code.name in ("BINGET", "LONG_BINGET"):
                    pushed = [pushed[1], memo.get(argument, "")]
                elif isinstance(argument, str):
                    pushed = [pushed[1], argument]
    except Exception:  # the end of the pickles, or of what is intact
        plain = ("torch._utils.", "torch.storage.", "collections.OrderedDict")
        return [name for name in names if not name.startswith(plain) and not name.endswith("Storage")]
