"""Which heads are near without an autoencoder? The plain way, to compare with."""

from analyses.analysis import Analysis
from analyses.arrays import HEADS, ArraySpec

ANALYSIS = Analysis(
    name="pooled-map",
    title="Map of pooled patch attention",
    function="precompute.maps:pooled_map",
    one_more="precompute.maps:place_pooled",
    reads=("patch_mask",),
    counted="%",
    arrays={
        "pooled_layout": ArraySpec(
            (*HEADS, "xy"),
            "float32",
            (
                "The same map without the autoencoder, to compare with: t-SNE of the principal components of "
                "patch_mask, max-pooled."
            ),
            unit="none: only nearness means something",
            equation="Sec. 5.4.1",
            computed_by="precompute.layout:layout",
        ),
    },
)
