"""What does the model see of a picture? timm's own preprocessing for that model, before it is normalised."""

from collections.abc import Callable

import numpy as np
from PIL import Image
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset

from precompute.demo.pictures import CLASSES
from precompute.model import ViT

# Longer side of a thumbnail, in pixels: what a hover card shows.
THUMBNAIL = 96


def seen_by(vit: ViT) -> Callable[[Image.Image], np.ndarray]:
    """The function from an RGB picture to the uint8 pixels (y, x, rgb) that the model sees."""
    config = vit.preprocessing
    wanted = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    transform = create_transform(**{k: config[k] for k in wanted}, is_training=False, normalize=False)
    return lambda picture: np.ascontiguousarray(transform(picture).permute(1, 2, 0).numpy())


def thumbnail_size(vit: ViT) -> tuple[int, int]:
    """Pixels of a thumbnail as (height, width); no larger than what the model sees."""
    height, width = vit.input_size
    scale = min(1.0, THUMBNAIL / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def thumbnail(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`pixels` (y, x, rgb) made small, uint8 (thumb_y, thumb_x, rgb)."""
    height, width = size
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def class_names(vit: ViT) -> tuple[tuple[str, ...], tuple[str, ...] | None] | None:
    """Names of the model's classes, and their WordNet ids where they are ImageNet's; None where nobody knows them."""
    if vit.name == "headscope_demo":
        return tuple(CLASSES), None
    subset = infer_imagenet_subset(vit.model) if vit.num_classes else None
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    if info.num_classes() != vit.num_classes:
        return None
    return tuple(info.label_descriptions(as_dict=False)), tuple(info.label_names())
