"""What did the model see?"""

from analyses.analysis import Analysis
from analyses.arrays import ArraySpec

ANALYSIS = Analysis(
    name="pictures",
    title="Pictures",
    when="pass",
    function="precompute.analysis:pictures",
    arrays={
        "pixels": ArraySpec(
            ("image", "y", "x", "rgb"),
            "uint8",
            (
                "What the model saw: the image after resize and crop, before it is normalised; (0, 0) is at the top"
                " left."
            ),
            unit="0 to 255",
            computed_by="precompute.preprocess:seen_by",
            written="unit",
            chunking="image",
        ),
        "thumbnail": ArraySpec(
            ("image", "thumb_y", "thumb_x", "rgb"),
            "uint8",
            "pixels, made small.",
            unit="0 to 255",
            computed_by="precompute.preprocess:thumbnail",
            written="unit",
            chunking="image",
        ),
    },
)
