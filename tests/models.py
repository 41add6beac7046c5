"""Small seeded models, one of each architecture that Headscope takes, and what they see."""

import torch
from timm.layers import RmsNorm
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from precompute.model import ViT

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 7}

ARCHITECTURES = {
    "plain": (VisionTransformer, {}),
    "distilled": (VisionTransformerDistilled, {}),
    "registers_layerscale": (
        VisionTransformer,
        {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.3, "dynamic_img_size": True},
    ),
    "average_pooled": (VisionTransformer, {"class_token": False, "global_pool": "avg", "fc_norm": True}),
    "average_pooled_with_class_token": (VisionTransformer, {"global_pool": "avg"}),
    "rectangular": (VisionTransformer, {"img_size": (24, 40)}),
    "qk_norm": (VisionTransformer, {"qk_norm": True, "pre_norm": True}),
    "rms_norm": (VisionTransformer, {"qk_norm": True, "norm_layer": RmsNorm, "qkv_bias": False}),
    "map_pooled_no_classifier": (
        VisionTransformer,
        {"class_token": False, "global_pool": "map", "num_classes": 0},
    ),
}


def small_vit(architecture: str, dtype: torch.dtype = torch.float64) -> ViT:
    """A seeded model with weights large enough that its attention is far from uniform."""
    build, changes = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    model = build(**(SMALL | changes)).eval().to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "blocks" in name or "head" in name:
                parameter.mul_(6)
    return ViT(model, architecture)


def some_pixels(vit: ViT, images: int = 2, seed: int = 1) -> torch.Tensor:
    """uint8 (image, y, x, rgb)."""
    height, width = vit.input_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (images, height, width, 3), dtype=torch.uint8, generator=generator)
