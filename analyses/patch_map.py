"""Which heads of which images are near by their attention between patches?"""

from analyses.analysis import Analysis, head_images
from analyses.arrays import HEADS, ArraySpec

ANALYSIS = Analysis(
    name="patch-map",
    title="Map of patch attention",
    function="precompute.maps:patch_map",
    one_more="precompute.maps:place_patch",
    reads=("patch_latent",),
    counted="%",
    skipped_by="patterns",
    seconds=lambda sizes: 3e-3 * head_images(sizes),
    arrays={
        "patch_layout": ArraySpec(
            (*HEADS, "xy"),
            "float32",
            "Map of all heads of all images by patch_mask: t-SNE of patch_latent.",
            unit="none: only nearness means something",
            equation="Sec. 5.4.1",
            computed_by="precompute.maps:patch_map",
        ),
    },
)
