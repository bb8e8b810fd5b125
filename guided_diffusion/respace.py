"""Respacing: the same diffusion process on fewer timesteps, expressed by new betas and a timestep map."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from .errors import ConfigError
from .gaussian_diffusion import DiffusionConfig, GaussianDiffusion, Kept, scheduled_betas


def space_timesteps(num_timesteps: int, section_counts: str | Sequence[int]) -> set[int]:
    """The set of timesteps to keep, out of 0 .. num_timesteps-1.

    section_counts  "ddimN": N steps with an integer stride, from 0 (DDIM paper); "10,15,20" or [10, 15, 20]: divide the
                    process into equal sections with this many evenly spaced steps each, ends included; "": keep all
    """
    if isinstance(section_counts, str):
        if section_counts.startswith("ddim"):
            return _ddim_timesteps(num_timesteps, section_counts)
        try:
            section_counts = [int(count) for count in section_counts.split(",")] if section_counts else [num_timesteps]
        except ValueError:
            raise ConfigError(
                f"--timestep_respacing {section_counts}: must have the form '250', '10,15,20' or 'ddim50'"
            ) from None

    if not section_counts:
        raise ConfigError("--timestep_respacing keeps no timestep at all")
    size, longer = divmod(num_timesteps, len(section_counts))
    start = 0
    kept: set[int] = set()
    for i, count in enumerate(section_counts):
        length = size + (i < longer)
        if not 0 <= count <= length:
            raise ConfigError(
                f"--timestep_respacing: cannot keep {count} steps of a section of {length} timesteps; use fewer"
            )
        stride = (length - 1) / (count - 1) if count > 1 else 1
        position = 0.0  # accumulated, not multiplied, to round exactly as the published code
        for _ in range(count):
            kept.add(start + round(position))
            position += stride
        start += length
    if not kept:
        raise ConfigError("--timestep_respacing keeps no timestep: use a count of at least 1")
    return kept


def _ddim_timesteps(num_timesteps: int, spec: str) -> set[int]:
    count = int(spec[4:]) if spec[4:].isdigit() else 0
    for stride in range(1, num_timesteps + 1):
        if len(range(0, num_timesteps, stride)) == count:
            return set(range(0, num_timesteps, stride))
    raise ConfigError(
        f"--timestep_respacing {spec}: no integer stride over {num_timesteps} timesteps gives this number of steps"
    )


def spread_timesteps(config: DiffusionConfig, steps: int, spacing: str = "linear") -> Int[np.ndarray, "{steps}"]:
    """`steps` of the T timesteps of `config`, ascending; the last is always T - 1, where sampling starts.

    spacing  "linear": even in t; "quadratic": even in sqrt(t); "logsnr": even in log(alpha_bar / (1 - alpha_bar))
    ConfigError: fewer than 1, or more than T.
    """
    T = config.diffusion_steps
    if not 1 <= steps <= T:
        raise ConfigError(f"--steps {steps}: must be from 1 to --diffusion_steps {T}")
    u = np.linspace(1, 0, steps)[::-1]
    if spacing == "logsnr":
        alpha_bar = np.cumprod(1 - scheduled_betas(config))
        noise_level = np.log1p(-alpha_bar) - np.log(alpha_bar)  # increases with t
        targets = noise_level[0] + u * (noise_level[-1] - noise_level[0])
        places = np.interp(targets, noise_level, np.arange(T))
    else:
        places = (T - 1) * u ** {"linear": 1, "quadratic": 2}[spacing]
    # If rounding puts two steps on one timestep, move the later ones up, to at most T - 1.
    k = np.arange(steps)
    return np.minimum(np.maximum.accumulate(np.round(places) - k) + k, T - steps + k).astype(int)


def create_gaussian_diffusion(
    config: DiffusionConfig = DiffusionConfig(), timesteps: Kept | None = None
) -> GaussianDiffusion:
    """The process that `config` describes, restricted to some of its timesteps.

    timesteps  ascending; None: those kept by config.timestep_respacing
    """
    betas = scheduled_betas(config)
    if timesteps is None:
        timesteps = sorted(space_timesteps(config.diffusion_steps, config.timestep_respacing))
    kept = np.asarray(timesteps)
    if len(kept) == 0 or kept[0] < 0 or kept[-1] >= len(betas) or (np.diff(kept) <= 0).any():
        raise ConfigError(f"timesteps must ascend within 0 to {len(betas) - 1}")
    if len(kept) < len(betas):  # the kept timesteps keep their alpha_bar
        alpha_bar = np.cumprod(1 - betas)[kept]
        betas = 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])
    return GaussianDiffusion(betas, kept, config)
