"""What is in the residual stream before and after each block?"""

from analyses.analysis import Analysis
from analyses.arrays import ArraySpec

ANALYSIS = Analysis(
    name="residual",
    title="Residual stream",
    when="pass",
    function="precompute.analysis:residual",
    arrays={
        "residual": ArraySpec(
            ("image", "depth", "token", "channel"),
            "float16",
            (
                "Residual stream: the input of block `depth`; the last depth is the output of the last block, "
                "before the final norm. Prefix tokens first, then patches row by row."
            ),
            computed_by="precompute.base:base_pass",
            written="unit",
            chunking="depth",
            codec="none",
        ),
    },
)
