"""Pack a folder of cases into one memory-mapped file per split, which opens instantly and can be used as --data_dir.

python scripts/pack_data.py --data_dir data/lidc --out data/lidc-packed
python scripts/segmentation_train.py --data_dir data/lidc-packed/training.pack
"""

import os
from collections.abc import Sequence
from typing import Annotated

from ..data.config import DataConfig
from ..data.names import SPLITS
from ..data.stores.case_cache import pack_folder
from ..errors import DataError
from ..flags import command_line
from ..flags.fields import Flag, config
from ..flags.sizes import PIXELS, Size
from ..system import folders


@config()
class PackConfig:
    """The input and output of packing."""

    data_dir: Annotated[str, Flag("folder of cases, with or without splits", required=True)] = ""
    out: Annotated[str, Flag("folder to write SPLIT.pack into", required=True, local=True)] = ""
    image_size: Annotated[
        Size | None, Flag(f"bring all cases to this size, {PIXELS}; none: keep their sizes", none="none", at_least=1)
    ] = None


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        flags = command_line.parse_command_line((PackConfig, DataConfig), __doc__, argv)
        config, data_config = flags[PackConfig], flags[DataConfig]
        if not os.path.isdir(config.data_dir):
            raise DataError(f"{config.data_dir}: no such folder (--data_dir)")
        splits = [split for split in SPLITS if os.path.isdir(os.path.join(config.data_dir, split))]
        folders.check_writable(config.out, "out")
        for name in splits or [os.path.basename(os.path.abspath(config.data_dir))]:
            path = os.path.join(config.out, f"{name}.pack")
            for line in pack_folder(
                os.path.join(config.data_dir, name) if splits else config.data_dir, path, config.image_size, data_config
            ):
                print(line)
            print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
