"""Which model does the demo run? A small ViT, `headscope_demo` to timm once this is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.data.constants import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.models import VisionTransformer, build_model_with_cfg, generate_default_cfgs, register_model

from precompute.demo.pictures import CLASSES, SIZE

# What `python -m precompute.demo.train` wrote; docs/demo.md tells how well it does.
WEIGHTS = Path(__file__).with_name("headscope_demo.safetensors")

# timm looks for this name beside a registered model.
default_cfgs = generate_default_cfgs(
    {
        "headscope_demo": {
            "file": str(WEIGHTS),
            "num_classes": len(CLASSES),
            "label_names": CLASSES,
            "input_size": (3, SIZE, SIZE),
            "fixed_input_size": True,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": IMAGENET_INCEPTION_MEAN,  # 0.5 a channel
            "std": IMAGENET_INCEPTION_STD,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "apache-2.0",
        }
    }
)


@register_model
def headscope_demo(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """6 layers of 4 heads, 8 x 8 patches and a class token; `pretrained` reads WEIGHTS, from disk."""
    shape = {"img_size": SIZE, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4}
    model: VisionTransformer = build_model_with_cfg(
        VisionTransformer, "headscope_demo", pretrained, **{**shape, **kwargs}
    )
    return model
