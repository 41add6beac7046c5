"""The obviously right computation: whole forward passes of timm's own model, with a hook that edits attention.

Slow on purpose. It shares nothing with `precompute` but the model and its input.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from precompute.model import ViT


@dataclass
class Forward:
    """logits (image, class); z and attn by layer: (image, token, channel) and (image, head, query, key)."""

    logits: Tensor
    z: list[Tensor]
    attn: list[Tensor]


@torch.inference_mode()
def forward(vit: ViT, pixels: Tensor, off: dict[tuple[int, int], Tensor] | None = None) -> Forward:
    """A plain forward with the attention of head (layer, head) set to 0 where `off` says so, bool (query, key)."""
    seen = Forward(torch.empty(0), [], [])
    with unfused(vit, off or {}, seen):
        seen.logits = vit.model(vit.normalised(pixels))
    return seen


@contextmanager
def unfused(vit, off, seen):
    handles = []
    for layer, block in enumerate(vit.model.blocks):

        def edit(module, args, attn, layer=layer):
            attn = attn.clone()
            for (pruned_layer, head), mask in off.items():
                if pruned_layer == layer:
                    attn[:, head][:, mask] = 0
            seen.attn.append(attn)
            return attn

        def keep(module, args, z):
            seen.z.append(z)

        block.attn.fused_attn = False
        handles += [block.attn.attn_drop.register_forward_hook(edit), block.attn.register_forward_hook(keep)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for block in vit.model.blocks:
            block.attn.fused_attn = True


def everything(vit: ViT) -> Tensor:
    """The whole matrix of a head, bool (query, key)."""
    return torch.ones(vit.num_tokens, vit.num_tokens, dtype=torch.bool)


def divergence(p: Tensor, q: Tensor) -> float:
    """Jensen-Shannon divergence in bits, by the textbook sum over classes."""
    total = 0.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        middle = (a + b) / 2
        total += (a * math.log2(a / middle) if a else 0) + (b * math.log2(b / middle) if b else 0)
    return total / 2


def distance(a: Tensor, b: Tensor) -> float:
    """1 − cosine of two vectors."""
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return 1 - dot / (math.sqrt(sum(x * x for x in a.tolist())) * math.sqrt(sum(y * y for y in b.tolist())))


def strength(attn: Tensor, grid: tuple[int, int]) -> list[float]:
    """Eq. 7, 8 by hand for one head, attn (query, key) between patches."""
    rows, columns = grid
    by_hop: list[list[float]] = [[] for _ in range(max(grid))]
    for y in range(rows):
        for x in range(columns):
            for hop in range(max(grid)):
                ring = [
                    attn[y * columns + x, v * columns + u].item()
                    for v in range(rows)
                    for u in range(columns)
                    if max(abs(v - y), abs(u - x)) == hop
                ]
                if ring:
                    by_hop[hop].append(sum(ring) / len(ring))
    return [sum(means) / len(means) for means in by_hop]
