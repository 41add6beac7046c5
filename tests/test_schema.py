import json
import math
from pathlib import Path

import numpy as np
import pytest
import zarr

from store import schema
from store.objects import WritingStore
from store.schema import SCHEMA
from store.study import open_published
from tests.studies import write_tiny_study

DOCS = Path(__file__).parent.parent / "docs" / "store.md"

# 100,000 images through ViT-B/16 at 224 pixels.
LARGE = schema.all_sizes(
    {
        "image": 100_000,
        "y": 224,
        "x": 224,
        "thumb_y": 64,
        "thumb_x": 64,
        "class": 1000,
        "metric": 4,
        "vector": 5,
    }
    | {"layer": 12, "head": 12, "token": 197, "channel": 768, "head_channel": 64, "hop": 14, "rank": 5}
    | {"cls_entry": 393, "mask_byte": 4802, "patch": 196, "pattern": 13, "cls_pattern": 3, "latent": 32}
    | {"parameter": 3_000_000}
)


def row(name):
    """The row of docs/store.md for an array."""
    spec = SCHEMA[name]
    fill = json.dumps(spec.fill) if isinstance(spec.fill, str) else spec.fill
    cells = (f"`{name}`", ", ".join(spec.dims), spec.dtype, fill, spec.written, spec.chunking, spec.codec)
    return f"| {' | '.join(map(str, cells))} |"


@pytest.mark.parametrize("name", SCHEMA)
def test_every_array_stands_in_the_docs_as_it_is(name):
    assert row(name) in DOCS.read_text(encoding="utf-8")


def test_the_docs_list_no_array_that_is_not_there():
    after = DOCS.read_text(encoding="utf-8").partition("\n| array |")[2].partition("\n\n")[0]
    assert [line.split("`")[1] for line in after.splitlines() if "`" in line] == list(SCHEMA)


@pytest.mark.parametrize("name", SCHEMA)
def test_chunks_fill_objects_and_objects_cover_the_array_once(name):
    spec, sizes = SCHEMA[name], LARGE | {"image": 21}
    full, chunk = schema.shape(spec, sizes), schema.chunk_shape(spec, sizes)
    whole = schema.object_shape(spec, sizes, unit_images=8)
    assert all(size % part == 0 for size, part in zip(whole, chunk, strict=True))
    boxes = [box for _, box in schema.cells(whole, (0,) * len(full), full)]
    assert sum(math.prod(side.stop - side.start for side in box) for box in boxes) == math.prod(full)


@pytest.mark.parametrize("name", [name for name, spec in SCHEMA.items() if spec.written != "unit"])
def test_a_hundred_thousand_images_stay_hundreds_of_objects_outside_of_units(name):
    spec = SCHEMA[name]
    full, whole = schema.shape(spec, LARGE), schema.object_shape(spec, LARGE, unit_images=8)
    assert math.prod(-(-size // part) for size, part in zip(full, whole, strict=True)) < 1000
    if spec.written == "gathered":
        assert math.prod(schema.chunk_shape(spec, LARGE)) * np.dtype(spec.dtype).itemsize <= 8_000_000


@pytest.mark.parametrize("name", [name for name, spec in SCHEMA.items() if spec.written == "unit"])
def test_a_unit_is_the_only_writer_of_its_objects(name):
    """Units of 8 start where an object starts, whatever the array."""
    assert 8 % schema.object_shape(SCHEMA[name], LARGE, unit_images=8)[0] == 0


@pytest.mark.parametrize("name", SCHEMA)
def test_what_nobody_wrote_reads_as_no_number(name):
    spec = SCHEMA[name]
    fills = {"string": "", "float": None, "int32": -1, "int8": -128, "uint8": 0}
    kind = "float" if spec.dtype.startswith("float") else spec.dtype
    assert math.isnan(spec.fill) if kind == "float" else spec.fill == fills[kind]


def test_arrays_say_what_they_are_and_end_every_chunk_with_a_checksum(tmp_path):
    study = open_published(write_tiny_study(tmp_path / "tiny", qk_norm="layernorm"))
    assert set(study.arrays) == set(SCHEMA)
    for name in study.arrays:
        metadata = json.loads((study.path / name / "zarr.json").read_text())
        assert metadata["attributes"] == SCHEMA[name].attributes
        assert tuple(metadata["dimension_names"]) == SCHEMA[name].dims
        codecs = metadata["codecs"]
        if codecs[0]["name"] == "sharding_indexed":
            assert codecs[0]["configuration"]["index_codecs"][-1]["name"] == "crc32c"
            codecs = codecs[0]["configuration"]["codecs"]
        assert codecs[-1]["name"] == "crc32c"


def test_object_keys_are_those_that_zarr_writes(tmp_path):
    study = open_published(write_tiny_study(tmp_path / "tiny"))
    keys = {"zarr.json"} | {f"{name}/zarr.json" for name in study.arrays}
    for name in study.arrays:
        full = study[name].shape
        whole = schema.object_shape(SCHEMA[name], study.sizes, unit_images=2)
        keys |= {schema.object_key(name, cell) for cell, _ in schema.cells(whole, (0,) * len(full), full)}
    assert keys == set(study.manifest.objects)


def test_sizes_that_follow_from_others_are_filled_in_and_never_overruled():
    assert schema.all_sizes({"layer": 12, "token": 5})["depth"] == 13
    assert schema.all_sizes({"layer": 12, "token": 5, "query": 3})["query"] == 3


def test_every_object_that_zarr_makes_is_handed_over_but_the_metadata_of_the_root():
    made = {}
    store = WritingStore(lambda key, data: (made.setdefault(key, bytes(data)) and len(data), "sha256"))
    zarr.create_array(store, name="x", shape=(2,), chunks=(1,), dtype="int8")[:] = [3, 4]
    assert sorted(made) == ["x/c/0", "x/c/1", "x/zarr.json"]
    assert store.objects == {key: (len(data), "sha256") for key, data in made.items()}
