"""The self-attention of the U-Net, with the published parameter names."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .nn import checkpoint, normalization, zero_module


class AttentionBlock(nn.Module):
    """Residual self-attention over all pixels.

    num_heads       divides the channels
    new_order       split q, k, v before the heads instead of after
    use_checkpoint  recompute the activations in backward
    """

    def __init__(self, channels: int, num_heads: int, new_order: bool = False, use_checkpoint: bool = False) -> None:
        super().__init__()
        self.num_heads, self.new_order, self.use_checkpoint = num_heads, new_order, use_checkpoint
        self.norm = normalization(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_module(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Attend over all pixels and add the result to `x`."""
        return checkpoint(self._forward, x, flag=self.use_checkpoint)

    def _forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        # Channels last throughout: fused attention kernels require q, k and v with contiguous channels.
        h = self.norm(x.reshape(B, C, H * W)).transpose(1, 2)  # [B, H W, C]
        qkv = pointwise(self.qkv, h)  # [B, H W, 3 C]

        if self.new_order:
            q, k, v = qkv.reshape(B, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = qkv.reshape(B, H * W, self.num_heads, 3, -1).permute(3, 0, 2, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v)  # [B, heads, H W, C / heads]

        h = pointwise(self.proj_out, h.transpose(1, 2).reshape(B, H * W, C))
        return x + h.transpose(1, 2).reshape(B, C, H, W)


def pointwise(conv: nn.Conv1d, x: Float[Tensor, "B N C_in"]) -> Float[Tensor, "B N C_out"]:
    """Apply a convolution of kernel size 1 to a channels-last tensor."""
    return F.linear(x, conv.weight[:, :, 0], conv.bias)
