"""How is the strongest attention between patches put into 32 numbers? By an autoencoder trained on it."""

from analyses.analysis import Analysis, attention_entries
from analyses.arrays import ArraySpec

ANALYSIS = Analysis(
    name="autoencoder",
    title="Autoencoder",
    function="precompute.autoencoder:train_on_study",
    reads=("patch_mask",),
    counted="batches",
    skipped_by="patterns",
    seconds=lambda sizes: 5e-7 * min(2500 * sizes["token"] ** 2, attention_entries(sizes)),
    arrays={
        "autoencoder": ArraySpec(
            ("parameter",),
            "float32",
            "Parameters of the autoencoder of patch_mask, one after the other.",
            equation="Sec. 5.4.1",
            computed_by="precompute.autoencoder:train",
            chunking="whole",
        ),
    },
)
