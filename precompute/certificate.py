"""Is the opened model the model? Proved on real images before any number is computed from it.

Three comparisons with timm's own forward pass, none of which uses the code it checks: attention times values against
what each attention module puts out; logits with the attention captured against logits without; a head removed by the
fast path against a forward pass in which a hook sets that head's attention matrix to 0.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from precompute.analysis import exact_float32
from precompute.base import base_pass
from precompute.errors import CertificateError
from precompute.importance import logits_without
from precompute.model import ViT

# Largest error allowed, as a share of the largest value compared. Exact float32 gives 1e-6 to 1e-5 on the models tried;
# a wrong column of W_O, a missing bias or a transposed matrix gives 1e-2 or more.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Certificate:
    """Largest errors, each a share of the largest value compared, over `images` images.

    attention: W_O (attention · values) against the module's output, all layers
    logits:    logits with all attention captured against the model's own (features, without a classifier)
    pruning:   logits without a head, fast path against attention set to 0, one head a layer
    """

    images: int
    attention: float
    logits: float
    pruning: float
    tolerance: float = TOLERANCE

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@torch.inference_mode()
def certify(vit: ViT, pixels: np.ndarray) -> Certificate:
    """Certificate of the model on uint8 pixels (image, y, x, rgb).

    Raises:
        CertificateError: an error is over `TOLERANCE`, or not finite; says which and how large.
    """
    images = torch.from_numpy(pixels)
    with exact_float32():
        modules_z: list[Tensor] = []
        with _hooked([block.attn for block in vit.model.blocks], lambda module, args, out: modules_z.append(out)):
            logits = vit.forward(images)
        base = base_pass(vit, images)
        attention = max(_error(mine, theirs) for mine, theirs in zip(base.z, modules_z, strict=True))
        pruning = []
        for layer in range(vit.num_layers):
            head = layer % vit.num_heads
            removed = vit.head_output(layer, base.context[layer])[:, [head]]
            fast = logits_without(vit, base, layer, removed, chunk=1)[:, 0]
            pruning.append(_error(fast, _logits_with_head_zeroed(vit, images, layer, head)))
    certificate = Certificate(len(pixels), attention, _error(base.logits, logits), max(pruning))
    _refuse_if_wrong(vit, certificate)
    return certificate


def _refuse_if_wrong(vit: ViT, certificate: Certificate) -> None:
    claims = {
        "attention times values reproduces the attention module": certificate.attention,
        "capturing attention leaves the logits as they are": certificate.logits,
        "removing a head equals zeroing its attention": certificate.pruning,
    }
    for claim, error in claims.items():
        if not error <= certificate.tolerance:  # NaN too
            raise CertificateError(
                f"{vit.name} cannot be certified: that {claim} does not hold on {certificate.images} images of this "
                f"set (largest relative error {error:.1e}, allowed {certificate.tolerance:.0e}); nothing was computed. "
                "Weights with NaN or Inf do this, and so do a mean and std of other pixels and a changed forward pass"
            )


def _error(mine: Tensor, theirs: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=torch.finfo(theirs.dtype).tiny))


def _logits_with_head_zeroed(vit: ViT, images: Tensor, layer: int, head: int) -> Tensor:
    """timm's own forward, the softmax matrix of one head multiplied by 0 in a hook."""
    attention = vit.model.blocks[layer].attn

    def zero(module: nn.Module, args: object, attn: Tensor) -> Tensor:
        attn = attn.clone()
        attn[:, head] = 0
        return attn

    fused, attention.fused_attn = attention.fused_attn, False
    try:
        with _hooked([attention.attn_drop], zero):
            return vit.forward(images)
    finally:
        attention.fused_attn = fused


@contextmanager
def _hooked(modules: list[nn.Module], hook: Callable[[nn.Module, object, Tensor], Tensor | None]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
