"""Crop cases to the centre of their images, and split off some of them for testing.

    python benchmarks/crop_cases.py --data_dir REAL/lidc/training --out results/lidc --crop 32 --test_every 3

The nodules in the paper's 128x128 LIDC slices lie in the central quarter. If the whole slices were downscaled to a size
that a CPU can train on, most nodules would be only a pixel or two wide.
"""

from typing import Annotated

from guided_diffusion.data.config import DataConfig
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.prepare.case_writer import CaseFolder, RawCase


@config()
class CropConfig:
    data_dir: Annotated[str, Flag("folder of cases")] = ""
    out: Annotated[str, Flag("output folder, for training/CASE and testing/CASE")] = ""
    image_size: Annotated[int, Flag("side that images are scaled to first")] = 128
    crop: Annotated[int, Flag("side of the crops, pixels; the side of the images: no cropping")] = 128
    test_every: Annotated[
        int | None, Flag("every N-th case, in order of names, is used for testing; -1: none", none="auto")
    ] = None


def main():
    with command_line.one_line_errors("benchmarks/crop_cases.py"):
        config = command_line.parse_command_line((CropConfig,), __doc__)[CropConfig]
        dataset = LIDCDataset(config.data_dir, config.image_size, 1, DataConfig())
        folder = CaseFolder(config.out, config.data_dir)
        first = (config.image_size - config.crop) // 2
        window = (..., slice(first, first + config.crop), slice(first, first + config.crop))
        for k in range(len(dataset)):
            case = dataset[k]
            planes = {"": case.image[0].numpy()[window]}
            raw = RawCase(case.id, planes, case.raters.numpy()[window] > 0.5, patient=case.id)
            is_testing = config.test_every and (k + 1) % config.test_every == 0
            folder.write(raw, "testing" if is_testing else "training")


if __name__ == "__main__":
    main()
