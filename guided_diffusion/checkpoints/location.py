"""What the path of a model means: a file, a folder, a blob, a shipped model, or one of the Hugging Face Hub.

Does not need torch.
"""

import functools
import os
import re
import sys
from pathlib import Path

from ..errors import CheckpointError
from ..system import storage
from ..system.storage import StrPath

MODEL_WEIGHTS, MODEL_CONFIG = "model.safetensors", "config.json"  # of a model folder
SHIPPED = Path(__file__).parents[1] / "models"  # a model folder for each name
HUB, PAGE = "hf://", re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)")
HUB_NAME = re.compile(r"hf://([\w-][\w.-]*/[\w-][\w.-]*?)(?:@([\w-][\w.-]*(?:/[\w-][\w.-]*)*))?/?")
EXTRA = 'pip install "ambiguous-segmentation-diffusion[share]"'
NEEDED = [MODEL_CONFIG, MODEL_WEIGHTS]


def locate(path: StrPath) -> str:
    """The file, blob or model folder that `path` means.

    In this order: gs:// and az:// are blobs; hf://OWNER/NAME or hf://OWNER/NAME@REVISION is a model of the Hugging Face
    Hub, which is downloaded into its cache; what exists in the file system comes before a shipped model of that name.
    The weights of a model folder mean the folder. Any other path is returned as it is.

    CheckpointError: it cannot be anything, or the download failed.
    """
    path = os.fspath(path)
    if path.startswith(HUB):
        return _downloaded(path)
    if match := PAGE.match(path):
        raise CheckpointError(f"{path}: for a model of the Hugging Face Hub, pass {HUB}{match[1]}")
    if reason := storage.unknown_store(path):
        raise CheckpointError(f"{path}: {reason}, or {HUB}OWNER/NAME for a model of the Hugging Face Hub")
    folder, name = os.path.split(path)
    if name == MODEL_WEIGHTS and storage.exists(os.path.join(folder, MODEL_CONFIG)):
        return folder or "."
    if storage.is_remote(path) or os.path.exists(path):
        return path
    names = shipped_names()
    if path in names:
        return str(SHIPPED / path)
    if names and re.fullmatch(r"[\w-]+", path):
        raise CheckpointError(
            f"{path}: no such file or folder, and no shipped model of this name; shipped are {', '.join(names)}"
        )
    return path


def is_model_folder(path: str) -> bool:
    """Whether `path` is a model folder, be it whole or not."""
    return storage.is_folder(path) and any(storage.exists(os.path.join(path, name)) for name in NEEDED)


def shipped_names() -> list[str]:
    """The names of the models in this package."""
    return sorted(folder.parent.name for folder in SHIPPED.glob(f"*/{MODEL_CONFIG}"))


@functools.cache  # so that all calls of a process get the same revision
def _downloaded(path: str) -> str:
    """The folder of a model of the Hub in the cache of huggingface_hub. CheckpointError: it cannot be had."""
    match = HUB_NAME.fullmatch(path)
    if not match:
        raise CheckpointError(f"{path}: a model of the Hub is {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    try:
        from huggingface_hub import snapshot_download, utils  # optional
    except ImportError:
        raise CheckpointError(f"{path}: the Hub needs the package huggingface_hub; {EXTRA}") from None
    utils.logging.set_verbosity_error()  # its warnings repeat what is reported here
    if not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        folder = snapshot_download(match[1], revision=match[2], allow_patterns=NEEDED)
    except Exception as error:  # of huggingface_hub, of its HTTP client, or of the file system
        raise CheckpointError(f"{path}: {_why_not_downloaded(error, match[1], match[2])}") from error
    if not all(os.path.exists(os.path.join(folder, name)) for name in NEEDED):
        raise CheckpointError(f"{path}: not a model of this program, it lacks {' or '.join(NEEDED)}; use another one")
    return folder


def _why_not_downloaded(error: Exception, name: str, revision: str | None) -> str:
    """What an error of huggingface_hub means for a model, with the remedy."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{name}"
        return f"the access to this model is restricted: accept its conditions at {page}, then log in by hf auth login"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the model has no revision {revision or 'main'}: use another one"
    if isinstance(error, errors.HFValidationError):
        return f"not a name of the Hub, which is {HUB}OWNER/NAME"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"the Hub cannot be reached, and the cache {constants.HF_HUB_CACHE} does not have the model: check the "
            "connection, or download it on another computer and pass its folder"
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 404):  # 401: of unknown names
        return "the Hub has no model of this name, or it is private: correct the name, or log in by hf auth login"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"downloading failed ({lines[0][:200]}); try again later"
