"""Write a folder of cases into one memory-mapped file for each split, which opens at once and stands for the folder in training:

python scripts/pack_data.py --data_dir data/lidc --out data/lidc-packed
python scripts/segmentation_train.py --data_dir data/lidc-packed/training.pack
"""

import os
from dataclasses import dataclass
from typing import Annotated

from ..data.case_cache import pack_folder
from ..data.case_reader import DataConfig
from ..data.names import SPLITS
from ..errors import ConfigError, DataError
from ..flags import command_line
from ..flags.fields import configs_from_flags
from ..system import storage
from ..system.storage import refuse_remote


@dataclass(frozen=True)
class PackConfig:
    data_dir: Annotated[str, "folder of cases, with or without splits"] = ""
    out: Annotated[str, "folder to write SPLIT.pack into"] = ""
    image_size: Annotated[int | None, "bring all cases to this size; -1: leave them as they are"] = None


def main(argv=None):
    with command_line.one_line_errors():
        given, _ = command_line.parse_command_line((PackConfig, DataConfig), __doc__, argv)
        config, data_config = configs_from_flags(given, PackConfig, DataConfig)
        for name in ("data_dir", "out"):
            if not getattr(config, name):
                raise ConfigError(f"--{name} is missing")
        if config.image_size is not None and config.image_size < 1:
            raise ConfigError(f"--image_size {config.image_size}: at least 1 is needed, or -1")
        refuse_remote("out", config.out)
        if not os.path.isdir(config.data_dir):
            raise DataError(f"{config.data_dir}: no such folder (--data_dir)")
        splits = [split for split in SPLITS if os.path.isdir(os.path.join(config.data_dir, split))]
        storage.make_folder(config.out)
        for name in splits or [os.path.basename(os.path.abspath(config.data_dir))]:
            path = os.path.join(config.out, f"{name}.pack")
            for line in pack_folder(
                os.path.join(config.data_dir, name) if splits else config.data_dir, path, config.image_size, data_config
            ):
                print(line)
            print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
