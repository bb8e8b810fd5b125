"""Which timesteps to train on: uniformly, or in proportion to the root of the loss's second moment."""

import torch

from .errors import ConfigError


class UniformSampler:
    """Every timestep equally often, every loss weighed by 1."""

    learns = False  # whether `update` wants the losses

    def __init__(self, num_timesteps):
        self.num_timesteps = num_timesteps

    def sample(self, u):
        """Timesteps and loss weights, both [B], from uniform numbers u [B] in [0, 1)."""
        t = (u * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)
        return t, torch.ones_like(u)

    def update(self, t, losses):
        """Learn from the losses [B] seen at t [B], finite ones alone; nothing to learn here."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class LossSecondMomentSampler(UniformSampler):
    """p_t in proportion to sqrt(E[L_t^2]) over the last losses of each timestep (improved DDPM, section 3.3).

    history_per_term  losses remembered for each timestep; until all have so many, sampling is uniform
    uniform_prob      share of the draws that stays uniform, so that no timestep is forgotten
    """

    learns = True

    def __init__(self, num_timesteps, history_per_term=10, uniform_prob=0.001):
        super().__init__(num_timesteps)
        self.uniform_prob = uniform_prob
        self.history = torch.zeros(num_timesteps, history_per_term, dtype=torch.float64)
        self.counts = torch.zeros(num_timesteps, dtype=torch.int64)

    def probabilities(self):
        """p_t [T], float64, summing to 1."""
        if (self.counts < self.history.shape[1]).any():
            return torch.full((self.num_timesteps,), 1 / self.num_timesteps, dtype=torch.float64)
        p = self.history.square().mean(dim=1).sqrt()
        return (1 - self.uniform_prob) * p / p.sum() + self.uniform_prob / self.num_timesteps

    def sample(self, u):
        p = self.probabilities()
        t = torch.searchsorted(p.cumsum(0), u.double(), right=True).clamp(max=self.num_timesteps - 1)
        return t, (1 / (self.num_timesteps * p[t])).to(u.dtype)

    def update(self, t, losses):
        finite = torch.isfinite(losses)
        for index, loss in zip(t[finite].tolist(), losses[finite].tolist(), strict=True):
            self.history[index] = self.history[index].roll(-1)  # the oldest falls out
            self.history[index, -1] = loss
            self.counts[index] += 1

    def state_dict(self):
        return {"history": self.history, "counts": self.counts}

    def load_state_dict(self, state):
        self.history.copy_(state["history"])
        self.counts.copy_(state["counts"])


def create_named_schedule_sampler(name, num_timesteps):
    """The sampler of --schedule_sampler: "uniform" or "loss-second-moment"."""
    samplers = {"uniform": UniformSampler, "loss-second-moment": LossSecondMomentSampler}
    if name not in samplers:
        raise ConfigError(f"--schedule_sampler {name} is unknown: choose one of {', '.join(samplers)}")
    return samplers[name](num_timesteps)
