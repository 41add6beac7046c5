"""What does the model say of each image, nothing pruned?"""

from analyses.analysis import Analysis
from analyses.arrays import ArraySpec

ANALYSIS = Analysis(
    name="predictions",
    title="Predictions",
    when="pass",
    function="precompute.analysis:predictions",
    needs=("classifier",),
    arrays={
        "target": ArraySpec(
            ("image",),
            "int32",
            "Class that `probability` is read at: the label, or the predicted class without one.",
            unit="class",
            computed_by="precompute.analysis:targets",
            written="gathered",
        ),
        "logits": ArraySpec(
            ("image", "class"),
            "float32",
            "Output of the model, nothing pruned.",
            computed_by="precompute.base:base_pass",
            written="gathered",
        ),
        "probability": ArraySpec(
            ("image", "class"),
            "float32",
            "Softmax of logits; sums to 1.",
            unit="probability",
            computed_by="precompute.metrics:probabilities",
            written="gathered",
        ),
    },
)
