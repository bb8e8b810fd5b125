"""Images in memory: pictures, arrays and tensors, decoded as files are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from ...errors import DataError
from .decoded import COLOURS, UNIT, Decoded, numbers
from .pictures import decode_picture

FULL_SCALES = {1: 255, 2: 65535}  # of unsigned integers, by their bytes
NEARLY_UNIT = (-0.1, 1.1)  # values of an image in [0, 1] that interpolation changed
KINDS = "a path, a picture (PIL), an array, a tensor or a Case"


@dataclass(frozen=True)
class NetworkInput:
    """The images that a network takes.

    channels   of the network
    planes     of the images of its training; 1: they may have been repeated to its channels
    intensity  range of values that became 0 and 1; None: by type or image
    """

    channels: int
    planes: int
    intensity: tuple[float, ...] | None = None

    @property
    def first(self) -> set[int]:
        """Lengths of the first axis of an array that count its planes."""
        return {1, COLOURS, self.channels}

    @property
    def last(self) -> set[int]:
        """Lengths of the last axis of an array that count its planes."""
        return {1, COLOURS, self.planes}

    def __str__(self) -> str:
        """What it takes, as the end of a sentence."""
        count = self.planes if self.planes > 1 else self.channels
        several = f"{count} planes, [{count}, H, W]"
        if count == COLOURS or self.planes > 1:
            several += f" or [H, W, {count}]"
        if self.planes > 1:
            return several
        return "one plane, [H, W]" if count == 1 else f"one plane, [H, W], or {several}"

    def refuse_planes(self, name: str, images: dict[str, Decoded], found: int, grey: bool) -> None:
        """DataError: an image does not have the planes that the network takes.

        found  its planes by the reading rules: one for a picture in colour that is grey everywhere
        grey   images in colour were converted to grey
        """
        stored = sum(len(image.planes) for image in images.values())
        if self.planes > 1 and found == 1 and (grey or stored == 1):
            why = "is read with grey=True" if stored > 1 else "has one plane, which is not repeated"
            raise DataError(f"{name}: {why}; the network was trained on {self}")
        if found in (1, self.channels):
            return
        colour = len(images) == 1
        remedy = ": load the model with grey=True" if colour and self.planes == 1 else ""
        kind = f"{found} planes, in colour" if colour else f"{found} planes"
        raise DataError(f"{name}: has {kind}; the network takes {self}{remedy}")


def decode_pixels(name: str, pixels: Any, network: NetworkInput) -> dict[str, Decoded]:
    """{file: content} of an image in memory, with a made-up file for each modality; `name` is for messages.

    pixels  a picture; or an array or tensor [H, W], or with its planes first or last. Of 3 planes, it is in colour;
            otherwise each plane is a modality. Floating-point values and bool are in [0, 1]. Integers are scaled as
            those of files: uint8 and uint16 by their full scale, others like NPY
    DataError: the type, the shape or the values do not fit.
    """
    if isinstance(pixels, Image.Image):
        try:
            return {name: decode_picture(name, pixels)}
        except DataError:
            raise
        except Exception as error:  # as of files, decoders raise any type of exception
            raise DataError(f"{name}: cannot be read ({_first_line(error)})") from error
    array = as_array(name, pixels)
    planes = _planes(name, array, network)
    return decode_planes(name, planes, len(planes) == COLOURS, network)


def decode_planes(
    name: str, planes: Shaped[np.ndarray, "C H W"], colour: bool, network: NetworkInput
) -> dict[str, Decoded]:
    """As `decode_pixels`, of planes.

    colour  the first three are red, green and blue
    """
    kind = planes.dtype.kind
    if kind == "f":
        _check_unit(name, planes, network.intensity)
    scale = UNIT if kind in "bf" else None
    if kind == "u":
        scale = FULL_SCALES.get(planes.dtype.itemsize)
    planes = numbers(name, planes)
    size = COLOURS if colour else 1
    parts = [planes[:size], *(planes[k : k + 1] for k in range(size, len(planes)))]
    names = [name] if len(parts) == 1 else [f"image_{k}" for k in range(len(parts))]
    return {file: Decoded(part, scale) for file, part in zip(names, parts, strict=True)}


def as_array(name: str, values: Any, kinds: str = KINDS) -> np.ndarray:
    """An array or tensor of numbers as an array. DataError: something else than `kinds`, or masked values."""
    try:
        if hasattr(values, "detach"):
            tensor = values.detach().cpu()
            short = tensor.is_floating_point() and tensor.dtype.itemsize < 4  # such as bfloat16, which NumPy lacks
            array = (tensor.float() if short else tensor).numpy()
        elif hasattr(values, "__array__"):
            array = np.asanyarray(values)
        else:
            raise DataError(f"{name}: of type {type(values).__name__}; pass {kinds}")
    except DataError:
        raise
    except Exception as error:  # conversions of other libraries raise any type of exception
        raise DataError(f"{name}: cannot be converted to an array ({_first_line(error)})") from error
    if np.ma.is_masked(array):
        raise DataError(f"{name}: has masked values; replace them with its method filled()")
    array = np.asarray(array)
    return array if array.dtype.kind == "b" else numbers(name, array)


def _planes(name: str, array: np.ndarray, network: NetworkInput) -> Shaped[np.ndarray, "C H W"]:
    """DataError: a shape that the network does not take, whatever the size."""
    shape = list(array.shape)
    if 0 in shape:
        raise DataError(f"{name}: has shape {shape}, without any pixel")
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3:
        hint = "; pass a list of images to draw several" if array.ndim == 4 else ""
        raise DataError(f"{name}: has shape {shape}; the network takes {network}{hint}")
    first, last = shape[0] in network.first, shape[2] in network.last
    if first and last:
        raise DataError(f"{name}: has shape {shape}, with its planes first or last; pass a picture (PIL)")
    if not first and not last:
        alpha = "; leave out an alpha channel" if shape[2] == COLOURS + 1 else ""
        raise DataError(f"{name}: has shape {shape}; the network takes {network}{alpha}")
    return array if first else np.moveaxis(array, -1, 0)


def _check_unit(name: str, values: np.ndarray, intensity: tuple[float, ...] | None) -> None:
    """DataError: floating-point values that are not finite, or outside [0, 1]."""
    for kind, wrong in (("NaN", np.isnan(values)), ("infinite values", np.isinf(values))):
        if wrong.any():
            raise DataError(
                f"{name}: contains {kind}, in {wrong.sum()} of {values.size} values; repair it, e.g. with "
                "numpy.nan_to_num"
            )
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return
    remedy = "scale them to [0, 1]"
    if intensity:
        bounds = f"{intensity[0]:g} and {intensity[1]:g}"
        remedy = f"{bounds} must become 0 and 1 (--intensity_range); integers are scaled so"
    elif NEARLY_UNIT[0] <= low and high <= NEARLY_UNIT[1]:
        remedy = "clip them, e.g. with numpy.clip"
    elif low >= 0 and high <= FULL_SCALES[1]:
        remedy = "divide an 8-bit image by 255, or pass it as uint8"
    raise DataError(f"{name}: has values from {low:g} to {high:g}, outside [0, 1]; {remedy}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
