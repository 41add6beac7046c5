"""What is each head's attention like, by name, and is it the same on every image?"""

from analyses.analysis import Analysis, attention_entries
from analyses.arrays import HEADS, ArraySpec

ANALYSIS = Analysis(
    name="patterns",
    title="Patterns",
    function="precompute.pattern_names:of_unit",
    cut=("layer", "image"),
    join="precompute.pattern_names:join",
    needs=("attention",),
    reads=("attention", "residual"),
    counted="layers of images",
    skipped_by="patterns",
    seconds=lambda sizes: 6e-8 * attention_entries(sizes),
    arrays={
        "pattern": ArraySpec(
            ("pattern",),
            "string",
            "Names of the patterns of attention between patches, in the order of Fig. 13.",
            computed_by="precompute.pattern_names:join",
            chunking="whole",
        ),
        "cls_pattern": ArraySpec(
            ("cls_pattern",),
            "string",
            "Names of the patterns of attention from and to CLS.",
            computed_by="precompute.pattern_names:join",
            needs=("cls",),
            chunking="whole",
        ),
        "pattern_score": ArraySpec(
            (*HEADS, "pattern"),
            "float32",
            "How much the attention between patches is of each pattern; docs/patterns.md has the formulas.",
            unit="0 to 1",
            equation="Fig. 13",
            computed_by="precompute.pattern_names:patch_scores",
        ),
        "pattern_name": ArraySpec(
            HEADS,
            "int8",
            "The pattern of the highest score, where that is over the threshold; -1 is mixed.",
            unit="index in pattern",
            equation="Fig. 13",
            computed_by="precompute.pattern_names:names",
        ),
        "cls_pattern_score": ArraySpec(
            (*HEADS, "cls_pattern"),
            "float32",
            "How much the attention from and to CLS is of each pattern; docs/patterns.md has the formulas.",
            unit="0 to 1",
            equation="Sec. 6.3.1",
            computed_by="precompute.pattern_names:cls_scores",
            needs=("cls",),
        ),
        "cls_pattern_name": ArraySpec(
            HEADS,
            "int8",
            "The CLS pattern of the highest score, where that is over the threshold; -1 is mixed.",
            unit="index in cls_pattern",
            equation="Sec. 6.3.1",
            computed_by="precompute.pattern_names:names",
            needs=("cls",),
        ),
        "content_relevance": ArraySpec(
            ("layer", "head"),
            "float32",
            "1 - mean correlation, over all pairs of images, of the head's attention between patches.",
            unit="0: the same attention on every image; 1: unrelated between images",
            equation="Sec. 6.3.1",
            computed_by="precompute.content:Agreement.relevance",
            chunking="whole",
            title="Content relevance",
        ),
    },
)
