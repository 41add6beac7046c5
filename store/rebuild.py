"""What did a head attend to? Its attention, computed again from the residual stream and a few weights."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Norm:
    """Kind and epsilon of a norm, as the study's attributes have them."""

    kind: Literal["layernorm", "rmsnorm"]
    eps: float


@dataclass(frozen=True)
class HeadNorm:
    """The norm that some models put on each head's q and k, over head_channel; weights (head_channel,)."""

    norm: Norm
    query_weight: Float
    query_bias: Float
    key_weight: Float
    key_bias: Float


@dataclass(frozen=True)
class LayerWeights:
    """What one layer's attention needs, with the scale and shift of norm1 folded into the projections.

    Attributes:
        query_key: W_Q above W_K of each head, (head, 2 · head_channel, channel).
        bias: Theirs, (head, 2 · head_channel).
        norm1: The norm before attention.
        head_norm: None where the model has none.
    """

    query_key: Float
    bias: Float
    norm1: Norm
    head_norm: HeadNorm | None

    @classmethod
    def fold(
        cls,
        norm_weight: Array,
        norm_bias: Array,
        query_weight: Array,
        key_weight: Array,
        query_bias: Array,
        key_bias: Array,
        norm1: Norm,
        head_norm: HeadNorm | None = None,
    ) -> Self:
        """From one layer of the arrays of these names: W · (g ⊙ n + b) = (W ⊙ g) · n + W · b, in float64."""
        weight = np.concatenate([query_weight, key_weight], axis=1).astype(np.float64)
        bias = np.concatenate([query_bias, key_bias], axis=1).astype(np.float64)
        return cls(
            (weight * norm_weight).astype(np.float32),
            (bias + weight @ norm_bias.astype(np.float64)).astype(np.float32),
            norm1,
            head_norm,
        )

    @property
    def nbytes(self) -> int:
        return self.query_key.nbytes + self.bias.nbytes


def attention(resid: Array, weights: LayerWeights, head: int) -> Float:
    """Attention of `head`, (query, key): softmax(q kᵀ / √head_dim). Rows sum to 1, prefix tokens included.

    Args:
        resid: The layer's input, (token, channel).
        weights: The layer's.
        head: Which head.
    """
    both = normalised(resid, weights.norm1) @ weights.query_key[head].T
    both += weights.bias[head]
    head_dim = both.shape[1] // 2
    q, k = both[:, :head_dim], both[:, head_dim:]
    per_head = weights.head_norm
    if per_head is not None:
        q = normalised(q, per_head.norm) * per_head.query_weight + per_head.query_bias
        k = normalised(k, per_head.norm) * per_head.key_weight + per_head.key_bias
    return softmax((q * np.float32(head_dim**-0.5)) @ k.T)


def normalised(values: Array, norm: Norm) -> Float:
    """LayerNorm or RMSNorm over the last axis, without scale and shift, in float32."""
    scaled = values.astype(np.float32)
    if norm.kind == "layernorm":
        scaled -= scaled.mean(axis=-1, keepdims=True)
    mean_square = np.einsum("...c,...c->...", scaled, scaled) / scaled.shape[-1]
    scaled *= (1 / np.sqrt(mean_square + np.float32(norm.eps)))[..., None]
    return scaled


def softmax(scores: Float) -> Float:
    """Softmax over the last axis, in the memory of `scores`."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores
