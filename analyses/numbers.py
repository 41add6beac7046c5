"""Which arrays have one number for each head, or for each image, and a title? The page shows them by their rows."""

from collections.abc import Mapping

from analyses.arrays import HEADS, ArraySpec
from analyses.vocabulary import HeadNumber

A_HEAD = HEADS[1:]  # one number a head, of the whole study


def head_numbers(rows: Mapping[str, ArraySpec]) -> dict[str, HeadNumber]:
    """The titled arrays with one number a head, by name, of rows of a table of arrays."""
    return {
        name: HeadNumber(
            name,
            row.title,
            axis=row.title,
            reading=_sentence(row.doc),
            array=name,
            per_image=row.dims == HEADS,
        )
        for name, row in rows.items()
        if _is_number(row) and row.dims in (HEADS, A_HEAD)
    }


def image_numbers(rows: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    """The titled arrays with one number an image, by name."""
    return {name: row for name, row in rows.items() if _is_number(row) and row.dims == ("image",)}


def is_of_a_package(name: str) -> bool:
    """Whether an array, or an analysis, is of another package than Headscope."""
    return ":" in name


def _is_number(row: ArraySpec) -> bool:
    return bool(row.title) and row.dtype.startswith("float")


def _sentence(text: str) -> str:
    return text if not text or text.endswith(".") else f"{text}."
