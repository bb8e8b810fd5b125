r"""The README's picture: some test phantoms, their raters' masks, and samples of a model.

Made with these commands, on one of two cores of an AMD EPYC with other programs on the other core (torch 2.13.0); the
training took 19 minutes:

    export OMP_NUM_THREADS=1
    python scripts/make_phantom.py --out results/demo64/training --num_cases 1000 --size 64 --seed 1
    python scripts/make_phantom.py --out results/demo64/testing --num_cases 40 --size 64 --seed 2
    python scripts/segmentation_train.py --preset tuned --data_dir results/demo64/training --image_size 64 \
        --image_channels 1 --num_channels 32 --num_res_blocks 1 --channel_mult 1,1,1 --denoiser_mult 1,1,1 \
        --patch_size 4 --attention_resolutions 8 --encoder_guesses 1 --lr 3e-3 --lr_anneal_steps 1200 \
        --log_dir results/demo64
    python scripts/segmentation_sample.py --data_dir results/demo64/testing --model_path results/demo64/savedmodel.pt \
        --num_ensemble 16 --out_dir results/demo64/samples
    python benchmarks/plot_demo.py --data_dir results/demo64/testing --samples results/demo64/samples

The three cases are chosen among the first eight, because their raters disagree visibly.
"""

from typing import Annotated

from guided_diffusion.errors import DataError
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks.pictures import COLUMNS, Tile, grid, map_tiles, mask_tiles
from guided_diffusion.masks.postprocess import binarise
from guided_diffusion.sampling.store import find_samples, foreign_rule


@config()
class PlotConfig:
    data_dir: Annotated[str, Flag("folder of cases of one size")] = ""
    samples: Annotated[str, Flag("folder of their samples")] = ""
    cases: Annotated[tuple[int, ...], Flag("numbers of the cases to show, from 0", at_least=0)] = (1, 5, 7)
    out: Annotated[str, Flag("picture to write")] = "docs/demo.png"


def rows_of(case, folder):
    """Two rows of tiles: image, raters' outlines and masks; mean, samples' outlines and masks."""
    found = find_samples(folder, case.id, lambda: foreign_rule(folder, [case.id]))
    if found is None:
        raise DataError(f"{folder}: no samples of {case.id}")
    image, raters, samples = case.image[0].numpy(), case.raters.numpy() > 0.5, binarise(found[0])
    shown = samples[: COLUMNS - 2]
    return [
        [Tile("image", image), *mask_tiles(f"{len(raters)} raters", "rater", image, raters)][:COLUMNS],
        [map_tiles(samples)[0], *mask_tiles(f"first {len(shown)} samples", "sample", image, shown)],
    ]


def main():
    with command_line.one_line_errors("benchmarks/plot_demo.py"):
        config = command_line.parse_command_line((PlotConfig,), __doc__)[PlotConfig]
        cases = LIDCDataset(config.data_dir, image_channels=1)
        rows = [row for index in config.cases for row in rows_of(cases[index], config.samples)]
        grid(rows).save(config.out, optimize=True)


if __name__ == "__main__":
    main()
