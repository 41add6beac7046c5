"""Does what is to be written fit the table? Checked before anything is, with an error that says what would fit."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from analyses.arrays import ArraySpec
from store import schema
from store.schema import SCHEMA

Array = npt.NDArray[Any]


def check_sizes(arrays: Iterable[str], sizes: Mapping[str, int], unit_images: int) -> None:
    """Refuse sizes (ValueError) under which an array would have no place, or images no unit."""
    for name in arrays:
        for dim in SCHEMA[name].dims:
            if sizes.get(dim, 0) < 1:
                raise ValueError(f"{name} needs the size of dimension {dim}, 1 or more; sizes has {dict(sizes)}")
    if sizes.get("image", 0) < 1 or unit_images < 1:
        raise ValueError(
            f"a study has 1 image or more and 1 image a unit or more, not {sizes.get('image')} and {unit_images}"
        )


def refuse_others(arrays: Iterable[str], wanted: list[str]) -> None:
    """Refuse (ValueError) an array that this step does not write."""
    if extra := sorted(set(arrays) - set(wanted)):
        raise ValueError(f"{', '.join(extra)}: not written in this step, which writes {', '.join(wanted)}")


def check_arrays(arrays: Mapping[str, Array], wanted: list[str], sizes: Mapping[str, int]) -> None:
    """Refuse (ValueError) arrays that are not those of this step, or not of the shape and type of the table."""
    refuse_others(arrays, wanted)
    if missing := [name for name in wanted if name not in arrays]:
        raise ValueError(f"{', '.join(missing)}: missing; this step writes {', '.join(wanted)}")
    for name, array in arrays.items():
        spec = SCHEMA[name]
        if array.shape != schema.shape(spec, sizes):
            raise ValueError(
                f"{name} has shape {array.shape} instead of {schema.shape(spec, sizes)}, ({', '.join(spec.dims)})"
            )
        if not has_type(array, spec):
            raise ValueError(f"{name} is {array.dtype}, the schema says {spec.dtype}; convert it where it is computed")


def has_type(array: Array, spec: ArraySpec) -> bool:
    """Whether an array has the type that its row says."""
    if spec.dtype == "string":
        return array.dtype.kind in "UTO"
    return array.dtype == np.dtype(spec.dtype)
