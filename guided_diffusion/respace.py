"""The same diffusion process on fewer timesteps: respacing is data (betas and a map), not another kind of process."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from .errors import ConfigError
from .gaussian_diffusion import DiffusionConfig, GaussianDiffusion, Kept, scheduled_betas


def space_timesteps(num_timesteps: int, section_counts: str | Sequence[int]) -> set[int]:
    """The set of timesteps of 0 .. num_timesteps-1 to keep.

    section_counts  "ddimN": N steps at a whole stride from 0 (DDIM paper); "10,15,20" or [10, 15, 20]: the process is
                    cut into equal sections, over each of which that many steps are spread, ends included; "": all
    """
    if isinstance(section_counts, str):
        if section_counts.startswith("ddim"):
            return _ddim_timesteps(num_timesteps, section_counts)
        try:
            section_counts = [int(count) for count in section_counts.split(",")] if section_counts else [num_timesteps]
        except ValueError:
            raise ConfigError(f"--timestep_respacing {section_counts}: give '250', '10,15,20' or 'ddim50'") from None

    size, longer = divmod(num_timesteps, len(section_counts))
    start = 0
    kept: set[int] = set()
    for i, count in enumerate(section_counts):
        length = size + (i < longer)
        if not 0 <= count <= length:
            raise ConfigError(f"--timestep_respacing: a section of {length} timesteps cannot give {count} steps")
        stride = (length - 1) / (count - 1) if count > 1 else 1
        position = 0.0  # summed, not multiplied: rounding must fall as in the published spacing
        for _ in range(count):
            kept.add(start + round(position))
            position += stride
        start += length
    if not kept:
        raise ConfigError("--timestep_respacing keeps no timestep at all")
    return kept


def _ddim_timesteps(num_timesteps: int, spec: str) -> set[int]:
    wanted = int(spec[4:]) if spec[4:].isdigit() else 0
    for stride in range(1, num_timesteps + 1):
        if len(range(0, num_timesteps, stride)) == wanted:
            return set(range(0, num_timesteps, stride))
    raise ConfigError(
        f"--timestep_respacing {spec}: no whole stride over {num_timesteps} timesteps gives that many steps"
    )


def spread_timesteps(config: DiffusionConfig, steps: int, spacing: str = "linear") -> Int[np.ndarray, "{steps}"]:
    """`steps` timesteps of the T of `config`, ascending; the last is always T - 1, where sampling starts.

    spacing  "linear": even in t; "quadratic": even in sqrt(t); "logsnr": even in log(alpha_bar / (1 - alpha_bar))
    ConfigError: fewer than 1, or more than T.
    """
    T = config.diffusion_steps
    if not 1 <= steps <= T:
        raise ConfigError(f"--steps {steps}: from 1 to the {T} of --diffusion_steps are possible")
    u = np.linspace(1, 0, steps)[::-1]
    if spacing == "logsnr":
        alpha_bar = np.cumprod(1 - scheduled_betas(config))
        noise_level = np.log1p(-alpha_bar) - np.log(alpha_bar)  # rises with t
        wanted = noise_level[0] + u * (noise_level[-1] - noise_level[0])
        places = np.interp(wanted, noise_level, np.arange(T))
    else:
        places = (T - 1) * u ** {"linear": 1, "quadratic": 2}[spacing]
    # Where rounding puts two on one timestep, the later ones move up, as far as there is room.
    k = np.arange(steps)
    return np.minimum(np.maximum.accumulate(np.round(places) - k) + k, T - steps + k).astype(int)


def create_gaussian_diffusion(
    config: DiffusionConfig = DiffusionConfig(), timesteps: Kept | None = None
) -> GaussianDiffusion:
    """The process that `config` describes, on fewer timesteps.

    timesteps  ascending; None: those that config.timestep_respacing keeps
    """
    betas = scheduled_betas(config)
    if timesteps is None:
        timesteps = sorted(space_timesteps(config.diffusion_steps, config.timestep_respacing))
    if len(timesteps) < len(betas):  # the alpha_bar of the kept timesteps stay what they were
        alpha_bar = np.cumprod(1 - betas)[np.asarray(timesteps)]
        betas = 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])
    return GaussianDiffusion(betas, timesteps, config)
