"""
Make a set of phantom cases, whose raters follow a known distribution:

    python scripts/make_phantom.py --out data/phantom --num_cases 200 --seed 1
"""

import os
from dataclasses import dataclass
from typing import Annotated

from guided_diffusion import phantom, script_util
from guided_diffusion.nn import ConfigError


@dataclass(frozen=True)
class PhantomConfig:
    out: Annotated[str, "folder to write, new or empty"] = ""
    num_cases: Annotated[int, "cases"] = 100
    size: Annotated[int, "side of the images, pixels"] = 128
    raters: Annotated[int, "raters for each case"] = 8
    seed: Annotated[int, "of the set; the same seed makes the same cases"] = 0


def main(argv=None):
    with script_util.one_line_errors("make_phantom.py"):
        given, _ = script_util.parse_command_line((PhantomConfig,), __doc__, argv)
        (config,) = script_util.configs_from_flags(given, PhantomConfig)
        if not config.out:
            raise ConfigError("--out is missing: name the folder to write")
        if os.path.isdir(config.out) and os.listdir(config.out):
            raise ConfigError(f"--out {config.out} is not empty: name a new folder")
        if config.num_cases < 1 or config.raters < 1 or config.seed < 0 or config.size < 16:
            raise ConfigError("--num_cases and --raters want at least 1, --seed at least 0, --size at least 16")
        phantom.write_set(config.out, config.num_cases, config.seed, config.size, config.raters)
        print(f"{config.num_cases} cases in {config.out}")


if __name__ == "__main__":
    main()
