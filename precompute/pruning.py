"""What if parts of some heads are switched off? Any set of heads, any of the 16 sets of regions, on demand.

A head's attention matrix has four regions (Fig. 4A), by source and target token. The paper draws six modes of pruning
them and does not list which regions modes 2 to 5 prune; the reading here is the one its text needs (patches alone,
L0·H4; CLS alone, L0·H9; both crossings, L11·H5; "CLS-related attentions"). Screens and calls name regions, not modes.
Registers and distillation tokens are neither CLS nor patches: they go only with the whole head, which all four regions
together mean.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analyses.vocabulary import REGION_SETS_WITHOUT_CLS, Regions
from precompute.base import Base, logits_from
from precompute.importance import ZDistances, z_distances
from precompute.metrics import jensen_shannon, probabilities
from precompute.model import ViT


@dataclass(frozen=True)
class Pruned:
    """What pruning changed, for each set of regions and each image.

    logits:   (regions, image, class)
    jsd:      (regions, image), Eq. 4; None without a classifier
    distance: by layer with a pruned head, distances of its z from the unpruned model's (regions, image), Eq. 5 and 6
    """

    logits: Tensor
    jsd: Tensor | None
    distance: dict[int, ZDistances]


@torch.inference_mode()
def prune(vit: ViT, base: Base, heads: Collection[tuple[int, int]], regions: Sequence[Regions]) -> Pruned:
    """Switch off `regions` of all `heads` at once; each entry of `regions` is one variant, all run side by side.

    Args:
        heads: As (layer, head).
    Raises:
        ValueError: no heads or no regions given, a head that the model does not have, or regions of CLS in a model
            whose head reads no CLS.
    """
    by_layer = _by_layer(vit, heads)
    pruned = torch.stack([region_mask(vit, r) for r in _checked(vit, regions)]).to(vit.device)  # (regions, query, key)
    reaches = pruned.any(dim=(1, 2))[:, None]
    variants, images = len(regions), base.num_images
    first, last = min(by_layer), vit.num_layers - 1
    resid = base.resid[first].repeat(variants, 1, 1)  # (regions · image, token, channel)
    distance = {}
    for layer in range(first, vit.num_layers):
        if layer not in by_layer:
            resid = vit.block(layer, resid) if layer < last else vit.last_block(resid)
            continue
        chosen = by_layer[layer]
        if layer == first:
            # All variants are still the unpruned model: its z is known, and its attention serves them all.
            z, (q, k, v) = base.z[layer], vit.qkv(layer, base.resid[layer], chosen)
        else:
            q, k, v = vit.qkv(layer, resid)
            z = vit.z(layer, vit.attention(q, k) @ v)
            q, k, v = q[:, chosen], k[:, chosen], v[:, chosen]
        attn = vit.attention(q, k).unflatten(0, (-1, images))  # (1 or regions, image, head, query, key)
        v, off = v.unflatten(0, (-1, images)), pruned[:, None, None]
        if len(chosen) < vit.num_heads:
            z_pruned = z.unflatten(0, (-1, images)) - vit.heads_output(layer, (attn * off) @ v, chosen)
        else:  # what is left may be nothing but the output bias, which a difference would bury in rounding
            left = (attn * ~off) @ v
            z_pruned = vit.z(layer, left.flatten(0, 1)).unflatten(0, (-1, images))
        distance[layer] = _where(reaches, z_distances(vit, base.z[layer], z_pruned))
        rows = vit.read_tokens if layer == last and vit.read_tokens else slice(None)
        resid = vit.after_attention(layer, resid[:, rows], z_pruned.flatten(0, 1)[:, rows])
    logits = logits_from(vit, resid, vit.num_layers).unflatten(0, (variants, images))
    # What changes no row that is read changes nothing, and is not left to rounding: exactly the unpruned logits.
    reached = pruned[:, vit.read_tokens] if first == last and vit.read_tokens else pruned
    logits = torch.where(reached.any(dim=(1, 2))[:, None, None], logits, base.logits)
    jsd = jensen_shannon(probabilities(base.logits), probabilities(logits)) if vit.num_classes else None
    return Pruned(logits, jsd, distance)


def is_defined(regions: Regions, *, has_cls: bool) -> bool:
    """Whether a model has these regions: without a CLS that is read, it has patches→patches and the whole matrix."""
    return has_cls or regions.value in REGION_SETS_WITHOUT_CLS


def region_mask(vit: ViT, regions: Regions) -> Tensor:
    """Where attention is switched off, bool (query, key)."""
    if regions == Regions.ALL:
        return torch.ones(vit.num_tokens, vit.num_tokens, dtype=torch.bool)
    cls = torch.arange(vit.num_tokens) == 0 if vit.has_cls else torch.zeros(vit.num_tokens, dtype=torch.bool)
    patch = torch.arange(vit.num_tokens) >= vit.num_prefix_tokens
    mask = torch.zeros(vit.num_tokens, vit.num_tokens, dtype=torch.bool)
    for region, source, target in (
        (Regions.CLS_CLS, cls, cls),
        (Regions.CLS_PATCHES, cls, patch),
        (Regions.PATCHES_CLS, patch, cls),
        (Regions.PATCHES_PATCHES, patch, patch),
    ):
        if region & regions:
            mask |= source[:, None] & target
    return mask


def _checked(vit: ViT, regions: Sequence[Regions]) -> Sequence[Regions]:
    if not regions:
        raise ValueError("no regions given; give at least one, such as Regions.ALL")
    for wanted in regions:
        if not is_defined(wanted, has_cls=vit.has_cls):
            raise ValueError(
                f"{vit.name} is pooled by {vit.pool} and has no CLS that is read, so {wanted} is undefined; "
                "prune patches→patches or the whole head"
            )
    return regions


def _where(reaches: Tensor, distance: ZDistances) -> ZDistances:
    """The distances, and exactly 0 where nothing is pruned: what the layers before round is no effect."""
    cls = None if distance.cls is None else torch.where(reaches, distance.cls, 0.0)
    return ZDistances(cls, torch.where(reaches, distance.patch, 0.0))


def _by_layer(vit: ViT, heads: Collection[tuple[int, int]]) -> dict[int, list[int]]:
    """Heads of each layer, in order."""
    if not heads:
        raise ValueError("no heads given; give at least one (layer, head)")
    by_layer: dict[int, list[int]] = {}
    for layer, head in sorted(set(heads)):
        if not (0 <= layer < vit.num_layers and 0 <= head < vit.num_heads):
            raise ValueError(
                f"head ({layer}, {head}) is not in {vit.name}, which has layers 0 to {vit.num_layers - 1} "
                f"and heads 0 to {vit.num_heads - 1}"
            )
        by_layer.setdefault(layer, []).append(head)
    return by_layer
