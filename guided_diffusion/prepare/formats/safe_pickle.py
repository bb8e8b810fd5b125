"""Pickles of numpy arrays and plain containers, read without calling anything that a file could choose.

The pickle machine is given no real type of numpy: what it builds are holders that keep names and bytes, which are
checked and turned into arrays by this module alone. It is the one in Python, whose memo grows with the file and not by
what the file claims.
"""

import math
import os
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import DataError

PLAIN_TYPE = re.compile(r"[<>|=]?[biufcSU?]\d*")


class _Type:
    """A numpy type by its name; its state may say the byte order and nothing else."""

    def __init__(self, name: object, *flags: object) -> None:
        if not isinstance(name, str) or not PLAIN_TYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"arrays of the type {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, order, *parts = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in parts[:3]):
            raise pickle.UnpicklingError("arrays of a composed type")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array that its state fills."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, kind, fortran, raw = state
        self.value = _array(raw, kind, shape, "F" if fortran else "C")


def _array(raw: object, kind: object, shape: Sequence[object], order: Any = "C") -> np.ndarray:
    """The array of bytes that a file gives, after a check of all that it claims."""
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    sizes = [n for n in shape if isinstance(n, int) and n >= 0]
    if not isinstance(kind, _Type) or not isinstance(raw, (bytes, bytearray)) or len(sizes) < len(shape):
        raise pickle.UnpicklingError("an array without type, shape and bytes")
    if len(raw) != math.prod(sizes) * kind.dtype.itemsize:
        raise pickle.UnpicklingError(f"an array of shape {tuple(sizes)} in {len(raw)} bytes")
    return np.frombuffer(bytes(raw), kind.dtype).reshape(sizes, order=order)


def _scalar(kind: object, raw: object = b"") -> Any:
    return _array(raw, kind, (1,))[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:  # bytes, in pickles of the oldest protocols
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], str | Callable[..., Any]] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Type,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _encode,
}
for package in ("numpy.core", "numpy._core"):
    ALLOWED[f"{package}.multiarray", "_reconstruct"] = lambda kind, shape, code: _Array()
    ALLOWED[f"{package}.multiarray", "scalar"] = _scalar
    ALLOWED[f"{package}.numeric", "_frombuffer"] = lambda raw, kind, shape, order: _array(raw, kind, shape, order)


class _Unpickler(pickle._Unpickler):
    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no numpy array or plain container")
        return ALLOWED[module, name]

    def persistent_load(self, pid: object) -> None:
        raise pickle.UnpicklingError("it refers to things outside")

    def load_build(self) -> None:
        """Fill a holder; nothing else has a state that a file may set."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (_Type, _Array)):
            raise pickle.UnpicklingError("it sets the state of something that is no array")
        self.stack[-1].__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build


def _filled(content: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """The content with arrays in the place of their holders; a part that stands in several places is turned once."""
    if id(content) not in done:
        if isinstance(content, (_Array, _Type)):
            new = getattr(content, "value", None)
        elif isinstance(content, dict):
            new = {key: _filled(value, done) for key, value in content.items()}
        elif isinstance(content, (list, tuple)):
            new = type(content)(_filled(value, done) for value in content)
        else:
            new = content
        done[id(content)] = (content, new)  # the former kept alive, for its id
    return done[id(content)][1]


def load(path: str | os.PathLike[str]) -> Any:
    """The content of a pickle file. DataError: it holds anything else, or is damaged; nothing of it has been run."""
    try:
        with open(path, "rb") as file:
            return _filled(_Unpickler(file, encoding="latin1").load(), {})
    except Exception as error:  # a damaged pickle can fail anywhere
        raise DataError(f"{path}: refused, or damaged: {error}") from error
