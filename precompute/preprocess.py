"""What does the model see of a picture? timm's own preprocessing for that model, before it is normalised."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from precompute.model import ViT

# Longer side of a thumbnail, in pixels: what a hover card shows.
THUMBNAIL = 96


def seen_by(vit: ViT) -> Callable[[Image.Image], np.ndarray]:
    """The function from an RGB picture to the uint8 pixels (y, x, rgb) that the model sees."""
    transform = _transform(vit)
    return lambda picture: np.ascontiguousarray(transform(picture).permute(1, 2, 0).numpy())


def mask_seen_by(vit: ViT) -> Callable[[Image.Image], np.ndarray]:
    """The function from a picture's mask, as large as the picture, to what the model sees of it, bool (y, x).

    It is resized and cropped as `seen_by` does it to the picture, but each pixel is the nearest of the mask, and a
    border that timm pads with is background. Black is background, all else is object.
    """
    transform = _transform(vit, interpolation="nearest", mean=(0.0, 0.0, 0.0))  # timm pads with the mean
    # RGB, as the padding has three channels.
    return lambda mask: transform(mask.convert("RGB")).any(dim=0).numpy()


def patch_share(mask: np.ndarray, vit: ViT) -> np.ndarray:
    """Share of each patch that the mask covers, float32 (patch,), 0 to 1, from what the model sees, bool (y, x)."""
    (rows, columns), (height, width) = vit.grid, vit.patch_size
    patches = mask[: rows * height, : columns * width]  # what fills no patch is not embedded
    return patches.reshape(rows, height, columns, width).mean(axis=(1, 3), dtype=np.float32).flatten()


def thumbnail_size(vit: ViT) -> tuple[int, int]:
    """Pixels of a thumbnail as (height, width); no larger than what the model sees."""
    height, width = vit.input_size
    scale = min(1.0, THUMBNAIL / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def thumbnail(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`pixels` (y, x, rgb) made small, uint8 (thumb_y, thumb_x, rgb)."""
    height, width = size
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def _transform(vit: ViT, **other: Any) -> Callable[[Image.Image], Tensor]:
    """timm's evaluation transform for the model, to uint8 (rgb, y, x), with some settings other than the model's."""
    wanted = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    config = {k: vit.preprocessing[k] for k in wanted} | other
    transform: Callable[[Image.Image], Tensor] = create_transform(**config, is_training=False, normalize=False)
    return transform
