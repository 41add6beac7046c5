"""What of a head's attention do the pattern maps compare?"""

from analyses.analysis import Analysis
from analyses.arrays import HEADS, ArraySpec

ANALYSIS = Analysis(
    name="attention-vectors",
    title="Attention in short",
    when="pass",
    each_layer="precompute.patterns:of_layer",
    arrays={
        "cls_vector": ArraySpec(
            (*HEADS, "cls_entry"),
            "float32",
            (
                "A_CLS = [A[CLS, CLS], A[CLS, patches], A[patches, CLS]], 2 · patches + 1 numbers, not "
                "renormalised; other prefix tokens are left out."
            ),
            unit="probability",
            equation="Sec. 5.4.1",
            computed_by="precompute.patterns:cls_vector",
            needs=("cls",),
            written="unit",
            chunking="image",
        ),
        "patch_mask": ArraySpec(
            (*HEADS, "mask_byte"),
            "uint8",
            (
                "The strongest 1 % (rounded up) of the attention between patches, one bit each: numpy.packbits of "
                "the (query, key) matrix, row by row."
            ),
            unit="8 bits",
            equation="Sec. 5.4.1",
            computed_by="precompute.patterns:top_mask",
            written="unit",
            chunking="image",
        ),
    },
)
