"""Which heads of which images are near by their attention from and to CLS?"""

from analyses.analysis import Analysis, head_images
from analyses.arrays import HEADS, ArraySpec

ANALYSIS = Analysis(
    name="cls-map",
    title="Map of CLS attention",
    function="precompute.maps:cls_map",
    one_more="precompute.maps:place_cls",
    needs=("cls",),
    reads=("cls_vector",),
    counted="%",
    skipped_by="patterns",
    seconds=lambda sizes: 3e-3 * head_images(sizes),
    arrays={
        "cls_layout": ArraySpec(
            (*HEADS, "xy"),
            "float32",
            "Map of all heads of all images by cls_vector: t-SNE of its first principal components.",
            unit="none: only nearness means something",
            equation="Sec. 5.4.1",
            computed_by="precompute.maps:cls_map",
        ),
    },
)
