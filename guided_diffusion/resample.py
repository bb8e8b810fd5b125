"""Which timesteps to train on: uniformly, or in proportion to the root of the loss's second moment."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import ConfigError


class UniformSampler:
    """Every timestep equally often, every loss weighed by 1."""

    learns = False  # whether `update` needs the losses

    def __init__(self, num_timesteps: int) -> None:
        self.num_timesteps = num_timesteps

    def sample(self, u: Float[Tensor, "B"]) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
        """Timesteps and loss weights from uniform numbers u in [0, 1)."""
        t = (u * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)
        return t, torch.ones_like(u)

    def update(self, t: Int[Tensor, "B"], losses: Float[Tensor, "B"]) -> None:
        """Learn from the losses seen at t, finite ones alone; nothing to learn here."""

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""


class LossSecondMomentSampler(UniformSampler):
    """p_t in proportion to sqrt(E[L_t^2]) over the last losses of each timestep (improved DDPM, section 3.3).

    history_per_term  losses remembered for each timestep; until all have that many, sampling is uniform
    uniform_prob      share of the draws that stays uniform, so that no timestep is forgotten
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
        """Timesteps by importance, and weights under which the loss's mean is that of uniform ones."""
        p = self.probabilities()
        t = torch.searchsorted(p.cumsum(0), u.double(), right=True).clamp(max=self.num_timesteps - 1)
        return t, (1 / (self.num_timesteps * p[t])).to(u.dtype)

    def update(self, t: Int[Tensor, "B"], losses: Float[Tensor, "B"]) -> None:
        """Remember the finite losses seen at t."""
        finite = torch.isfinite(losses)
        for index, loss in zip(t[finite].tolist(), losses[finite].tolist(), strict=True):
            self.history[index] = self.history[index].roll(-1)  # the oldest falls out
            self.history[index, -1] = loss
            self.counts[index] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The losses remembered, and how many were seen at each timestep."""
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
