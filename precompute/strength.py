"""How far do a head's patches look? Attention by distance on the patch grid (Eq. 7, 8) and its entropy.

Decided where the paper is silent: neighbours at hop k are the Chebyshev ring of radius k, clipped at the border
(Fig. 5: a corner has three neighbours at hop 1 and five at hop 2). The attention is as it is, not renormalised after
the prefix tokens are dropped (that would move the entropy by at most 0.026 on DeiT-tiny). A patch's own mean over the
ring comes first, then the mean over the patches that have the ring. On a rectangular grid hops go to the longer side.
"""

import math

import torch
from torch import Tensor

from precompute.model import Layer, ViT

# Numbers in one block of ring weights: 64 MiB in float32.
BLOCK = 1 << 24


def hops(grid: tuple[int, int]) -> Tensor:
    """Chebyshev distance between patches of a grid (rows, columns), int64 (query, key)."""
    rows, columns = grid
    y = torch.arange(rows).repeat_interleave(columns)
    x = torch.arange(columns).repeat(rows)
    return torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs())


def hop_strength(attn: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean attention that patches pay to their neighbours at each hop, (…, hop), hop = 0 … longer side − 1 (Eq. 7, 8).

    Args:
        attn: Attention between patches, (…, query, key), prefix tokens dropped, not renormalised.
        grid: Patches as (rows, columns).
    Raises:
        ValueError: attn is not between the patches of the grid.
    """
    hop = hops(grid).to(attn.device)
    if attn.shape[-2:] != hop.shape:
        raise ValueError(
            f"attn is {tuple(attn.shape[-2:])} but a {grid[0]}×{grid[1]} grid has {len(hop)} patches; "
            "drop the prefix tokens from attn first"
        )
    num_hops = max(grid)
    ring_size = torch.stack([(hop == k).sum(dim=1) for k in range(num_hops)], dim=1)  # (query, hop)
    patches_with_ring = (ring_size > 0).sum(dim=0)  # (hop,)
    weight = (1 / ring_size.clamp(min=1).double() / patches_with_ring).to(attn.dtype)  # (query, hop)
    strength = attn.new_zeros((*attn.shape[:-2], num_hops))
    step = max(1, BLOCK // (len(hop) * num_hops))
    for start in range(0, len(hop), step):
        rows = slice(start, start + step)
        rings = torch.nn.functional.one_hot(hop[rows], num_hops).to(attn.dtype) * weight[rows, None]
        strength += attn[..., rows, :].flatten(-2) @ rings.flatten(0, 1)
    return strength


def hop_entropy(strength: Tensor) -> Tensor:
    """Entropy of hop strengths scaled to sum 1, divided by its maximum ln(hops): 0 = one hop only, 1 = all alike, (…).

    A grid of one patch has one hop and entropy 0.
    """
    num_hops = strength.shape[-1]
    if num_hops == 1:
        return torch.where(strength[..., 0].isnan(), torch.nan, 0.0).to(strength)
    share = strength.double() / strength.double().sum(dim=-1, keepdim=True)
    return (torch.special.entr(share).sum(dim=-1) / math.log(num_hops)).to(strength.dtype)


def of_layer(vit: ViT, layer: Layer) -> dict[str, Tensor]:
    """Strength (image, head, hop) and its entropy (image, head) of one layer's attention between patches."""
    patches = slice(vit.num_prefix_tokens, None)
    strength = hop_strength(layer.attn[..., patches, patches], vit.grid)
    return {"strength": strength, "entropy": hop_entropy(strength)}
