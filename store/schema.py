"""Which arrays can a study have? One table says it; writer, reader, tests and docs/store.md follow it.

Equations are those of "How Does Attention Work in Vision Transformers? A Visual Analytics Attempt",
TVCG 2023.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

# Goes up when an older reader would misread what a newer writer writes.
VERSION = 1

# Gathered arrays are cut so that a chunk holds about this much: 100,000 images stay some dozens of objects an
# array, and one image costs one chunk of decompression.
GATHERED_CHUNK_BYTES = 8_000_000

Written = Literal["start", "unit", "gathered", "end"]
Chunking = Literal["whole", "layer", "vector", "image", "depth", "head", "gathered"]
Codec = Literal["zstd", "blosc", "none"]


@dataclass(frozen=True)
class ArraySpec:
    """One row of the table.

    Attributes:
        dims: The array's dimension names in Zarr.
        dtype: NumPy's name of the type, or "string".
        fill: What a value that nobody wrote would read as; NaN for floats, so that it never looks like a
            number.
        written: By whom and when: "start", known before the images are run; "unit", by the unit of images,
            which is the only writer of its objects; "gathered", staged by units and put together at the end;
            "end", computed from all images, by a stage that writes its arrays whole.
        chunking: Name of the rule in `chunk_shape` and `object_shape`.
        codec: "zstd", "blosc" (zstd behind a byte shuffle) or "none"; a crc32c follows each.
        doc: Meaning; kept in the array's attributes.
        unit: Unit and range; kept too.
        equation: Source; kept too, where there is one.
    """

    dims: tuple[str, ...]
    dtype: str
    fill: float | int | str
    written: Written
    chunking: Chunking
    codec: Codec
    doc: str
    unit: str = ""
    equation: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """What the array says of itself in its attributes."""
        said = {"doc": self.doc, "unit": self.unit, "equation": self.equation}
        return {name: text for name, text in said.items() if text}

    @property
    def image_axis(self) -> int | None:
        """Which axis the images are on, if any."""
        return self.dims.index("image") if "image" in self.dims else None


NAN = float("nan")
WHOLE_HEAD = "that head's attention matrix set to 0 after the softmax, nothing renormalised"


def _text(dim: str, doc: str) -> ArraySpec:
    return ArraySpec((dim,), "string", "", "start", "whole", "zstd", doc)


def _weight(dims: tuple[str, ...], chunking: Chunking, doc: str) -> ArraySpec:
    return ArraySpec(dims, "float32", NAN, "start", chunking, "zstd", doc)


def _gathered(dims: tuple[str, ...], dtype: str, doc: str, unit: str = "", equation: str = "") -> ArraySpec:
    fill = NAN if dtype.startswith("float") else -1
    return ArraySpec(dims, dtype, fill, "gathered", "gathered", "zstd", doc, unit, equation)


def _end(dims: tuple[str, ...], dtype: str, doc: str, unit: str = "", equation: str = "") -> ArraySpec:
    fill = NAN if dtype.startswith("float") else -128
    return ArraySpec(dims, dtype, fill, "end", "gathered", "zstd", doc, unit, equation)


def _end_text(dim: str, doc: str) -> ArraySpec:
    return ArraySpec((dim,), "string", "", "end", "whole", "zstd", doc)


HEADS = ("image", "layer", "head")

SCHEMA: dict[str, ArraySpec] = {
    "image": _text("image", "Image ids: path below the image folder, with / between folders."),
    "image_sha256": _text("image", "SHA-256 of each image's file, in hexadecimal."),
    "class": _text("class", "Class names, in the order of the model's output."),
    "metric": _text(
        "metric",
        "Importance metrics of this study, of probability (Eq. 3), jsd (Eq. 4), cls_distance (Eq. 5) and "
        "patch_distance (Eq. 6).",
    ),
    "vector": _text(
        "vector",
        "What an image's vector over all heads holds in image_layout: pruned_probability, or a metric.",
    ),
    "label": ArraySpec(
        ("image",),
        "int32",
        -1,
        "start",
        "whole",
        "zstd",
        "True class of each image; -1 where it is not known.",
        "class",
    ),
    "norm1_weight": _weight(("layer", "channel"), "layer", "Scale of the norm before each attention layer."),
    "norm1_bias": _weight(
        ("layer", "channel"), "layer", "Shift of the norm before each attention layer; 0 where it has none."
    ),
    "query_weight": _weight(
        ("layer", "head", "head_channel", "channel"), "layer", "W_Q of each head: q = W_Q · norm1(x) + b_Q."
    ),
    "key_weight": _weight(
        ("layer", "head", "head_channel", "channel"), "layer", "W_K of each head: k = W_K · norm1(x) + b_K."
    ),
    "query_bias": _weight(("layer", "head", "head_channel"), "whole", "b_Q of each head."),
    "key_bias": _weight(("layer", "head", "head_channel"), "whole", "b_K of each head."),
    "query_norm_weight": _weight(("layer", "head_channel"), "whole", "Scale of the norm on each head's q."),
    "query_norm_bias": _weight(("layer", "head_channel"), "whole", "Shift of the norm on each head's q."),
    "key_norm_weight": _weight(("layer", "head_channel"), "whole", "Scale of the norm on each head's k."),
    "key_norm_bias": _weight(("layer", "head_channel"), "whole", "Shift of the norm on each head's k."),
    "pixels": ArraySpec(
        ("image", "y", "x", "rgb"),
        "uint8",
        0,
        "unit",
        "image",
        "zstd",
        "What the model saw: the image after resize and crop, before it is normalised; (0, 0) is at the top left.",
        "0 to 255",
    ),
    "thumbnail": ArraySpec(
        ("image", "thumb_y", "thumb_x", "rgb"),
        "uint8",
        0,
        "unit",
        "image",
        "zstd",
        "pixels, made small.",
        "0 to 255",
    ),
    "residual": ArraySpec(
        ("image", "depth", "token", "channel"),
        "float16",
        NAN,
        "unit",
        "depth",
        "none",
        "Residual stream: the input of block `depth`; the last depth is the output of the last block, "
        "before the final norm. Prefix tokens first, then patches row by row.",
    ),
    "attention": ArraySpec(
        ("image", "layer", "head", "query", "key"),
        "float16",
        NAN,
        "unit",
        "head",
        "blosc",
        "Attention after the softmax, rounded to float16. Prefix tokens are in it; rows sum to 1 up to that rounding.",
        "probability",
        "softmax of Eq. 1",
    ),
    "cls_vector": ArraySpec(
        ("image", "layer", "head", "cls_entry"),
        "float32",
        NAN,
        "unit",
        "image",
        "zstd",
        "A_CLS = [A[CLS, CLS], A[CLS, patches], A[patches, CLS]], 2 · patches + 1 numbers, not "
        "renormalised; other prefix tokens are left out.",
        "probability",
        "Sec. 5.4.1",
    ),
    "patch_mask": ArraySpec(
        ("image", "layer", "head", "mask_byte"),
        "uint8",
        0,
        "unit",
        "image",
        "zstd",
        "The strongest 1 % (rounded up) of the attention between patches, one bit each: numpy.packbits of "
        "the (query, key) matrix, row by row.",
        "8 bits",
        "Sec. 5.4.1",
    ),
    "target": _gathered(
        ("image",),
        "int32",
        "Class that `probability` is read at: the label, or the predicted class without one.",
        "class",
    ),
    "logits": _gathered(("image", "class"), "float32", "Output of the model, nothing pruned."),
    "probability": _gathered(("image", "class"), "float32", "Softmax of logits; sums to 1.", "probability"),
    "importance": _gathered(
        ("metric", *HEADS),
        "float32",
        f"What pruning one head changes, the head pruned being {WHOLE_HEAD}. probability: P[target] - "
        "P_pruned[target], -1 to 1. jsd: Jensen-Shannon divergence of P and P_pruned in bits, 0 to 1, no "
        "root taken. cls_distance: cosine distance of the CLS row of z from that of the pruned z, z being "
        "the attention layer's output after its output projection, 0 to 2. patch_distance: the same of "
        "each patch, mean over patches, 0 to 2.",
        "see doc, by metric",
        "Eq. 3, 4, 5, 6",
    ),
    "pruned_probability": _gathered(
        HEADS,
        "float32",
        f"P_pruned[target]: probability of the target class with {WHOLE_HEAD}.",
        "probability",
        "Eq. 3",
    ),
    "pruned_top_class": _gathered(
        (*HEADS, "rank"), "int32", "The most probable classes with that head pruned, best first.", "class"
    ),
    "pruned_top_probability": _gathered(
        (*HEADS, "rank"), "float32", "Probabilities of pruned_top_class.", "probability"
    ),
    "strength": _gathered(
        (*HEADS, "hop"),
        "float32",
        "Mean attention that patches pay to one patch at each hop: the Chebyshev ring of radius `hop` "
        "around the query, clipped at the border; mean over the ring, then over the patches that have that "
        "ring. Not renormalised after the prefix tokens are dropped.",
        "probability",
        "Eq. 7, 8",
    ),
    "entropy": _gathered(
        HEADS,
        "float32",
        "Entropy of strength scaled to sum 1, divided by ln(hops): 0 is one hop only, 1 is all hops alike.",
        "0 to 1",
        "Sec. 5.3.2",
    ),
    "image_layout": ArraySpec(
        ("vector", "image", "xy"),
        "float32",
        NAN,
        "end",
        "vector",
        "zstd",
        "t-SNE of the images' vectors over all heads; NaN for an image whose vector is not finite.",
        "none: only nearness means something",
        "Sec. 5.1",
    ),
    "pattern": _end_text("pattern", "Names of the patterns of attention between patches, in the order of Fig. 13."),
    "cls_pattern": _end_text("cls_pattern", "Names of the patterns of attention from and to CLS."),
    "pattern_score": _end(
        (*HEADS, "pattern"),
        "float32",
        "How much the attention between patches is of each pattern; docs/patterns.md has the formulas.",
        "0 to 1",
        "Fig. 13",
    ),
    "pattern_name": _end(
        HEADS,
        "int8",
        "The pattern of the highest score, where that is over the threshold; -1 is mixed.",
        "index in pattern",
        "Fig. 13",
    ),
    "cls_pattern_score": _end(
        (*HEADS, "cls_pattern"),
        "float32",
        "How much the attention from and to CLS is of each pattern; docs/patterns.md has the formulas.",
        "0 to 1",
        "Sec. 6.3.1",
    ),
    "cls_pattern_name": _end(
        HEADS,
        "int8",
        "The CLS pattern of the highest score, where that is over the threshold; -1 is mixed.",
        "index in cls_pattern",
        "Sec. 6.3.1",
    ),
    "content_relevance": ArraySpec(
        ("layer", "head"),
        "float32",
        NAN,
        "end",
        "whole",
        "zstd",
        "1 - mean correlation, over all pairs of images, of the head's attention between patches.",
        "0 = the same on every image (content-agnostic), 1 = unrelated between images (content-relevant)",
        "Sec. 6.3.1",
    ),
    "object": _end(("image", "patch"), "float32", "Share of each patch that the image's mask covers; NaN without one."),
    "object_auc": _end(
        HEADS,
        "float32",
        "How far the attention between patches follows the object: the chance that a pixel of the mask gets more of "
        "it than one outside. NaN without a mask. A map that never looks at the picture has masks.centre_auc.",
        "0 to 1; 0.5 = it does not tell them apart",
    ),
    "cls_object_auc": _end(
        HEADS,
        "float32",
        "The same of the attention that CLS pays to patches.",
        "0 to 1; 0.5 = it does not tell them apart",
    ),
    "cls_layout": _end(
        (*HEADS, "xy"),
        "float32",
        "Map of all heads of all images by cls_vector: t-SNE of its first principal components.",
        "none: only nearness means something",
        "Sec. 5.4.1",
    ),
    "autoencoder": ArraySpec(
        ("parameter",),
        "float32",
        NAN,
        "end",
        "whole",
        "zstd",
        "Parameters of the autoencoder of patch_mask, one after the other.",
        "",
        "Sec. 5.4.1",
    ),
    "patch_latent": _end(
        (*HEADS, "latent"), "float32", "What the autoencoder makes of patch_mask.", "none", "Sec. 5.4.1"
    ),
    "patch_layout": _end(
        (*HEADS, "xy"),
        "float32",
        "Map of all heads of all images by patch_mask: t-SNE of patch_latent.",
        "none: only nearness means something",
        "Sec. 5.4.1",
    ),
}


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
