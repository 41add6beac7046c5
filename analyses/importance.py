"""What changes when one head is pruned?"""

from analyses.analysis import Analysis
from analyses.arrays import HEADS, ArraySpec

ANALYSIS = Analysis(
    name="importance",
    title="Head importance",
    when="pass",
    function="precompute.analysis:head_importance",
    reads=("target", "logits"),
    arrays={
        "importance": ArraySpec(
            ("metric", "image", "layer", "head"),
            "float32",
            (
                "What pruning one head changes, the head pruned being that head's attention matrix set to 0 after "
                "the softmax, nothing renormalised. probability: P[target] - P_pruned[target], -1 to 1. jsd: "
                "Jensen-Shannon divergence of P and P_pruned in bits, 0 to 1, no root taken. cls_distance: cosine "
                "distance of the CLS row of z from that of the pruned z, z being the attention layer's output after"
                " its output projection, 0 to 2. patch_distance: the same of each patch, mean over patches, 0 to 2."
            ),
            unit="see doc, by metric",
            equation="Eq. 3, 4, 5, 6",
            computed_by="precompute.importance:importance",
            written="gathered",
        ),
        "pruned_probability": ArraySpec(
            HEADS,
            "float32",
            (
                "P_pruned[target]: probability of the target class with that head's attention matrix set to 0 after"
                " the softmax, nothing renormalised."
            ),
            unit="probability",
            equation="Eq. 3",
            computed_by="precompute.importance:importance",
            needs=("classifier",),
            written="gathered",
        ),
        "pruned_top_class": ArraySpec(
            (*HEADS, "rank"),
            "int32",
            "The most probable classes with that head pruned, best first.",
            unit="class",
            computed_by="precompute.importance:importance",
            needs=("classifier",),
            written="gathered",
        ),
        "pruned_top_probability": ArraySpec(
            (*HEADS, "rank"),
            "float32",
            "Probabilities of pruned_top_class.",
            unit="probability",
            computed_by="precompute.importance:importance",
            needs=("classifier",),
            written="gathered",
        ),
    },
)
