"""Which images are near by what pruning each head does to them?"""

from analyses.analysis import Analysis
from analyses.arrays import ArraySpec

ANALYSIS = Analysis(
    name="layouts",
    title="Image layouts",
    function="precompute.maps:image_layouts",
    one_more="precompute.maps:place_image",
    reads=("importance", "pruned_probability"),
    counted="layouts",
    seconds=lambda sizes: 1e-2 * sizes["image"],
    arrays={
        "image_layout": ArraySpec(
            ("vector", "image", "xy"),
            "float32",
            "t-SNE of the images' vectors over all heads; NaN for an image whose vector is not finite.",
            unit="none: only nearness means something",
            equation="Sec. 5.1",
            computed_by="precompute.maps:image_layouts",
            chunking="vector",
        ),
    },
)
