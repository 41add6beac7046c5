"""Does each head's attention follow the object, where a mask shows it?"""

from analyses.analysis import Analysis, attention_entries
from analyses.arrays import HEADS, ArraySpec

ANALYSIS = Analysis(
    name="objects",
    title="Objects",
    function="precompute.content:of_unit",
    cut=("image",),
    join="precompute.content:join",
    needs=("attention", "masks"),
    reads=("attention", "residual"),
    skipped_by="patterns",
    seconds=lambda sizes: 3e-8 * attention_entries(sizes),
    arrays={
        "object": ArraySpec(
            ("image", "patch"),
            "float32",
            "Share of each patch that the image's mask covers; NaN without one.",
            computed_by="workers.masks:object_shares",
        ),
        "object_auc": ArraySpec(
            HEADS,
            "float32",
            (
                "How far the attention between patches follows the object: the chance that a pixel of the mask gets"
                " more of it than one outside. NaN without a mask. A map that never looks at the picture has "
                "masks.centre_auc."
            ),
            unit="0 to 1; 0.5 = it does not tell them apart",
            computed_by="precompute.content:object_auc",
            title="Object AUC",
        ),
        "cls_object_auc": ArraySpec(
            HEADS,
            "float32",
            "The same of the attention that CLS pays to patches.",
            unit="0 to 1; 0.5 = it does not tell them apart",
            computed_by="precompute.content:object_auc",
            needs=("cls",),
            title="CLS object AUC",
        ),
    },
)
