"""What can be computed? Each computed thing declared once, in a file of its own. Knows neither torch, Dash nor Zarr.

Everything else of Headscope stands on this package, and it stands on none of them.
"""

from analyses.analysis import Analysis, Need, Sizes, resolve
from analyses.arrays import HEADS, ArraySpec
from analyses.request import AnalysisRequest

__all__ = ["HEADS", "Analysis", "AnalysisRequest", "ArraySpec", "Need", "Sizes", "resolve"]
