"""Safely reads pickles of numpy arrays and plain containers: a file cannot call arbitrary functions.

The unpickler never creates numpy objects. It fills placeholders with names and bytes, which this module validates and
converts to arrays. It is the pure Python unpickler, whose memory grows with the file, not with the sizes it claims.
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
    """A placeholder for a numpy dtype; its state may only set the byte order."""

    def __init__(self, name: object, *flags: object) -> None:
        if not isinstance(name, str) or not PLAIN_TYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"arrays of type {name!r} are not supported")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, order, *parts = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in parts[:3]):
            raise pickle.UnpicklingError("arrays of structured types are not supported")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """A placeholder for an array, which is filled by its state."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, kind, fortran, raw = state
        self.value = _array(raw, kind, shape, "F" if fortran else "C")


def _array(raw: object, kind: object, shape: Sequence[object], order: Any = "C") -> np.ndarray:
    """The array of the bytes in a file, after validation of its type, shape and size."""
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
            raise pickle.UnpicklingError(
                f"contains {module}.{name}; only numpy arrays and plain containers are allowed"
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid: object) -> None:
        raise pickle.UnpicklingError("contains references to external objects")

    def load_build(self) -> None:
        """Set the state of a placeholder; for other objects this is refused."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (_Type, _Array)):
            raise pickle.UnpicklingError("sets the state of an object that is not an array")
        self.stack[-1].__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build


def _filled(content: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """The content with placeholders replaced by arrays; shared parts are converted once."""
    if id(content) not in done:
        if isinstance(content, (_Array, _Type)):
            new = getattr(content, "value", None)
        elif isinstance(content, dict):
            new = {key: _filled(value, done) for key, value in content.items()}
        elif isinstance(content, (list, tuple)):
            new = type(content)(_filled(value, done) for value in content)
        else:
            new = content
        done[id(content)] = (content, new)  # keeps `content` alive, so that its id stays unique
    return done[id(content)][1]


def load(path: str | os.PathLike[str]) -> Any:
    """The content of a pickle file. DataError: it is damaged or has other content, none of which is executed."""
    try:
        with open(path, "rb") as file:
            return _filled(_Unpickler(file, encoding="latin1").load(), {})
    except Exception as error:  # on damaged files, unpickling raises any type of exception
        raise DataError(f"{path}: refused or damaged ({error}); use another file") from error
