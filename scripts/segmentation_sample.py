"""
Draw an ensemble of masks for every case of a folder:

    python scripts/segmentation_sample.py --data_dir data/testing --model_path results/savedmodel.pt --num_ensemble 4

A checkpoint knows its model flags; those of the published code do not, and want them on the command line.
"""

import os
from datetime import timedelta

from tqdm import tqdm

from guided_diffusion import checkpoint, ensemble, evaluation, script_util
from guided_diffusion.dist_util import Processes
from guided_diffusion.ensemble import SampleConfig
from guided_diffusion.lidcloader import DataConfig, LIDCDataset
from guided_diffusion.nn import ConfigError
from guided_diffusion.postprocess import PostprocessConfig
from guided_diffusion.scoring import EvaluateConfig

CONFIGS = (SampleConfig, PostprocessConfig, DataConfig, *script_util.MODEL_CONFIGS)


def main(argv=None):
    with script_util.one_line_errors("segmentation_sample.py"):
        given, preset = script_util.parse_command_line(CONFIGS, __doc__, argv)
        config, postprocess = script_util.configs_from_flags(given, SampleConfig, PostprocessConfig)
        ensemble.check_sample_config(config)
        script_util.refuse_remote("out_dir", config.out_dir)
        for name in ("data_dir", "model_path"):
            if not getattr(config, name):
                raise ConfigError(f"--{name} is missing")

        segmenter, flags = script_util.load_segmenter(
            config.model_path, script_util.pick_flags({**preset, **given}, DataConfig, *script_util.MODEL_CONFIGS), config.weights
        )
        (data_config,) = script_util.configs_from_flags(flags, DataConfig)
        unet = segmenter.model.config
        dataset = LIDCDataset(config.data_dir, unet.image_size, unet.image_channels, data_config, require_raters=False)

        drawn_by = ensemble.identity(config, segmenter, script_util.json_like(flags), checkpoint.fingerprint(config.model_path))
        finished_by = ensemble.finish(config, postprocess)
        processes = Processes(timeout=timedelta(days=7))  # they share the cases, and wait for each other only to score them
        os.makedirs(config.out_dir, exist_ok=True)
        chosen = range(len(dataset))[: config.num_samples][processes.rank :: processes.world_size]
        left = ensemble.unfinished(dataset, chosen, config.out_dir, drawn_by, finished_by, config.overwrite)
        for line in dataset.notes + [f"{len(left)} of {len(chosen)} cases to draw, into {config.out_dir}"]:
            tqdm.write(line)

        segmenter.to(processes.device)
        total = len(left) * config.num_ensemble
        with tqdm(total=total, unit="mask", dynamic_ncols=True, disable=not processes.is_main) as bar:
            for case, samples in ensemble.draw_ensembles(segmenter, dataset, left, config, processes.device, bar.update):
                ensemble.write_case(config.out_dir, case, samples, {**drawn_by, **finished_by})
        if config.evaluate:
            with processes:
                processes.barrier()
            if processes.is_main:
                evaluation.evaluate(EvaluateConfig(config.data_dir, config.out_dir), {})


if __name__ == "__main__":
    main()
