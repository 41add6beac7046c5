"""How far does each head look?"""

from analyses.analysis import Analysis
from analyses.arrays import HEADS, ArraySpec

ANALYSIS = Analysis(
    name="strength",
    title="Attention strength",
    when="pass",
    each_layer="precompute.strength:of_layer",
    arrays={
        "strength": ArraySpec(
            (*HEADS, "hop"),
            "float32",
            (
                "Mean attention that patches pay to one patch at each hop: the Chebyshev ring of radius `hop` "
                "around the query, clipped at the border; mean over the ring, then over the patches that have that "
                "ring. Not renormalised after the prefix tokens are dropped."
            ),
            unit="probability",
            equation="Eq. 7, 8",
            computed_by="precompute.strength:hop_strength",
            written="gathered",
        ),
        "entropy": ArraySpec(
            HEADS,
            "float32",
            "Entropy of strength scaled to sum 1, divided by ln(hops): 0 is one hop only, 1 is all hops alike.",
            unit="0 to 1",
            equation="Sec. 5.3.2",
            computed_by="precompute.strength:hop_entropy",
            written="gathered",
            title="Entropy",
        ),
    },
)
