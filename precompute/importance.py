"""Which heads matter? Each head pruned alone, and what that changes (Eq. 3 to 6), for all heads of a batch.

Pruned means: the head's softmax matrix times 0, nothing renormalised. Its values' bias goes with it (A V = 0), the
output bias stays. So z' = z − A_h V_h W_O^h, exactly; one forward pass gives z' of every head, and only what lies
behind the head is run again. In a model whose head reads CLS alone, the last block is run for CLS alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from analyses.vocabulary import TOP_CLASSES
from precompute.base import Base, logits_from
from precompute.metrics import cosine_distance, jensen_shannon, probabilities
from precompute.model import ViT


@dataclass(frozen=True)
class Importance:
    """Of every head for every image, (image, layer, head); None where the model has no such thing.

    probability:        P[target] − P_pruned[target] (Eq. 3), in [−1, 1]
    jsd:                Jensen-Shannon divergence of P and P_pruned (Eq. 4), bits, in [0, 1]
    cls_distance:       cosine distance of z[CLS] before and after (Eq. 5), in [0, 2]
    patch_distance:     the mean of the same over patches (Eq. 6), in [0, 2]
    pruned_probability: P_pruned[target], what the paper plots
    top_class, top_probability: the five likeliest classes after pruning, (image, layer, head, rank)
    """

    probability: Tensor | None
    jsd: Tensor | None
    cls_distance: Tensor | None
    patch_distance: Tensor
    pruned_probability: Tensor | None
    top_class: Tensor | None
    top_probability: Tensor | None


@torch.inference_mode()
def importance(vit: ViT, base: Base, target: Tensor | None, chunk: int) -> Importance:
    """Leave-one-out importance of all heads.

    Args:
        target: Class whose probability is followed, int64 (image,); None for a model without a classifier.
        chunk: How many pruned copies of an image go through the model at a time: bounds memory, changes no result.
    """
    cls_distances, patch_distances, pruned_logits = [], [], []
    for layer in range(vit.num_layers):
        removed = vit.head_output(layer, base.context[layer])  # (image, head, token, channel)
        z = base.z[layer][:, None]
        distance = z_distances(vit, z, z - removed)
        cls_distances.append(distance.cls)
        patch_distances.append(distance.patch)
        if target is not None:
            pruned_logits.append(logits_without(vit, base, layer, removed, chunk))
    patch = torch.stack(patch_distances, dim=1)
    cls = torch.stack([d for d in cls_distances if d is not None], dim=1) if vit.has_cls else None
    if target is None:
        return Importance(None, None, cls, patch, None, None, None)
    before = probabilities(base.logits)[:, None, None]
    after = probabilities(torch.stack(pruned_logits, dim=1))  # (image, layer, head, class)
    of_target = target[:, None, None, None].to(after.device)
    p_before = before.gather(-1, of_target)[..., 0]
    p_after = after.gather(-1, of_target.expand(*after.shape[:-1], 1))[..., 0]
    top = after.topk(min(TOP_CLASSES, after.shape[-1]), dim=-1)
    jsd = jensen_shannon(before, after)
    return Importance(p_before - p_after, jsd, cls, patch, p_after, top.indices, top.values)


@dataclass(frozen=True)
class ZDistances:
    """Cosine distances of one output of an attention layer from another: CLS (Eq. 5) or None, patches' mean (Eq. 6)."""

    cls: Tensor | None
    patch: Tensor


def z_distances(vit: ViT, z: Tensor, z_pruned: Tensor) -> ZDistances:
    """Distances of z from z_pruned, (…, token, channel) each → (…). Registers and distillation tokens do not count."""
    patches = slice(vit.num_prefix_tokens, None)
    cls = cosine_distance(z[..., 0, :], z_pruned[..., 0, :]) if vit.has_cls else None
    return ZDistances(cls, cosine_distance(z[..., patches, :], z_pruned[..., patches, :]).mean(dim=-1))


def logits_without(vit: ViT, base: Base, layer: int, removed: Tensor, chunk: int) -> Tensor:
    """Logits (image, head, class) with `removed` (image, head, token, channel) taken from the layer's z, one by one."""
    images, heads = removed.shape[:2]
    rows = vit.read_tokens if layer == vit.num_layers - 1 and vit.read_tokens else slice(None)
    resid, z = base.resid[layer][:, rows], base.z[layer][:, rows]
    pruned = removed[:, :, rows].flatten(0, 1)  # (image · head, token, channel)
    logits = []
    for start in range(0, images * heads, chunk):
        variants = torch.arange(start, min(start + chunk, images * heads), device=removed.device)
        image = variants // heads
        output = vit.after_attention(layer, resid[image], z[image] - pruned[variants])
        logits.append(logits_from(vit, output, layer + 1))
    return torch.cat(logits).unflatten(0, (images, heads))
