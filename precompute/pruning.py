"""What if parts of some heads are switched off? Any set of heads, any of the 16 sets of regions, on demand.

A head's attention matrix has four regions (Fig. 4A), by source and target token. The paper draws six modes of pruning
them and does not list which regions modes 2 to 5 prune; the reading here is the one its text needs (patches alone,
L0·H4; CLS alone, L0·H9; both crossings, L11·H5; "CLS-related attentions"). Screens and calls name regions, not modes.
Registers and distillation tokens are neither CLS nor patches: they go only with the whole head, which all four regions
together mean.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analyses.pruning import PruneRequest
from analyses.vocabulary import REGION_SETS_WITHOUT_CLS, TOP_CLASSES, Regions
from precompute.analysis import batch_for, exact_float32, unless_out_of_memory
from precompute.base import Base, logits_from
from precompute.errors import RequestError
from precompute.importance import ZDistances, z_distances
from precompute.metrics import jensen_shannon, probabilities
from precompute.model import ViT
from precompute.unit import Arrays, Attrs, Unit


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


# --- what a person asks for: some images of a study, all sets of regions ---

# Arrays of one number for each set of regions and image, by the study's metric that a whole head's number is read of.
OF_CLASS = {"probability": "probability_drop", "jsd": "jsd"}
DISTANCES = ("cls_distance", "patch_distance")


def of_unit(unit: Unit) -> tuple[Arrays, Attrs]:
    """What a pruning changes on the images of `unit`, whose request is a PruneRequest.

    What the study knows is read from it: the model with nothing pruned, and a single head pruned whole, so that a page
    never shows two numbers for one thing. The rest is computed from the pixels that the model saw, by the very model
    that made the study.

    Returns:
        Arrays as `analyses.pruning` declares them, those that the model allows; NaN and -1 where it lacks the regions.
        Attributes: `undefined`, why a set of regions has no number; `left_out`, why an array is not there.
    Raises:
        RequestError: The model has no such head.
        MemoryError: Not even one image and one set of regions fit.
    """
    request: PruneRequest = unit.request
    _refuse_heads(unit, request.heads)
    effects = _Effects(unit, request)
    to_compute = []
    for row, regions in enumerate(map(Regions, request.regions)):
        if not is_defined(regions, has_cls=unit.has_cls):
            continue
        if not regions:
            effects.read_unpruned(row)
        elif regions == Regions.ALL and len(request.heads) == 1:
            effects.read_whole_head(row, *request.heads[0])
        else:
            to_compute.append(row)
    if to_compute:
        _compute(unit, effects, to_compute)
    unit.progress(len(unit.images), len(unit.images))
    return effects.arrays(), effects.attributes()


def likeliest(probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The TOP_CLASSES most probable classes and their probabilities, (…, rank), of probabilities (…, class)."""
    order = np.argsort(-probability, axis=-1, kind="stable")[..., :TOP_CLASSES]
    return order, np.take_along_axis(probability, order, -1)


class _Effects:
    """What is known so far of some images: arrays (regions, image, …), NaN until it is known."""

    def __init__(self, unit: Unit, request: PruneRequest) -> None:
        self.study, self.images, self.request = unit.study, list(unit.images), request
        self.has_cls = unit.has_cls
        self.layers = sorted({layer for layer, _ in request.heads})
        self.target = self.study.read("target", self.images).astype(np.int64) if "target" in self.study else None
        shape = (len(request.regions), len(self.images))
        self.distance = {
            name: np.full((shape[0], len(self.layers), shape[1]), np.nan)
            for name in DISTANCES
            if name in self.study.metrics
        }
        self.of_class: Arrays = {}
        if self.target is not None:
            self.of_class = {name: np.full(shape, np.nan) for name in (*OF_CLASS.values(), "pruned_probability")}
            ranks = min(TOP_CLASSES, self.study.sizes["class"])
            self.of_class["top_class"] = np.full((*shape, ranks), -1, np.int32)
            self.of_class["top_probability"] = np.full((*shape, ranks), np.nan)

    @cached_property
    def before(self) -> np.ndarray:
        """Probabilities with nothing pruned, (image, class)."""
        return self.study.read("probability", self.images)

    def read_unpruned(self, row: int) -> None:
        """Nothing is switched off: the study's own predictions, and no effect."""
        for values in self.distance.values():
            values[row] = 0
        if self.target is not None:
            self.of_class["probability_drop"][row] = self.of_class["jsd"][row] = 0
            self.of_class["pruned_probability"][row] = np.take_along_axis(self.before, self.target[:, None], 1)[:, 0]
            self._keep_top(row, self.before)

    def read_whole_head(self, row: int, layer: int, head: int) -> None:
        """One head is switched off whole: that is its importance, which the study has."""
        of_head = (self.images, layer, head)
        known = self.study.read("importance", slice(None), *of_head)
        for metric, values in zip(self.study.metrics, known, strict=True):
            if metric in self.distance:
                self.distance[metric][row, self.layers.index(layer)] = values
            else:
                self.of_class[OF_CLASS[metric]][row] = values
        if self.target is not None:
            self.of_class["pruned_probability"][row] = self.study.read("pruned_probability", *of_head)
            self.of_class["top_class"][row] = self.study.read("pruned_top_class", *of_head)
            self.of_class["top_probability"][row] = self.study.read("pruned_top_probability", *of_head)

    def take(self, rows: Sequence[int], images: slice, pruned: Pruned, base: Base) -> None:
        """What was computed for these sets of regions on these images."""
        at = (np.array(rows)[:, None], np.arange(len(self.images))[images])
        for layer, distance in pruned.distance.items():
            place = (at[0], self.layers.index(layer), at[1])
            self.distance["patch_distance"][place] = distance.patch.cpu()
            if distance.cls is not None:
                self.distance["cls_distance"][place] = distance.cls.cpu()
        if self.target is None or pruned.jsd is None:
            return
        target = torch.from_numpy(self.target[images]).to(base.logits.device)[:, None]
        before, after = probabilities(base.logits), probabilities(pruned.logits)
        p_after = after.gather(-1, target.expand(len(rows), -1, 1))[..., 0]
        self.of_class["probability_drop"][at] = (before.gather(-1, target)[:, 0] - p_after).cpu()
        self.of_class["pruned_probability"][at] = p_after.cpu()
        self.of_class["jsd"][at] = pruned.jsd.cpu()
        self._keep_top(at, after.cpu().numpy())

    def _keep_top(self, at: Any, probability: np.ndarray) -> None:
        self.of_class["top_class"][at], self.of_class["top_probability"][at] = likeliest(probability)

    def arrays(self) -> Arrays:
        """All of them, by name."""
        return {
            "image": self.study.read("image", self.images),
            "region_set": np.array(self.request.regions, np.int32),
            "layer": np.array(self.layers, np.int32),
            **self.of_class,
            **self.distance,
        }

    def attributes(self) -> Attrs:
        """Why there is no number where there is none."""
        reasons = self.study.attrs["left_out"]
        undefined = [bits for bits in self.request.regions if not is_defined(Regions(bits), has_cls=self.has_cls)]
        metrics = OF_CLASS | {name: name for name in ("pruned_probability", *DISTANCES)}
        return {
            "undefined": {str(bits): reasons["cls_distance"] for bits in undefined},
            "left_out": {array: reasons[metric] for metric, array in metrics.items() if metric in reasons},
        }


def _compute(unit: Unit, effects: _Effects, rows: Sequence[int]) -> None:
    """Take into `effects` what the model gives for the sets of regions of `rows`, batch by batch.

    The batch is halved when memory runs out, down to one image and one set of regions.
    """
    vit = unit.open_model()
    batch, start = batch_for(vit), 0
    while start < len(unit.images):
        several = max(1, min(batch.images, batch.chunk // len(rows)))
        images = slice(start, start + several)
        unit.check()
        compute = partial(_compute_batch, vit, unit, effects, rows, images, batch.chunk // several or 1)
        if unless_out_of_memory(vit.device, compute):
            start += several
            unit.progress(min(start, len(unit.images)), len(unit.images))
        elif batch == batch.halved():
            raise MemoryError(
                f"one image of {vit.name} does not fit in the memory of {vit.device} with parts of it pruned; use a "
                "device with more memory"
            )
        else:
            unit.release_memory()
            batch = batch.halved()


def _compute_batch(vit: ViT, unit: Unit, effects: _Effects, rows: Sequence[int], images: slice, variants: int) -> bool:
    """Take into `effects` what the model gives for some images; True, once it has."""
    with exact_float32():
        base = unit.base(unit.images[images])
        for first in range(0, len(rows), variants):
            unit.check()
            several = rows[first : first + variants]
            regions = [Regions(effects.request.regions[row]) for row in several]
            effects.take(several, images, prune(vit, base, effects.request.heads, regions), base)
    return True


def _refuse_heads(unit: Unit, heads: Sequence[tuple[int, int]]) -> None:
    layers, in_layer = unit.study.sizes["layer"], unit.heads
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < in_layer):
            raise RequestError(
                f"head ({layer}, {head}) is not in {unit.study.attrs['model']['name']}, which has layers 0 to "
                f"{layers - 1} and heads 0 to {in_layer - 1}",
                "heads",
            )
