"""The picture of a model card: samples for a synthetic image, or a picture that is given."""

import io

import numpy as np
from jaxtyping import Float
from PIL import Image

from ...distribution import EncoderConfig
from ...errors import ConfigError
from ...masks import pictures
from ...methods.registry import METHODS, MethodConfig
from ...predict import load
from ...prepare.phantoms.phantom import make_phantom
from ...unet import UNetConfig

SEED, SHOWN = 1, 6  # of the phantom; masks


def draw_picture(folder: str) -> bytes:
    """A sheet of samples that the model in a folder draws for a phantom, with few network calls, as PNG."""
    model = load(folder)
    unet, encoders = model.configs[UNetConfig], model.configs[EncoderConfig]
    image = phantom_image(unet.size, unet.channels if encoders.encoder_channels > 1 else 1)
    more = {"fast": True} if METHODS[model.configs[MethodConfig].method].has_chain else {}
    ensemble = model.sample(image if len(image) > 1 else image[0], SHOWN, name="phantom", **more)
    sheet = pictures.sheet(image[0], ensemble.raters, ensemble.masks, classes=ensemble.class_set)
    return as_png(sheet)


def phantom_image(size: tuple[int, int], channels: int) -> Float[np.ndarray, "C H W"]:
    """A phantom of one plane per channel, whose nodule is in the middle of the (H, W) pixels."""
    side = max(size)
    planes = np.stack(make_phantom(SEED, 0, side, 1, num_modalities=channels).images).astype(np.float32)
    top, left = ((side - part) // 2 for part in size)
    return np.ascontiguousarray(planes[:, top : top + size[0], left : left + size[1]])


def read_picture(path: str) -> bytes:
    """A picture as PNG, without what else its file stores. ConfigError: it cannot be read."""
    try:
        with Image.open(path) as picture:
            return as_png(picture.convert("RGB"))
    except FileNotFoundError as error:
        raise ConfigError(f"--picture {path}: no such file; pass a PNG or JPEG file") from error
    except Exception as error:  # on damaged files, Pillow raises several types
        raise ConfigError(f"--picture {path}: cannot be read as a picture; pass a PNG or JPEG file") from error


def as_png(picture: Image.Image) -> bytes:
    """The pixels as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(picture)).save(file, format="PNG")
    return file.getvalue()
