"""Everything that is computed of a batch of images, by the names that it is stored under."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from analyses.vocabulary import METRICS
from precompute.base import base_pass
from precompute.importance import importance
from precompute.metrics import probabilities
from precompute.model import Layer, ViT
from precompute.patterns import cls_vector, packed, top_mask
from precompute.strength import hop_entropy, hop_strength

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """How much goes through the model at a time: images, and pruned copies of an image."""

    images: int
    chunk: int

    def halved(self) -> "Batch":
        return Batch(max(1, self.images // 2), max(1, self.chunk // 2))


def metrics_of(vit: ViT) -> tuple[str, ...]:
    """The importance metrics that the model has, in order."""
    return tuple(metric for metric in METRICS if metric not in left_out(vit))


def left_out(vit: ViT) -> dict[str, str]:
    """Arrays and metrics that the model cannot have, each with the reason."""
    reasons: dict[str, str] = {}
    if not vit.num_classes:
        names = ("probability", "jsd", "logits", "target", "pruned_probability", "pruned_top_class")
        reasons |= dict.fromkeys((*names, "pruned_top_probability"), vit.outputs.why)
    if not vit.has_cls:
        why = f"{vit.name} is pooled by {vit.pool}: no CLS token is read"
        of_cls = ("cls_distance", "cls_vector", "cls_pattern", "cls_pattern_score", "cls_pattern_name")
        reasons |= dict.fromkeys((*of_cls, "cls_layout", "cls_object_auc"), why)
    return reasons


def batch_for(vit: ViT) -> Batch:
    """The batch that the memory of the model's device holds, the same in every run on one machine.

    It is taken from the memory there is, not from what happens to be free: sums depend on the batch in the last bits,
    and a run that is resumed must give the bits of one that was not. What is free is found out by halving.
    """
    copy_bytes = 16 * vit.num_tokens * vit.embed_dim * vit.dtype.itemsize  # stream, MLP hidden twice, q k v, sums
    image_bytes = vit.num_layers * copy_bytes // 4 + 3 * vit.num_heads * vit.num_tokens**2 * vit.dtype.itemsize
    if vit.device.type == "cuda":
        memory, most_rows, most_images = torch.cuda.get_device_properties(vit.device).total_memory, 1 << 17, 32
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        # 12 copies of 197 tokens, a layer of ViT-B's heads: `python -m benchmarks chunk` compares sizes.
        most_rows, most_images = 2400, 4
    images = _within(memory // 8 // (image_bytes + vit.num_heads * copy_bytes // 4), most_images)
    return Batch(images, _within(memory // 4 // copy_bytes, max(1, most_rows // vit.num_tokens)))


def _within(wanted: int, most: int) -> int:
    return max(1, min(wanted, most))


@contextmanager
def exact_float32() -> Iterator[None]:
    """No TF32 while this is open: importance is a small difference of large numbers."""
    matmul, conv = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, conv


def analysis(
    vit: ViT,
    pixels: np.ndarray,
    label: np.ndarray,
    batch: Batch,
    *,
    keep_attention: bool,
    check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, np.ndarray], Batch]:
    """All arrays of some images, in batches; halves the batch when memory runs out, down to one.

    Args:
        pixels: What the model sees, uint8 (image, y, x, rgb).
        label: True classes, int32 (image,), −1 where unknown.
        keep_attention: Whether the whole matrices are among the arrays.
        check: Called between batches; it may raise, to stop.
    Returns:
        Arrays by name, the image axis first (importance: metric, image, layer, head), and the batch that fitted.
    Raises:
        MemoryError: not even one image and one pruned copy fit.
    """
    parts: list[dict[str, np.ndarray]] = []
    start = 0
    while start < len(pixels):
        check()
        several = slice(start, start + batch.images)
        compute = partial(of_batch, vit, pixels[several], label[several], batch.chunk, keep_attention=keep_attention)
        done = unless_out_of_memory(vit.device, compute)
        if done is not None:
            parts.append(done)
            start += batch.images
        elif batch == batch.halved():
            raise MemoryError(
                f"one image of {vit.name} at {vit.input_size[0]}×{vit.input_size[1]} does not fit in the memory of "
                f"{vit.device}; use a device with more memory or a smaller --image-size"
            )
        else:
            batch = batch.halved()
    axis = {"importance": 1}
    return {name: np.concatenate([p[name] for p in parts], axis.get(name, 0)) for name in parts[0]}, batch


def unless_out_of_memory(device: torch.device, compute: Callable[[], T]) -> T | None:
    """What `compute` gives, or None when memory ran out. The exception and what it holds are gone on return."""
    try:
        return compute()
    except (torch.OutOfMemoryError, MemoryError):
        return None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch's CPU allocator has no exception of its own
            raise
        return None
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def of_batch(
    vit: ViT, pixels: np.ndarray, label: np.ndarray, chunk: int, *, keep_attention: bool
) -> dict[str, np.ndarray]:
    """All arrays of one batch; see `analysis`."""
    layers = _LayerArrays(vit, keep_attention)
    with exact_float32():
        base = base_pass(vit, torch.from_numpy(pixels), layers.see)
        given = torch.from_numpy(label).to(base.logits.device).long()
        # Without a label the probability of the predicted class is followed (`label` tells which it was).
        target = torch.where(given >= 0, given, base.logits.argmax(dim=-1)) if vit.num_classes else None
        found = importance(vit, base, target, chunk)
    arrays = layers.arrays()
    arrays["residual"] = torch.stack(base.resid, dim=1).half()
    arrays["importance"] = torch.stack([getattr(found, metric) for metric in metrics_of(vit)]).float()
    if vit.num_classes:
        of_classes = {
            "target": target,
            "logits": base.logits,
            "probability": probabilities(base.logits),
            "pruned_probability": found.pruned_probability,
            "pruned_top_class": found.top_class,
            "pruned_top_probability": found.top_probability,
        }
        arrays |= {
            name: value.float() if value.is_floating_point() else value.int()
            for name, value in of_classes.items()
            if value is not None
        }
    return {name: tensor.cpu().numpy() for name, tensor in arrays.items()}


class _LayerArrays:
    """What is kept of each layer's attention, in full precision, before the matrix itself is dropped."""

    def __init__(self, vit: ViT, keep_attention: bool) -> None:
        self.vit = vit
        self.keep_attention = keep_attention
        self.by_name: dict[str, list[Tensor]] = {}

    def see(self, layer: Layer) -> None:
        patches = slice(self.vit.num_prefix_tokens, None)
        between_patches = layer.attn[..., patches, patches]
        strength = hop_strength(between_patches, self.vit.grid)
        self._keep("strength", strength)
        self._keep("entropy", hop_entropy(strength))
        self._keep("patch_mask", packed(top_mask(between_patches)))
        if self.vit.has_cls:
            self._keep("cls_vector", cls_vector(layer.attn, self.vit.num_prefix_tokens))
        if self.keep_attention:
            self._keep("attention", layer.attn.half())

    def _keep(self, name: str, value: Tensor) -> None:
        self.by_name.setdefault(name, []).append(value.float() if value.dtype == torch.float64 else value)

    def arrays(self) -> dict[str, Tensor]:
        return {name: torch.stack(layers, dim=1) for name, layers in self.by_name.items()}


def importance_flops(vit: ViT) -> float:
    """Floating-point operations of one image's importance, of its matrix products; a multiplication and sum are two."""
    tokens, channels = vit.num_tokens, vit.embed_dim
    mlp = 16.0 * tokens * channels**2
    layer = 24.0 * tokens * channels**2 + 4.0 * tokens**2 * channels
    behind = sum(vit.num_layers - 1 - i for i in range(vit.num_layers)) if vit.num_classes else 0
    return vit.num_heads * (behind * layer + vit.num_layers * mlp * bool(vit.num_classes)) + vit.num_layers * layer
