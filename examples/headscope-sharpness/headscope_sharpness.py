"""How sharp is the attention of each head? The largest attention of each query, averaged over queries."""

import numpy as np

from analyses import HEADS, Analysis, ArraySpec

ANALYSIS = Analysis(
    name="acme:sharpness",
    title="Sharpness",
    function="headscope_sharpness:sharpness",
    cut=("image",),
    needs=("attention",),
    reads=("attention", "residual"),
    arrays={
        "acme:sharpness": ArraySpec(
            HEADS,
            "float32",
            "Largest attention that each token pays to one token, mean over all tokens.",
            unit="1/tokens to 1",
            equation="max over keys of softmax(q k / sqrt(head_dim)), mean over queries",
            computed_by="headscope_sharpness:sharpness",
            title="Sharpness",
        ),
    },
)


def sharpness(unit):
    """Sharpness of every head on the images of a unit, float32 (image, layer, head)."""
    values = [
        [unit.attention(image, layer).amax(dim=-1).mean(dim=-1).numpy() for layer in unit.layers]
        for image in unit.images
    ]
    return {"acme:sharpness": np.array(values, dtype=np.float32)}
