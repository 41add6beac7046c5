"""What does the model do to a batch, with nothing pruned? Everything that pruning starts from."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from precompute.model import Layer, ViT


@dataclass(frozen=True)
class Base:
    """A forward pass, kept.

    resid:   input of every block and the output of the last, (depth, image, token, channel)
    context: of every layer, (layer, image, head, token, head_channel)
    z:       of every layer (Eq. 2), (layer, image, token, channel)
    logits:  (image, class), or features where there is no classifier
    """

    resid: list[Tensor]
    context: list[Tensor]
    z: list[Tensor]
    logits: Tensor

    @property
    def num_images(self) -> int:
        return len(self.logits)


@torch.inference_mode()
def base_pass(vit: ViT, pixels: Tensor, see: Callable[[Layer], None] = lambda layer: None) -> Base:
    """One forward pass over uint8 pixels (image, y, x, rgb), attention explicit.

    Args:
        see: Called with each layer; the attention is gone afterwards unless it is kept there.
    """
    resid, context, z = [], [], []
    for layer in vit.walk(vit.embed(pixels)):
        see(layer)
        resid.append(layer.resid)
        context.append(layer.context)
        z.append(layer.z)
    resid.append(vit.after_attention(vit.num_layers - 1, resid[-1], z[-1]))
    return Base(resid, context, z, vit.read_out(resid[-1]))


@torch.inference_mode()
def logits_from(vit: ViT, resid: Tensor, depth: int) -> Tensor:
    """Logits (image, class) when the input of block `depth` is `resid` (image, token, channel).

    `depth` may be `num_layers`: then resid is the last block's output, at least of the tokens that the head reads.
    """
    if depth == vit.num_layers:
        return vit.read_out(resid)
    for layer in range(depth, vit.num_layers - 1):
        resid = vit.block(layer, resid)
    return vit.read_out(vit.last_block(resid))
