"""Which images, classes and labels does a study have? Known before anything is computed."""

from analyses.analysis import Analysis
from analyses.arrays import ArraySpec

ANALYSIS = Analysis(
    name="inputs",
    title="Images and labels",
    when="start",
    arrays={
        "image": ArraySpec(
            ("image",),
            "string",
            "Image ids: path below the image folder, with / between folders.",
            computed_by="workers.prepare:known_at_start",
            written="start",
            chunking="whole",
        ),
        "image_sha256": ArraySpec(
            ("image",),
            "string",
            "SHA-256 of each image's file, in hexadecimal.",
            computed_by="workers.decode:scan",
            written="start",
            chunking="whole",
        ),
        "class": ArraySpec(
            ("class",),
            "string",
            "Class names, in the order of the model's output.",
            computed_by="workers.prepare:known_at_start",
            written="start",
            chunking="whole",
        ),
        "metric": ArraySpec(
            ("metric",),
            "string",
            (
                "Importance metrics of this study, of probability (Eq. 3), jsd (Eq. 4), cls_distance (Eq. 5) and "
                "patch_distance (Eq. 6)."
            ),
            computed_by="precompute.analysis:metrics_of",
            written="start",
            chunking="whole",
        ),
        "vector": ArraySpec(
            ("vector",),
            "string",
            "What an image's vector over all heads holds in image_layout: pruned_probability, or a metric.",
            computed_by="workers.prepare:known_at_start",
            written="start",
            chunking="whole",
        ),
        "label": ArraySpec(
            ("image",),
            "int32",
            "True class of each image; -1 where it is not known.",
            unit="class",
            computed_by="workers.prepare:labels_of",
            written="start",
            chunking="whole",
        ),
    },
)
