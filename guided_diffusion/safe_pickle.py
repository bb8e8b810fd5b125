"""Pickles of numpy arrays and plain containers, read without calling anything that a file could choose."""

import pickle

import numpy as np

from .image_files import DataError

# What a pickle of arrays needs, under the names of old and new numpy; everything else is refused.
ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): lambda text, encoding="latin1": text.encode("latin1"),  # bytes, in pickles of the oldest protocols
}
for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    ALLOWED[module, "_reconstruct"] = lambda kind, shape, code: np.ndarray.__new__(np.ndarray, (0,), "b")
    ALLOWED[module, "scalar"] = lambda dtype, data=None: np.frombuffer(data, dtype=_plain(dtype))[0]
for module in ("numpy.core.numeric", "numpy._core.numeric"):
    ALLOWED[module, "_frombuffer"] = lambda data, dtype, shape, order: np.frombuffer(data, dtype=_plain(dtype)).reshape(shape, order=order)


def _plain(dtype):
    if np.dtype(dtype).hasobject:
        raise pickle.UnpicklingError("arrays of objects")
    return dtype


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no numpy array or plain container")
        return ALLOWED[module, name]

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("it refers to things outside")


def load(path):
    """The content of a pickle file. DataError: it holds anything else, or is damaged; nothing of it has been run."""
    try:
        with open(path, "rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can fail anywhere
        raise DataError(f"{path}: refused, or damaged: {error}") from error
