"""How is each array written? Its shape, chunks, objects and codecs, from its row in `analyses`.

Writer, reader, tests and docs/store.md follow these rows.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.types import AnyArray

from analyses.arrays import ArraySpec
from analyses.registry import ARRAYS

# Goes up when an older reader would misread what a newer writer writes.
VERSION = 1

# Gathered arrays are cut so that a chunk holds about this much: 100,000 images stay some dozens of objects an
# array, and one image costs one chunk of decompression.
GATHERED_CHUNK_BYTES = 8_000_000


# Every array that a study can have, in the order of docs/store.md.
SCHEMA = ARRAYS


def in_order(names: Iterable[str]) -> list[str]:
    """Names of arrays in the order of the table; then, sorted, those that it does not have."""
    there = set(names)
    return [*(name for name in SCHEMA if name in there), *sorted(there - SCHEMA.keys())]


def all_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """`sizes` of dimensions, with those filled in that follow from others: rgb, xy, depth, query and key."""
    derived = {"rgb": 3, "xy": 2}
    if "layer" in sizes:
        derived["depth"] = sizes["layer"] + 1
    if "token" in sizes:
        derived |= {"query": sizes["token"], "key": sizes["token"]}
    return derived | dict(sizes)


def shape(spec: ArraySpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The array's shape."""
    return tuple(sizes[dim] for dim in spec.dims)


def chunk_shape(spec: ArraySpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """What is compressed, checked and read as one."""
    full = shape(spec, sizes)
    match spec.chunking:
        case "whole":
            return full
        case "layer" | "vector" | "image":
            return (1, *full[1:])
        case "depth":
            return (1, 1, *full[2:])
        case "head":
            return (1, 1, 1, *full[3:])
        case "gathered":
            lead = spec.image_axis or 0
            a_row = math.prod(full[lead + 1 :]) * np.dtype(spec.dtype).itemsize
            images = max(1, min(full[lead], GATHERED_CHUNK_BYTES // a_row))
            return (*(1,) * lead, images, *full[lead + 1 :])


def object_shape(spec: ArraySpec, sizes: Mapping[str, int], unit_images: int) -> tuple[int, ...]:
    """What is one object on disk, written in one go: a shard, or a chunk where the array has no shards."""
    full = shape(spec, sizes)
    match spec.chunking:
        case "image":
            return (min(unit_images, full[0]), *full[1:])
        case "depth" | "head":
            return (1, *full[1:])
    return chunk_shape(spec, sizes)


def codecs(spec: ArraySpec) -> list[BytesBytesCodec]:
    """Compression of each chunk, its checksum last: damage is then seen before anything is decompressed."""
    match spec.codec:
        case "zstd":
            return [ZstdCodec(), Crc32cCodec()]
        case "blosc":
            # Bit shuffle would do nothing to chunks whose element count is not a multiple of 8, as 197².
            return [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec()]
        case "none":
            return [Crc32cCodec()]


def creation(spec: ArraySpec, sizes: Mapping[str, int], unit_images: int) -> dict[str, Any]:
    """Arguments of zarr.create_array for the array, but its store and name."""
    chunks, whole = chunk_shape(spec, sizes), object_shape(spec, sizes, unit_images)
    return {
        "shape": shape(spec, sizes),
        "dtype": spec.dtype,
        "chunks": chunks,
        "shards": None if chunks == whole else whole,
        "compressors": codecs(spec),
        "fill_value": spec.fill,
        "attributes": spec.attributes,
        "dimension_names": spec.dims,
        # One folder an array: with "/" every image would add three folders to be flushed.
        "chunk_key_encoding": {"name": "default", "separator": "."},
        "config": {"write_empty_chunks": True},  # so that an object which is not there is always damage
    }


def row_of(array: AnyArray) -> ArraySpec:
    """The row of an array that the table lacks, from its own metadata; a dimension without a name has a number."""
    names = getattr(array.metadata, "dimension_names", None) or [None] * array.ndim
    doc, unit, equation, computed_by, title = (
        str(array.attrs.get(name, "")) for name in ("doc", "unit", "equation", "computed_by", "title")
    )
    dims = tuple(name or f"dim_{axis}" for axis, name in enumerate(names))
    return ArraySpec(dims, str(array.dtype), doc, unit, equation, computed_by, title=title)


def object_key(name: str, cell: tuple[int, ...]) -> str:
    """The name, in the attempt's folder, of the object at `cell` of the array's grid of objects."""
    return f"{name}/c.{'.'.join(map(str, cell))}"


def cells(
    whole: tuple[int, ...], start: tuple[int, ...], stop: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Each object of shape `whole` in the box from `start` to `stop`: its cell, and its part of the box."""
    ranges = [range(a // size, -(-b // size)) for a, b, size in zip(start, stop, whole, strict=True)]
    for cell in itertools.product(*ranges):
        yield (
            cell,
            tuple(
                slice(max(a, c * size), min(b, (c + 1) * size))
                for c, a, b, size in zip(cell, start, stop, whole, strict=True)
            ),
        )
