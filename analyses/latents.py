"""What does the autoencoder make of every head of every image?"""

from analyses.analysis import Analysis, attention_entries
from analyses.arrays import HEADS, ArraySpec

ANALYSIS = Analysis(
    name="latents",
    title="Latents",
    function="precompute.autoencoder:of_unit",
    cut=("image",),
    reads=("autoencoder", "patch_mask"),
    skipped_by="patterns",
    seconds=lambda sizes: 6e-9 * attention_entries(sizes),
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
