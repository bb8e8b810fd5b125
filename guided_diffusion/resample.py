"""Samplers of training timesteps: uniform, or by importance (root of the loss's second moment)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import ConfigError


class UniformSampler:
    """Sample all timesteps with equal probability; all loss weights are 1."""

    learns = False  # whether `update` needs the losses

    def __init__(self, num_timesteps: int) -> None:
        self.num_timesteps = num_timesteps

    def sample(self, u: Float[Tensor, "B"]) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
        """Timesteps and loss weights, from uniform numbers u in [0, 1)."""
        t = (u * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)
        return t, torch.ones_like(u)

    def update(self, t: Int[Tensor, "B"], losses: Float[Tensor, "B"]) -> None:
        """Update from the finite losses at t; this sampler has nothing to learn."""

    def state_dict(self) -> dict[str, Tensor]:
        """The learned state, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""


class LossSecondMomentSampler(UniformSampler):
    """p_t proportional to sqrt(E[L_t^2]) over the last losses of each timestep (improved DDPM, section 3.3).

    history_per_term  losses kept per timestep; sampling is uniform until every timestep has this many
    uniform_prob      share of uniform draws, so that every timestep is sampled occasionally
    """

    learns = True

    def __init__(self, num_timesteps: int, history_per_term: int = 10, uniform_prob: float = 0.001) -> None:
        super().__init__(num_timesteps)
        self.uniform_prob = uniform_prob
        self.history = torch.zeros(num_timesteps, history_per_term, dtype=torch.float64)
        self.counts = torch.zeros(num_timesteps, dtype=torch.int64)

    def probabilities(self) -> Float[Tensor, "T"]:
        """p_t, float64, summing to 1."""
        if (self.counts < self.history.shape[1]).any():
            return torch.full((self.num_timesteps,), 1 / self.num_timesteps, dtype=torch.float64)
        p = self.history.square().mean(dim=1).sqrt()
        return (1 - self.uniform_prob) * p / p.sum() + self.uniform_prob / self.num_timesteps

    def sample(self, u: Float[Tensor, "B"]) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
        """Timesteps sampled by importance, and weights that keep the mean loss unbiased."""
        p = self.probabilities()
        t = torch.searchsorted(p.cumsum(0), u.double(), right=True).clamp(max=self.num_timesteps - 1)
        return t, (1 / (self.num_timesteps * p[t])).to(u.dtype)

    def update(self, t: Int[Tensor, "B"], losses: Float[Tensor, "B"]) -> None:
        """Record the finite losses at t."""
        finite = torch.isfinite(losses)
        for index, loss in zip(t[finite].tolist(), losses[finite].tolist(), strict=True):
            self.history[index] = self.history[index].roll(-1)  # drops the oldest
            self.history[index, -1] = loss
            self.counts[index] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The recorded losses, and their number for each timestep."""
        return {"history": self.history, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.history.copy_(state["history"])
        self.counts.copy_(state["counts"])


def create_named_schedule_sampler(name: str, num_timesteps: int) -> UniformSampler:
    """The sampler of --schedule_sampler: "uniform" or "loss-second-moment"."""
    samplers = {"uniform": UniformSampler, "loss-second-moment": LossSecondMomentSampler}
    if name not in samplers:
        raise ConfigError(f"--schedule_sampler {name} is unknown: choose one of {', '.join(samplers)}")
    return samplers[name](num_timesteps)
