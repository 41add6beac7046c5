"""Where does each head look? The whole attention matrices."""

from analyses.analysis import Analysis
from analyses.arrays import ArraySpec

ANALYSIS = Analysis(
    name="attention",
    title="Attention",
    when="pass",
    each_layer="precompute.analysis:attention",
    arrays={
        "attention": ArraySpec(
            ("image", "layer", "head", "query", "key"),
            "float16",
            (
                "Attention after the softmax, rounded to float16. Prefix tokens are in it; rows sum to 1 up to that"
                " rounding."
            ),
            unit="probability",
            equation="softmax of Eq. 1",
            computed_by="precompute.model:ViT.attention",
            written="unit",
            chunking="head",
            codec="blosc",
        ),
    },
)
