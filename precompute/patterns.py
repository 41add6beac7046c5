"""What of a head's attention do the pattern maps compare? Its CLS part, and the strongest 1 % of its patch part."""

import math

import numpy as np
import torch
from torch import Tensor

from precompute.model import Layer, ViT

# The paper binarises each matrix at its own top 1 % (Sec. 5.4.1).
TOP_SHARE = 0.01


def cls_vector(attn: Tensor, num_prefix_tokens: int) -> Tensor:
    """A_CLS = [CLS→CLS, CLS→patches, patches→CLS], (…, 2 · patches + 1), from (…, query, key) with CLS at 0.

    Registers and distillation tokens are neither CLS nor patches and are left out.
    """
    patches = slice(num_prefix_tokens, None)
    return torch.cat([attn[..., 0, :1], attn[..., 0, patches], attn[..., patches, 0]], dim=-1)


def top_mask(attn: Tensor) -> Tensor:
    """The strongest 1 % of each matrix, bool (…, query, key): exactly ⌈0.01 · query · key⌉ ones.

    Of equal values at the edge the first in row-major order are taken, so that the count is exact and the same on
    every machine. A matrix with a NaN has no ones.
    """
    flat = attn.flatten(-2)
    count = math.ceil(TOP_SHARE * flat.shape[-1])
    edge = flat.topk(count, dim=-1).values[..., -1:]
    above = flat > edge
    ties = flat == edge
    room = count - above.sum(dim=-1, keepdim=True)
    top = above | (ties & (ties.cumsum(dim=-1) <= room))
    return (top & ~flat.isnan().any(dim=-1, keepdim=True)).unflatten(-1, attn.shape[-2:])


def packed(mask: Tensor) -> Tensor:
    """Bits of (…, query, key), row-major, the first bit highest, as uint8 (…, ⌈query · key / 8⌉): numpy.packbits."""
    flat = mask.flatten(-2)
    flat = torch.nn.functional.pad(flat, (0, -flat.shape[-1] % 8)).unflatten(-1, (-1, 8))
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=mask.device)
    return (flat * weights).sum(dim=-1, dtype=torch.uint8)


def unpacked(packed: np.ndarray, patches: int) -> np.ndarray:
    """The bits of masks, uint8 0 or 1 (mask, patches, patches), from (mask, byte): numpy.unpackbits.

    Raises:
        ValueError: a mask of so many patches has another number of bytes.
    """
    wanted = math.ceil(patches**2 / 8)
    if packed.ndim != 2 or packed.shape[1] != wanted:
        raise ValueError(f"masks are {packed.shape}; masks of {patches} patches are (mask, {wanted}) bytes")
    return np.unpackbits(packed, axis=1, count=patches**2).reshape(-1, patches, patches)


def of_layer(vit: ViT, layer: Layer) -> dict[str, Tensor]:
    """What the maps compare of a layer: patch_mask, uint8 (image, head, byte), and cls_vector (image, head, entry)."""
    patches = slice(vit.num_prefix_tokens, None)
    masks = {"patch_mask": packed(top_mask(layer.attn[..., patches, patches]))}
    return masks | ({"cls_vector": cls_vector(layer.attn, vit.num_prefix_tokens)} if vit.has_cls else {})
