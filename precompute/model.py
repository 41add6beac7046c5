"""What is inside a timm Vision Transformer? The one module that knows.

`ViT` walks the blocks of a timm `VisionTransformer` one by one and gives the pieces that the rest of `precompute`
computes with: attention matrices, values, per-head contributions, the residual stream, logits. It calls the model's
own modules and adds no hook and sets no flag, so the model is the same afterwards and stays fused wherever
`ViT.block` runs. That the pieces add up to the model itself is proved by `precompute.certificate`, on each model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from timm.data import resolve_model_data_config
from timm.layers import Attention, RmsNorm
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from precompute.errors import UnsupportedModelError
from precompute.outputs import Outputs

SUPPORTED = (
    "Headscope takes timm's VisionTransformer with plain pre-norm blocks (ViT, DeiT, DeiT-3, DINO, DINOv2, CLIP, "
    "SigLIP …); `headscope models` lists the names"
)


@dataclass(frozen=True)
class Layer:
    """What one layer did to a batch, `attn` and all.

    resid:   input of the block, (image, token, channel)
    attn:    softmax attention, (image, head, query, key); rows sum to 1, prefix tokens included
    context: each head's attention times its values, (image, head, token, head_channel)
    z:       output of the attention module, W_O and its bias included, before LayerScale (Eq. 2), (image, token,
             channel)
    """

    index: int
    resid: Tensor
    attn: Tensor
    context: Tensor
    z: Tensor


class ViT:
    """A timm Vision Transformer, opened.

    Args:
        model: In eval mode. It is used, never changed.
        name: What the messages call it.
        outputs: What its head's outputs mean; by default classes of which one is true, if there are any.
        preprocessing: mean, std, interpolation, crop_pct and crop_mode where they are not timm's for this model.
    Raises:
        UnsupportedModelError: its blocks are not plain pre-norm attention and MLP, or it is in training mode.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        outputs: Outputs | None = None,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.model = _checked(model, name)
        self.outputs = outputs or Outputs("classes" if model.num_classes else "other", f"{name} has no classifier")
        self._preprocessing = dict(preprocessing or {})

    @property
    def num_layers(self) -> int:
        return len(self.model.blocks)

    @property
    def num_heads(self) -> int:
        return int(self._attention(0).num_heads)

    @property
    def head_dim(self) -> int:
        return int(self._attention(0).head_dim)

    @property
    def embed_dim(self) -> int:
        return int(self.model.embed_dim)

    @property
    def num_classes(self) -> int:
        """Classes of which one is true of an image; 0 where the outputs are none, and `read_out` gives features."""
        return self.outputs.num_classes(int(self.model.num_classes))

    @property
    def num_prefix_tokens(self) -> int:
        return int(self.model.num_prefix_tokens)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches as (rows, columns)."""
        rows, columns = self.model.patch_embed.grid_size
        return int(rows), int(columns)

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def num_tokens(self) -> int:
        return self.num_prefix_tokens + self.num_patches

    @property
    def patch_size(self) -> tuple[int, int]:
        height, width = self.model.patch_embed.patch_size
        return int(height), int(width)

    @property
    def input_size(self) -> tuple[int, int]:
        """Pixels as (height, width)."""
        height, width = self.model.patch_embed.img_size
        return int(height), int(width)

    @property
    def pool(self) -> str:
        """How the head reads the tokens: token, avg, map …"""
        return str(self.model.global_pool) or "none"

    @property
    def has_cls(self) -> bool:
        """A class token that the head reads. Without one every metric of CLS is left out: row 0 is then a patch, a
        register, or a class token that nobody reads."""
        return bool(self.model.has_class_token) and self.pool == "token"

    @property
    def read_tokens(self) -> list[int] | None:
        """The rows of the last layer that the head reads, or None for all of them."""
        if not self.has_cls:
            return None
        return [0, 1] if isinstance(self.model, VisionTransformerDistilled) else [0]

    @property
    def prefix_tokens(self) -> list[str]:
        """Names of the tokens before the patches, in order."""
        names = ["CLS"] if self.model.has_class_token else []
        if isinstance(self.model, VisionTransformerDistilled):
            names.append("distillation")
        return names + [f"register {i + 1}" for i in range(self.num_prefix_tokens - len(names))]

    @property
    def norm1(self) -> dict[str, object]:
        """Kind and epsilon of the norm before attention, for whoever rebuilds attention without torch."""
        return _norm_kind(self.model.blocks[0].norm1)

    @property
    def qk_norm(self) -> dict[str, object] | None:
        """Kind and epsilon of the norm of queries and keys, or None."""
        norm = self._attention(0).q_norm
        return None if isinstance(norm, nn.Identity) else _norm_kind(norm)

    @cached_property
    def preprocessing(self) -> dict[str, Any]:
        """As timm's data configuration: input_size, interpolation, mean, std, crop_pct, crop_mode."""
        config: dict[str, Any] = resolve_model_data_config(self.model)
        return config | self._preprocessing | {"input_size": (3, *self.input_size)}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def normalised(self, pixels: Tensor) -> Tensor:
        """The model's input from what it sees, uint8 (image, y, x, rgb) → (image, rgb, y, x)."""
        if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != (*self.input_size, 3):
            height, width = self.input_size
            raise ValueError(
                f"pixels are {pixels.dtype} {tuple(pixels.shape)}; "
                f"{self.name} takes uint8 (image, {height}, {width}, 3)"
            )
        mean, std = (
            torch.tensor(self.preprocessing[key], dtype=self.dtype, device=self.device) for key in ("mean", "std")
        )
        return ((pixels.to(self.device, self.dtype) / 255 - mean) / std).permute(0, 3, 1, 2)

    def embed(self, pixels: Tensor) -> Tensor:
        """Input of the first block, (image, token, channel), from uint8 pixels (image, y, x, rgb)."""
        model = self.model
        patches = model.patch_embed(self.normalised(pixels))
        embedded: Tensor = model.norm_pre(model.patch_drop(model._pos_embed(patches)))
        return embedded

    def qkv(self, layer: int, resid: Tensor, heads: Sequence[int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both normed where the model does) and values, each (image, head, token, head_channel).

        Args:
            resid: Input of the block, (image, token, channel).
            heads: Of which heads; all by default.
        """
        attention = self._attention(layer)
        weight, bias = attention.qkv.weight, attention.qkv.bias
        if heads is not None:
            by_head = (3, self.num_heads, self.head_dim)
            weight = weight.unflatten(0, by_head)[:, list(heads)].flatten(0, 2)
            bias = None if bias is None else bias.unflatten(0, by_head)[:, list(heads)].flatten()
        projected = F.linear(self.model.blocks[layer].norm1(resid), weight, bias)
        q, k, v = projected.unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        return attention.q_norm(q), attention.k_norm(k), v

    def attention(self, q: Tensor, k: Tensor) -> Tensor:
        """softmax(q kᵀ / √head_dim), (…, query, key): Vaswani et al. 2017, eq. 1, without the values."""
        return ((q * self.head_dim**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)

    def z(self, layer: int, context: Tensor) -> Tensor:
        """Output of the attention module from all heads' contexts (image, head, token, head_channel) → (image, token,
        channel): Eq. 2, W_O and its bias included."""
        output: Tensor = self._attention(layer).proj(context.transpose(1, 2).flatten(2))
        return output

    def head_output(self, layer: int, context: Tensor) -> Tensor:
        """What each head adds to z: its context (…, head, token, head_channel) times its columns of W_O, without the
        bias, (…, head, token, channel)."""
        return torch.einsum("...htd,chd->...htc", context, self._output_weight(layer))

    def heads_output(self, layer: int, context: Tensor, heads: Sequence[int]) -> Tensor:
        """What `heads` together add to z, from their contexts (…, head, token, head_channel) → (…, token, channel)."""
        return torch.einsum("...htd,chd->...tc", context, self._output_weight(layer)[:, list(heads)])

    def after_attention(self, layer: int, resid: Tensor, z: Tensor) -> Tensor:
        """Output of the block from its input and its z: LayerScale, both residual connections and the MLP."""
        block = self.model.blocks[layer]
        middle = resid + block.ls1(z)
        output: Tensor = middle + block.ls2(block.mlp(block.norm2(middle)))
        return output

    def block(self, layer: int, resid: Tensor) -> Tensor:
        """Output of the block as the model itself computes it, attention fused."""
        output: Tensor = self.model.blocks[layer](resid)
        return output

    def walk(self, resid: Tensor) -> Iterator[Layer]:
        """Every layer in turn, from the embedded images. Keep what is needed of each: nothing else is kept."""
        for index in range(self.num_layers):
            q, k, v = self.qkv(index, resid)
            attn = self.attention(q, k)
            context = attn @ v
            layer = Layer(index, resid, attn, context, self.z(index, context))
            yield layer
            resid = self.after_attention(index, resid, layer.z)

    def last_block(self, resid: Tensor) -> Tensor:
        """Output of the last block for the tokens that the head reads, (image, read token, channel).

        Without them being all tokens, the queries, the output projection and the MLP of the others are left out, and
        so are all keys and values where scores and averages can be taken on the normed stream itself: q·(W_K x + b_K)
        = (q W_K)·x + a constant that the softmax cancels, and A (W_V x + b_V) = (A x) W_V + b_V.
        """
        last = self.num_layers - 1
        if self.read_tokens is None:
            return self.block(last, resid)
        block, attention = self.model.blocks[last], self._attention(last)
        normed = block.norm1(resid)
        read = self.read_tokens
        weight_q, weight_k, weight_v = attention.qkv.weight.chunk(3)
        bias_q, _, bias_v = (None,) * 3 if attention.qkv.bias is None else attention.qkv.bias.chunk(3)
        by_head = (self.num_heads, self.head_dim)
        q = F.linear(normed[:, read], weight_q, bias_q).unflatten(-1, by_head)  # (image, read, head, head_channel)
        if isinstance(attention.q_norm, nn.Identity) and isinstance(attention.k_norm, nn.Identity):
            # einsum, as `@` would copy the normed stream for each head.
            absorbed = torch.einsum("irhd,hdc->irhc", q * self.head_dim**-0.5, weight_k.unflatten(0, by_head))
            scores = torch.einsum("irhc,itc->irht", absorbed, normed)
            averaged = torch.einsum("irht,itc->irhc", scores.softmax(dim=-1), normed)
            context = torch.einsum("irhc,hdc->ihrd", averaged, weight_v.unflatten(0, by_head))
            if bias_v is not None:
                context = context + bias_v.reshape(self.num_heads, 1, self.head_dim)
        else:
            _, k, v = self.qkv(last, resid)
            context = F.scaled_dot_product_attention(attention.q_norm(q.transpose(1, 2)), k, v)
        return self.after_attention(last, resid[:, read], self.z(last, context))

    def read_out(self, resid: Tensor) -> Tensor:
        """Logits (image, class) from the last block's output, all tokens or only those the head reads.

        Where the outputs are no classes: the outputs as they are; without a head, the pooled features.
        """
        return self.outputs.logits(self.model.forward_head(self.model.norm(resid)))

    def forward(self, pixels: Tensor) -> Tensor:
        """What `read_out` gives, by timm's own forward pass from uint8 pixels (image, y, x, rgb)."""
        return self.outputs.logits(self.model(self.normalised(pixels)))

    def rebuild_weights(self) -> dict[str, Tensor]:
        """The weights that rebuild attention out of the residual stream, float32, by the store's array names."""
        blocks = self.model.blocks
        heads, head_dim = self.num_heads, self.head_dim
        by_head = [b.attn.qkv.weight.reshape(3, heads, head_dim, -1) for b in blocks]
        weights = {
            "norm1_weight": torch.stack([b.norm1.weight for b in blocks]),
            "norm1_bias": torch.stack([_bias(b.norm1, b.norm1.weight) for b in blocks]),
            "query_weight": torch.stack([w[0] for w in by_head]),
            "key_weight": torch.stack([w[1] for w in by_head]),
        }
        biases = torch.stack([_bias(b.attn.qkv, b.attn.qkv.weight[:, 0]).reshape(3, heads, head_dim) for b in blocks])
        weights |= {"query_bias": biases[:, 0], "key_bias": biases[:, 1]}
        if self.qk_norm:
            for side, norms in (("query", [b.attn.q_norm for b in blocks]), ("key", [b.attn.k_norm for b in blocks])):
                weights[f"{side}_norm_weight"] = torch.stack([n.weight for n in norms])
                weights[f"{side}_norm_bias"] = torch.stack([_bias(n, n.weight) for n in norms])
        return {name: tensor.detach().float().cpu() for name, tensor in weights.items()}

    def _output_weight(self, layer: int) -> Tensor:
        """W_O by head, (channel, head, head_channel)."""
        weight: Tensor = self._attention(layer).proj.weight.unflatten(1, (self.num_heads, self.head_dim))
        return weight

    def _attention(self, layer: int) -> Attention:
        return self.model.blocks[layer].attn


def _norm_kind(norm: nn.LayerNorm | RmsNorm) -> dict[str, object]:
    return {"kind": "rmsnorm" if isinstance(norm, RmsNorm) else "layernorm", "eps": float(norm.eps)}


def _bias(module: nn.Module, like: Tensor) -> Tensor:
    """The module's bias, or zeros where it has none."""
    bias = getattr(module, "bias", None)
    return torch.zeros_like(like) if bias is None else bias


def _checked(model: nn.Module, name: str) -> VisionTransformer:
    """`model`, once it is known that its heads can be taken apart exactly."""

    def refuse(reason: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{name} {reason}. {SUPPORTED}")

    if not isinstance(model, VisionTransformer):
        raise refuse(f"is a {type(model).__name__}, whose heads do not see all tokens of one plain sequence")
    for block in model.blocks:
        if type(block) is not Block:
            raise refuse(f"has {type(block).__name__} blocks, not plain pre-norm ones")
        if type(block.attn) is not Attention:
            raise refuse(f"has {type(block.attn).__name__} attention")
        if not isinstance(block.attn.norm, nn.Identity) or block.attn.gate is not None:
            raise refuse("normalises or gates the heads together before W_O, so that one head's part cannot be told")
        for norm in (block.norm1, block.attn.q_norm, block.attn.k_norm):
            if not isinstance(norm, nn.LayerNorm | RmsNorm | nn.Identity):
                raise refuse(f"normalises by {type(norm).__name__}, not LayerNorm or RMSNorm")
    if model.training:
        raise refuse("is in training mode; call model.eval() first")
    return model
