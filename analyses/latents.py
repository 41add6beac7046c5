"""What does the autoencoder make of every head of every image?"""

from analyses.analysis import Analysis
from analyses.arrays import HEADS, ArraySpec

ANALYSIS = Analysis(
    name="latents",
    title="Latents",
    function="precompute.autoencoder:of_unit",
    cut=("image",),
    reads=("autoencoder", "patch_mask"),
    arrays={
        "patch_latent": ArraySpec(
            (*HEADS, "latent"),
            "float32",
            "What the autoencoder makes of patch_mask.",
            unit="none",
            equation="Sec. 5.4.1",
            computed_by="precompute.autoencoder:encode",
        ),
    },
)
