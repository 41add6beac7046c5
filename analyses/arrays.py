"""How is one array declared? By a row: its dimensions, type and meaning, and the function that computes it."""

import math
from dataclasses import dataclass
from typing import Literal

Written = Literal["start", "unit", "gathered", "end"]
Chunking = Literal["whole", "layer", "vector", "image", "depth", "head", "gathered"]
Codec = Literal["zstd", "blosc", "none"]
# What a value that nobody wrote reads as, by type: nothing else means it, but for pictures and masks, which use 0.
FILLS: dict[str, float | int | str] = {"string": "", "int32": -1, "int64": -1, "int8": -128, "uint8": 0}

HEADS = ("image", "layer", "head")


@dataclass(frozen=True)
class ArraySpec:
    """One row of the table of arrays.

    Attributes:
        dims: The array's dimension names in Zarr.
        dtype: NumPy's name of the type, or "string".
        doc: Meaning; stands in the array's attributes.
        unit: Unit and range; in the attributes too.
        equation: Source, where there is one; in the attributes too.
        computed_by: The function that computes it, as "module:function"; in the attributes too.
        needs: What the model must have for it, besides what its analysis needs; see `analyses.analysis.Need`.
        written: By whom and when: "start", known before the images are run; "unit", by the unit of images, which is
            the only writer of its objects; "gathered", put together of the units' parts when all are done; "end",
            computed once all images are, and written whole.
        chunking: Name of the rule in store.schema's `chunk_shape` and `object_shape`.
        codec: "zstd", "blosc" (zstd behind a byte shuffle) or "none"; a crc32c follows each.
        title: What people call it, if it has one number a head, a head of each image, or an image; in the attributes
            too. The page shows what has a title.
    """

    dims: tuple[str, ...]
    dtype: str
    doc: str
    unit: str = ""
    equation: str = ""
    computed_by: str = ""
    needs: tuple[str, ...] = ()
    written: Written = "end"
    chunking: Chunking = "gathered"
    codec: Codec = "zstd"
    title: str = ""

    @property
    def fill(self) -> float | int | str:
        """What a value that nobody wrote reads as; NaN for floats, so that it never looks like a number."""
        return math.nan if self.dtype.startswith("float") else FILLS[self.dtype]

    @property
    def attributes(self) -> dict[str, str]:
        """What the array says of itself in its attributes."""
        names = ("title", "doc", "unit", "equation", "computed_by")
        return {name: text for name in names if (text := getattr(self, name))}

    @property
    def image_axis(self) -> int | None:
        """Which axis the images are on, if any."""
        return self.dims.index("image") if "image" in self.dims else None
