"""A study with arrays that this version's table does not name opens, verifies, is added to and appended to."""

from contextlib import contextmanager

import numpy as np
import pytest
import xarray as xr

from store.append import Appended
from store.attempt import Attempt
from store.manifest import verify
from store.schema import SCHEMA, ArraySpec
from store.study import open_published
from tests.studies import RUN, tiny_study
from tests.test_store_attempt import begin, write_units

pytestmark = pytest.mark.usefixtures("no_flush")

NAN = float("nan")
OTHERS = {
    "axes": ArraySpec(("axis", "channel"), "float32", NAN, "end", "whole", "zstd", "Seven axes."),
    "pooled_layout": ArraySpec(("image", "layer", "head", "xy"), "float32", NAN, "end", "gathered", "zstd", "A map."),
}
LATER = {"content_relevance": np.full((2, 2), 0.25, np.float32)}


@contextmanager
def other_version():
    """The table as another version has it, with arrays of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, spec in OTHERS.items():
            patch.setitem(SCHEMA, name, spec)
        yield


@pytest.fixture(scope="module")
def tiny():
    return tiny_study(maps=False)


@pytest.fixture(scope="module")
def arrays(tiny):
    rng = np.random.default_rng(3)
    shapes = {"axes": (7, tiny.sizes["channel"]), "pooled_layout": (5, 2, 2, 2)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def begun(tmp_path, tiny, arrays):
    """The other version was stopped right before it published."""
    with other_version(), begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny)
        attempt.gather()
        attempt.write_stage("image-layout", tiny.written("end"), {})
        attempt.write_stage("others", arrays, {})
    return tmp_path / "a"


@pytest.fixture
def published(begun, tiny):
    with other_version(), Attempt.unfinished(begun, tiny.plan) as attempt:
        attempt.publish(tiny.late_attrs, RUN)
    return begun


def assert_reads(study, arrays):
    for name, array in arrays.items():
        np.testing.assert_array_equal(study.read(name), array)
    assert verify(study.path.parent) == []


def test_it_opens_with_all_its_arrays_and_the_sizes_that_they_name(published, tiny, arrays):
    study = open_published(published)
    assert study.arrays == [*tiny.arrays, "axes", "pooled_layout"]
    assert study.sizes["axis"] == 7
    assert study.dims("pooled_layout") == ("image", "layer", "head", "xy")
    assert_reads(study, arrays)
    assert xr.open_zarr(study).pooled_layout.dims == ("image", "layer", "head", "xy")
    with pytest.raises(IndexError, match="image 5 is not in study a, which has images 0 to 4"):
        study.read("pooled_layout", 5)


def test_it_is_added_to_and_keeps_them(published, tiny, arrays):
    with Attempt.extend(published, tiny.plan) as attempt:
        assert attempt.arrays[-2:] == ["axes", "pooled_layout"]
        assert attempt.so_far().arrays == attempt.arrays
        attempt.write_stage("relevance", LATER, {})
        attempt.publish(tiny.late_attrs, RUN)
    study = open_published(published)
    assert study.manifest.attempt == "attempt-2"
    assert_reads(study, arrays | LATER)
    assert set(xr.open_zarr(study)) >= {"axes", "pooled_layout", "content_relevance"}


def test_an_attempt_at_adding_to_it_is_resumed(published, tiny, arrays):
    Attempt.extend(published, tiny.plan).close()
    with Attempt.unfinished(published, tiny.plan) as attempt:
        attempt.write_stage("relevance", LATER, {})
        attempt.publish(tiny.late_attrs, RUN)
    assert_reads(open_published(published), arrays | LATER)


def test_what_the_other_version_did_not_publish_is_published_with_them(begun, tiny, arrays):
    with Attempt.join(begun, tiny.plan, 1) as attempt:
        attempt.publish(tiny.late_attrs, RUN)
    assert_reads(open_published(begun), arrays)


def test_an_image_more_leaves_out_those_of_images_and_keeps_the_others(published, tiny, arrays, tmp_path):
    parent = open_published(published)
    made = Appended(parent, tmp_path / "staging")
    of_images = [name for name in tiny.arrays if SCHEMA[name].image_axis is not None]
    first = {name: parent.read(name).take([0], SCHEMA[name].image_axis) for name in of_images}
    with pytest.raises(ValueError, match="pooled_layout is no array of images of study a"):
        made.write({"pooled_layout": arrays["pooled_layout"][:1]})
    made.write(first)
    assert made.so_far(parent.attrs).sizes["image"] == 6
    made.publish(tmp_path / "b", parent.attrs, RUN)
    study = open_published(tmp_path / "b")
    assert "pooled_layout" not in study
    assert_reads(study, {"axes": arrays["axes"]})
    assert study.read("strength").shape[0] == 6
