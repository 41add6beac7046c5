"""By which weights is attention rebuilt from the residual stream?"""

from analyses.analysis import Analysis
from analyses.arrays import ArraySpec

ANALYSIS = Analysis(
    name="query-key-weights",
    title="Weights of queries and keys",
    when="start",
    arrays={
        "norm1_weight": ArraySpec(
            ("layer", "channel"),
            "float32",
            "Scale of the norm before each attention layer.",
            computed_by="precompute.model:ViT.rebuild_weights",
            written="start",
            chunking="layer",
        ),
        "norm1_bias": ArraySpec(
            ("layer", "channel"),
            "float32",
            "Shift of the norm before each attention layer; 0 where it has none.",
            computed_by="precompute.model:ViT.rebuild_weights",
            written="start",
            chunking="layer",
        ),
        "query_weight": ArraySpec(
            ("layer", "head", "head_channel", "channel"),
            "float32",
            "W_Q of each head: q = W_Q · norm1(x) + b_Q.",
            computed_by="precompute.model:ViT.rebuild_weights",
            written="start",
            chunking="layer",
        ),
        "key_weight": ArraySpec(
            ("layer", "head", "head_channel", "channel"),
            "float32",
            "W_K of each head: k = W_K · norm1(x) + b_K.",
            computed_by="precompute.model:ViT.rebuild_weights",
            written="start",
            chunking="layer",
        ),
        "query_bias": ArraySpec(
            ("layer", "head", "head_channel"),
            "float32",
            "b_Q of each head.",
            computed_by="precompute.model:ViT.rebuild_weights",
            written="start",
            chunking="whole",
        ),
        "key_bias": ArraySpec(
            ("layer", "head", "head_channel"),
            "float32",
            "b_K of each head.",
            computed_by="precompute.model:ViT.rebuild_weights",
            written="start",
            chunking="whole",
        ),
        "query_norm_weight": ArraySpec(
            ("layer", "head_channel"),
            "float32",
            "Scale of the norm on each head's q.",
            computed_by="precompute.model:ViT.rebuild_weights",
            written="start",
            chunking="whole",
        ),
        "query_norm_bias": ArraySpec(
            ("layer", "head_channel"),
            "float32",
            "Shift of the norm on each head's q.",
            computed_by="precompute.model:ViT.rebuild_weights",
            written="start",
            chunking="whole",
        ),
        "key_norm_weight": ArraySpec(
            ("layer", "head_channel"),
            "float32",
            "Scale of the norm on each head's k.",
            computed_by="precompute.model:ViT.rebuild_weights",
            written="start",
            chunking="whole",
        ),
        "key_norm_bias": ArraySpec(
            ("layer", "head_channel"),
            "float32",
            "Shift of the norm on each head's k.",
            computed_by="precompute.model:ViT.rebuild_weights",
            written="start",
            chunking="whole",
        ),
    },
)
