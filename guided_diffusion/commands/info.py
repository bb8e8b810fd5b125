"""Print what made a checkpoint, a file of samples, a packed file or a folder of cases.

    python scripts/info.py results/demo/savedmodel.pt

The command is put together from the stored flags that are not at their defaults. A word in capitals in it, such as
DATA_DIR, stands for a file or a folder, because it may be elsewhere now.
"""

import contextlib
import os
import zipfile
from collections.abc import Callable, Sequence
from typing import Annotated

from ..checkpoints.location import is_model_folder, locate
from ..data.files.case_files import is_image
from ..data.files.passed_over import printable
from ..data.stores.packed import is_packed
from ..errors import ConfigError, DataError
from ..flags import command_line
from ..flags.fields import Flag, config
from ..system import storage
from .origin.folder import folder_rows
from .origin.packed import packed_rows
from .origin.samples import samples_rows
from .origin.stored import Rows

ZIP = b"PK\x03\x04"  # how the files of numpy.savez and of torch.save begin


@config()
class InfoConfig:
    """What to describe."""

    path: Annotated[
        str, Flag("checkpoint, model folder or its name, ID_samples.npz, packed file, or folder of cases")
    ] = ""


def rows_of(path: str) -> Rows:
    """(title, text) of what is known of a file or folder. DataError, CheckpointError: damaged, or of another kind."""
    path = locate(path)
    if storage.is_remote(path) or is_model_folder(path):  # cases and samples are local
        return checkpoint_rows(path)
    if os.path.isdir(path):
        return folder_rows(path)
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file or folder")
    if not os.path.isfile(path):
        raise DataError(f"{path}: not a regular file or a folder")
    return reader_of(path)(path)


def reader_of(path: str) -> Callable[[str], Rows]:
    """The function for a file, by its content or, where it is damaged, by its name."""
    with open(path, "rb") as file:
        begin = file.read(len(ZIP))
    if is_packed(path) or path.endswith(".pack"):
        return packed_rows
    if begin == ZIP:
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            return samples_rows if all(name.endswith(".npy") for name in archive.namelist()) else checkpoint_rows
    if path.endswith(".npz"):
        return samples_rows
    return refuse_picture if is_image(path) else checkpoint_rows


def refuse_picture(path: str) -> Rows:
    """DataError: always."""
    raise DataError(
        f"{path}: a picture or an array, which does not store what made it; pass the ID_samples.npz beside it, or the "
        "folder of the case"
    )


def checkpoint_rows(path: str) -> Rows:
    """What made a checkpoint. CheckpointError: the file is damaged, or not a checkpoint."""
    from .origin import checkpoint  # imported here, because it imports torch

    return checkpoint.checkpoint_rows(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        words = command_line.name_first_word(argv, "path")
        path = command_line.parse_command_line((InfoConfig,), __doc__, words)[InfoConfig].path
        if not path:
            raise ConfigError("the file to describe is missing: python scripts/info.py results/demo/savedmodel.pt")
        rows = rows_of(path)
        width = max(len(title) for title, _ in rows)
        for title, text in rows:
            print(f"{title:<{width}}  {printable(text)}")


if __name__ == "__main__":
    main()
