"""What is computed in the model's pass over a batch of images? All arrays of the analyses that say "pass"."""

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from analyses.analysis import Analysis, resolve
from analyses.registry import ANALYSES, ARRAYS
from analyses.vocabulary import METRICS
from precompute.base import Base, base_pass
from precompute.importance import importance
from precompute.metrics import probabilities
from precompute.model import Layer, ViT
from precompute.preprocess import thumbnail, thumbnail_size

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


def lacks(vit: ViT) -> dict[str, str]:
    """What of `analyses.analysis.Need` the model cannot give, each with the reason."""
    reasons = {}
    if not vit.num_classes:
        reasons["classifier"] = vit.outputs.why
    if not vit.has_cls:
        reasons["cls"] = f"{vit.name} is pooled by {vit.pool}: no CLS token is read"
    return reasons


def left_out(vit: ViT) -> dict[str, str]:
    """Arrays and metrics that the model cannot have, each with the reason."""
    reasons = lacks(vit)
    needs: dict[str, tuple[str, ...]] = {metric: number.needs for metric, number in METRICS.items()}
    for analysis in (each for each in ANALYSES.values() if each.when != "request"):
        needs |= {name: (*analysis.needs, *spec.needs) for name, spec in analysis.arrays.items()}
    missing = {name: [reasons[need] for need in of if need in reasons] for name, of in needs.items()}
    return {name: why[0] for name, why in missing.items() if why}


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


def of_images(
    vit: ViT,
    pixels: np.ndarray,
    label: np.ndarray,
    batch: Batch,
    wanted: Collection[str],
    check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, np.ndarray], Batch]:
    """All arrays of some images, in batches; halves the batch when memory runs out, down to one.

    Args:
        pixels: What the model sees, uint8 (image, y, x, rgb).
        label: True classes, int32 (image,), −1 where unknown.
        wanted: Names of arrays; of these, those of the pass are computed.
        check: Called between batches; it may raise, to stop.
    Returns:
        Arrays by name, with the axes of their rows in `analyses`, and the batch that fitted.
    Raises:
        MemoryError: not even one image and one pruned copy fit.
    """
    parts: list[dict[str, np.ndarray]] = []
    start = 0
    while start < len(pixels):
        check()
        several = slice(start, start + batch.images)
        compute = partial(of_batch, vit, pixels[several], label[several], batch.chunk, wanted)
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
    return {name: np.concatenate([p[name] for p in parts], ARRAYS[name].image_axis or 0) for name in parts[0]}, batch


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


@dataclass(frozen=True)
class ModelPass:
    """The model's pass over a batch, as the analyses see it that say "pass".

    Attributes:
        pixels: What the model saw, uint8 (image, y, x, rgb).
        base: The pass itself, nothing pruned.
        target: The class whose probability is followed, int64 (image,); None without a classifier.
        chunk: How many pruned copies of an image may go through the model at a time.
    """

    vit: ViT
    pixels: np.ndarray
    base: Base
    target: Tensor | None
    chunk: int


def of_batch(
    vit: ViT, pixels: np.ndarray, label: np.ndarray, chunk: int, wanted: Collection[str]
) -> dict[str, np.ndarray]:
    """All arrays of one batch; see `of_images`."""
    possible = [each for each in ANALYSES.values() if each.when == "pass" and not lacks(vit).keys() & set(each.needs)]
    asked = [each for each in possible if set(each.arrays) & set(wanted)]
    by_layer: dict[str, list[Tensor]] = {}

    def see(layer: Layer) -> None:
        """Keep what the analyses want of a layer, before its attention is dropped."""
        for each in asked:
            for name, value in _of_layer(each, vit, layer).items():
                by_layer.setdefault(name, []).append(value.float() if value.dtype == torch.float64 else value)

    with exact_float32():
        base = base_pass(vit, torch.from_numpy(pixels), see)
        given = ModelPass(vit, pixels, base, targets(vit, base, label), chunk)
        tensors = {name: torch.stack(layers, dim=1) for name, layers in by_layer.items()}
        for each in asked:
            if each.function:
                tensors |= resolve(each.function)(given)
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items() if name in wanted}


def _of_layer(analysis: Analysis, vit: ViT, layer: Layer) -> dict[str, Tensor]:
    return resolve(analysis.each_layer)(vit, layer) if analysis.each_layer else {}


def targets(vit: ViT, base: Base, label: np.ndarray) -> Tensor | None:
    """The class whose probability is followed, int64 (image,): the label, or the predicted class without one.

    None without a classifier.
    """
    if not vit.num_classes:
        return None
    given = torch.from_numpy(label).to(base.logits.device).long()
    return torch.where(given >= 0, given, base.logits.argmax(dim=-1))


def pictures(given: ModelPass) -> dict[str, Tensor]:
    """What the model saw, uint8 (image, y, x, rgb), and the same made small."""
    size = thumbnail_size(given.vit)
    small = np.stack([thumbnail(each, size) for each in given.pixels])
    return {"pixels": torch.from_numpy(given.pixels), "thumbnail": torch.from_numpy(small)}


def attention(vit: ViT, layer: Layer) -> dict[str, Tensor]:
    """The whole attention matrices of a layer, float16 (image, head, query, key)."""
    return {"attention": layer.attn.half()}


def residual(given: ModelPass) -> dict[str, Tensor]:
    """The residual stream, float16 (image, depth, token, channel)."""
    return {"residual": torch.stack(given.base.resid, dim=1).half()}


def predictions(given: ModelPass) -> dict[str, Tensor]:
    """What the whole model says: target, int32 (image,); logits and probability, float32 (image, class)."""
    assert given.target is not None
    logits = given.base.logits
    return {"target": given.target.int(), "logits": logits.float(), "probability": probabilities(logits).float()}


def head_importance(given: ModelPass) -> dict[str, Tensor]:
    """Each head pruned alone (Eq. 3 to 6): importance, (metric, image, layer, head), and the pruned predictions."""
    found = importance(given.vit, given.base, given.target, given.chunk)
    arrays = {"importance": torch.stack([getattr(found, metric) for metric in metrics_of(given.vit)]).float()}
    if found.pruned_probability is None or found.top_class is None or found.top_probability is None:
        return arrays
    return arrays | {
        "pruned_probability": found.pruned_probability.float(),
        "pruned_top_class": found.top_class.int(),
        "pruned_top_probability": found.top_probability.float(),
    }


def importance_flops(vit: ViT) -> float:
    """Floating-point operations of one image's importance, of its matrix products; a multiplication and sum are two."""
    tokens, channels = vit.num_tokens, vit.embed_dim
    mlp = 16.0 * tokens * channels**2
    layer = 24.0 * tokens * channels**2 + 4.0 * tokens**2 * channels
    behind = sum(vit.num_layers - 1 - i for i in range(vit.num_layers)) if vit.num_classes else 0
    return vit.num_heads * (behind * layer + vit.num_layers * mlp * bool(vit.num_classes)) + vit.num_layers * layer
