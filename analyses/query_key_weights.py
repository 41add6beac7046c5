"""By which weights is attention rebuilt from the residual stream?"""

from analyses.analysis import Analysis
from analyses.arrays import ArraySpec, Chunking


def _weight(dims: tuple[str, ...], doc: str, chunking: Chunking = "whole") -> ArraySpec:
    by = "precompute.model:ViT.rebuild_weights"
    return ArraySpec(dims, "float32", doc, computed_by=by, written="start", chunking=chunking)


ANALYSIS = Analysis(
    name="query-key-weights",
    title="Weights of queries and keys",
    when="start",
    arrays={
        "norm1_weight": _weight(("layer", "channel"), "Scale of the norm before each attention layer.", "layer"),
        "norm1_bias": _weight(
            ("layer", "channel"), "Shift of the norm before each attention layer; 0 where it has none.", "layer"
        ),
        "query_weight": _weight(
            ("layer", "head", "head_channel", "channel"), "W_Q of each head: q = W_Q · norm1(x) + b_Q.", "layer"
        ),
        "key_weight": _weight(
            ("layer", "head", "head_channel", "channel"), "W_K of each head: k = W_K · norm1(x) + b_K.", "layer"
        ),
        "query_bias": _weight(("layer", "head", "head_channel"), "b_Q of each head."),
        "key_bias": _weight(("layer", "head", "head_channel"), "b_K of each head."),
        "query_norm_weight": _weight(("layer", "head_channel"), "Scale of the norm on each head's q."),
        "query_norm_bias": _weight(("layer", "head_channel"), "Shift of the norm on each head's q."),
        "key_norm_weight": _weight(("layer", "head_channel"), "Scale of the norm on each head's k."),
        "key_norm_bias": _weight(("layer", "head_channel"), "Shift of the norm on each head's k."),
    },
)
