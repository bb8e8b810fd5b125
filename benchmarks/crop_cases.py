"""Crop a set of cases around the middle of its images, and keep some of them for testing.

    python benchmarks/crop_cases.py --data_dir REAL/lidc/training --out results/lidc --crop 32 --test_every 3

The nodules of the paper's LIDC slices lie in the middle quarter of their 128 pixels; made smaller as a whole, for a
network that a CPU can train, most would be no more than a pixel or two.
"""

from typing import Annotated

from guided_diffusion.data.case_reader import DataConfig
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.prepare.case_writer import CaseFolder, RawCase


@config()
class CropConfig:
    data_dir: Annotated[str, Flag("folder of cases")] = ""
    out: Annotated[str, Flag("folder to write: training/CASE and testing/CASE")] = ""
    image_size: Annotated[int, Flag("side of the images, to which others are scaled first")] = 128
    crop: Annotated[int, Flag("side of the crops, pixels; that of the images for none")] = 128
    test_every: Annotated[
        int | None,
        Flag("each case whose number, by name, is a multiple of this goes to testing; -1: none", none="auto"),
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
