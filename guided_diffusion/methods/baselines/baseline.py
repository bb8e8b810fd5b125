"""What the baselines have in common."""

import torch
from torch import nn

from ...errors import ConfigError
from ...nn import seeded_generator, stack_randn, to_device


class Baseline(nn.Module):
    """The interface of AmbiguousSegmenter for a model without a chain of timesteps: one network call, and one draw for each mask.

    A subclass has `model`, a PlainUNet; `terms`, the names of its loss terms; `forward`, as AmbiguousSegmenter's, whose t
    means nothing here; `noise_shape`; and `draw_logits`.
    """

    terms = ()
    num_timesteps = max_steps = 1

    @property
    def sampling_parts(self):
        """The modules that sampling needs."""
        return [self]

    def spaced(self, config):
        """This one: there is no chain to take fewer steps of."""
        return self

    def shardable(self):
        raise ConfigError("--shard is of the diffusion models; this --method fits any GPU")

    def noise_shape(self, size):
        """Of one mask's noise in `forward`, for masks of `size` (H, W)."""
        raise NotImplementedError

    def sampling_noise_shape(self, size):
        """The same in `draw_logits`."""
        return self.noise_shape(size)

    def draw_logits(self, image, noise, rows):
        """Logits [B, 1, H, W] of masks of images [N, C, H, W]; noise [B, ...] standard normal; rows [B], each mask's image."""
        raise NotImplementedError

    def sample_masks(self, image, generators, config=None, on_step=None, rows=None):
        """One mask for each generator, as probabilities [B, 1, H, W]; the arguments are AmbiguousSegmenter's, config unused."""
        rows = torch.arange(len(image), device=image.device) if rows is None else rows
        noise = to_device(stack_randn(generators, self.sampling_noise_shape(image.shape[2:])), image.device)
        masks = torch.sigmoid(self.draw_logits(image, noise, rows))
        if on_step:
            on_step(0, masks)
        return masks

    def one_call(self, image, config=None):
        """What drawing as many masks as images [B, C, H, W] takes; config as in sample_masks."""
        return self.sample_masks(image, [seeded_generator(row) for row in range(len(image))])


def per_mask(image, rows):
    """The image of each mask: [N, C, H, W], [B] or None -> [B, C, H, W]."""
    return image if rows is None else image[rows]
