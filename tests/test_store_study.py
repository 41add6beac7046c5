import os
import pickle
import shutil
import warnings

import numpy as np
import pytest
import xarray as xr

from store import rebuild
from store import study as study_module
from store.errors import (
    DamagedError,
    DiskFullError,
    LeftOutError,
    StoreError,
    StudyBusyError,
    StudyNotFoundError,
)
from store.lock import StudyLock
from store.paths import study_path
from store.study import delete, list_studies, open_published
from tests.studies import METRICS, attention_of, tiny_study, write_tiny_study
from tests.test_store_attempt import begin, write_units

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture(scope="module")
def tiny():
    return tiny_study()


@pytest.fixture
def study(tiny_study_path):
    return open_published(tiny_study_path)


def test_every_array_reads_as_it_was_written(study, tiny):
    assert study.arrays == list(tiny.arrays)
    for name, array in tiny.arrays.items():
        values = study.read(name)
        assert values.shape == array.shape
        np.testing.assert_array_equal(values.astype(array.dtype), array)
        assert study[name].dtype == values.dtype


@pytest.mark.parametrize("index", [(0,), (-1,), (slice(1, 3), 0), ([3, 0], slice(None), 1), (2, 1, 1), (..., 0)])
def test_an_index_reads_what_numpy_would_take(study, tiny, index):
    expected = tiny.arrays["strength"][index]
    np.testing.assert_array_equal(study.read("strength", *index), expected)


def test_xarray_opens_the_study_as_a_labelled_dataset(study, tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xr.open_zarr(study)
    assert list(dataset.coords) == ["class", "cls_pattern", "image", "metric", "pattern", "vector"]
    assert list(dataset.image.values) == list(tiny.arrays["image"])
    assert dataset.sizes["depth"] == dataset.sizes["layer"] + 1
    assert dataset.importance.dims == ("metric", "image", "layer", "head")
    picked = dataset.importance.sel(metric="jsd", image="set/photo 002.png")
    np.testing.assert_array_equal(picked, tiny.arrays["importance"][1, 2])
    np.testing.assert_array_equal(dataset.label, tiny.arrays["label"])
    assert "Eq. 7, 8" in dataset.strength.attrs["equation"]
    assert dataset.attrs["model"]["num_layers"] == 2


def test_the_path_of_the_group_works_for_xarray_too(study):
    assert os.fspath(study) == str(study.path)
    assert xr.open_zarr(str(study.path)).sizes["image"] == 5


def test_names_are_read_once_and_found_by_id(study):
    assert study.image_ids[3] == "set/photo 003.png"
    assert study.image_ids is study.image_ids
    assert study.image_index("set/photo 003.png") == 3
    assert study.class_names == [f"class {number}" for number in range(6)]
    assert study.metrics == METRICS
    assert study.vectors == ["pruned_probability", *METRICS]
    assert study.metric_index("cls_distance") == 2
    assert study.sizes | {"image": 5, "layer": 2, "depth": 3, "token": 10, "hop": 3} == study.sizes
    assert study.has_labels
    assert study.name == "tiny"
    assert "label" in study and "nothing" not in study


def test_an_unknown_image_is_an_error_that_names_one_spelled_alike(study):
    with pytest.raises(KeyError, match=r"did you mean set/photo 003\.png"):
        study.image_index("set/photo 03.png")
    with pytest.raises(KeyError, match="5 images"):
        study.image_index("?")


def test_what_is_left_out_is_an_error_with_the_reason(tmp_path):
    study = open_published(write_tiny_study(tmp_path / "tiny", classes=0, has_cls=False, prefix=0, attention="rebuilt"))
    assert study.class_names == []
    assert study.metrics == study.vectors == ["patch_distance"]
    assert not study.has_labels
    for look in (
        lambda: study["cls_vector"],
        lambda: study.read("cls_vector"),
        lambda: study.metric_index("cls_distance"),
    ):
        with pytest.raises(
            LeftOutError, match=r"^cls_(vector|distance) is not in study tiny: the model has no class token$"
        ):
            look()
    with pytest.raises(LeftOutError, match="no classifier"):
        study.metric_index("jsd")


def test_an_unknown_array_or_metric_is_an_error_that_lists_what_there_is(study):
    with pytest.raises(KeyError, match=r"attentoin is not in study tiny, which has image, .*image_layout"):
        study["attentoin"]
    with pytest.raises(KeyError, match=r"metric taylor .* which has probability, jsd"):
        study.metric_index("taylor")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ((5, 0, 0), "image 5 is not in study tiny, which has images 0 to 4"),
        ((-1, 0, 0), "image -1 is not in study tiny"),
        ((0, 2, 0), "layer 2 is not in vit_tiny_test, which has layers 0 to 1"),
        ((0, 0, 2), "head 2 is not in vit_tiny_test, which has heads 0 to 1"),
    ],
)
def test_a_place_that_is_not_there_is_an_error_with_the_range(study, tmp_path, place, said):
    with pytest.raises(IndexError, match=said):
        study.attention(*place)
    rebuilt = open_published(write_tiny_study(tmp_path / "tiny", attention="rebuilt"))
    with pytest.raises(IndexError, match=said):
        rebuilt.attention(*place)


def test_a_read_outside_an_array_is_an_error_with_the_range(study):
    with pytest.raises(IndexError, match="hop 3 is not in study tiny, which has hops 0 to 2"):
        study.read("strength", 0, 0, 0, 3)


def test_a_published_study_cannot_be_written_through_its_arrays(study):
    with pytest.raises(ValueError, match="read-only"):
        study["entropy"][0] = 1


@pytest.mark.parametrize("qk_norm", [None, "layernorm", "rmsnorm"])
@pytest.mark.parametrize("prefix", [1, 5])
def test_rebuilt_attention_is_that_of_the_formula_in_float64(tmp_path, qk_norm, prefix):
    changes = {"qk_norm": qk_norm, "prefix": prefix, "heads": 3, "head_dim": 8, "attention": "rebuilt"}
    tiny = tiny_study(**changes)
    study = open_published(write_tiny_study(tmp_path / "tiny", **changes))
    assert study.attention_source == "rebuilt"
    for layer in range(2):
        exact = attention_of(tiny.attrs["model"], tiny.arrays, tiny.arrays["residual"][3, layer], layer)
        for head in range(3):
            attention = study.attention(3, layer, head)
            assert attention.dtype == np.float32
            np.testing.assert_allclose(attention, exact[head], rtol=2e-5, atol=1e-7)
            np.testing.assert_allclose(attention.sum(axis=-1), 1, rtol=1e-6)


def test_stored_attention_is_the_exact_one_rounded_to_float16(study, tiny):
    assert study.attention_source == "stored"
    exact = attention_of(tiny.attrs["model"], tiny.arrays, tiny.arrays["residual"][2, 1], 1)
    attention = study.attention(2, 1, 0)
    assert attention.dtype == np.float32
    np.testing.assert_allclose(attention, exact[0], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("attention", ["stored", "rebuilt"])
def test_attention_of_several_layers_is_that_of_each_head(tmp_path, attention):
    study = open_published(write_tiny_study(tmp_path / "a", attention=attention, layers=3))
    several = study.layers_attention(1, range(1, 3))
    each = [[study.attention(1, layer, head) for head in range(2)] for layer in (1, 2)]
    np.testing.assert_array_equal(several, each)
    assert several.dtype == np.float32
    with pytest.raises(IndexError, match="layer 3 is not in vit_tiny_test, which has layers 0 to 2"):
        study.layers_attention(1, range(2, 4))


def test_stored_and_rebuilt_attention_agree(study, tmp_path):
    rebuilt = open_published(write_tiny_study(tmp_path / "tiny", attention="rebuilt"))
    np.testing.assert_allclose(study.attention(4, 1, 1), rebuilt.attention(4, 1, 1), atol=5e-4)


def test_a_model_without_biases_rebuilds_with_none(tmp_path):
    tiny = tiny_study(attention="rebuilt")
    for name in ("norm1_bias", "query_bias", "key_bias"):
        tiny.arrays[name][:] = 0
    for name in ("norm1_bias", "query_bias", "key_bias"):
        del tiny.arrays[name]
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny)
        attempt.gather()
        attempt.write_stage("layouts", {"image_layout": tiny.arrays["image_layout"]}, {})
        attempt.publish({}, {})
    exact = attention_of(
        tiny.attrs["model"],
        tiny.arrays
        | {
            "norm1_bias": np.zeros((2, 8)),
            "query_bias": np.zeros((2, 2, 4)),
            "key_bias": np.zeros((2, 2, 4)),
        },
        tiny.arrays["residual"][0, 1],
        1,
    )
    np.testing.assert_allclose(open_published(tmp_path / "a").attention(0, 1, 1), exact[1], rtol=2e-5, atol=1e-7)


def test_weights_in_memory_are_bounded_and_attention_is_the_same(tmp_path, monkeypatch):
    folder = write_tiny_study(tmp_path / "tiny", layers=4, attention="rebuilt")
    expected = [open_published(folder).attention(0, layer, 0) for layer in range(4)]
    monkeypatch.setattr(study_module, "WEIGHT_BYTES", 1)
    study = open_published(folder)
    for layer in (0, 3, 1, 3, 0, 2):
        np.testing.assert_array_equal(study.attention(0, layer, 0), expected[layer])
        assert len(study._weights) == 1


def test_a_study_with_neither_attention_nor_what_rebuilds_it_says_why(tmp_path):
    tiny = tiny_study(attention="rebuilt")
    del tiny.arrays["query_weight"]
    tiny.attrs["left_out"]["attention"] = "attention has a rotary position embedding"
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny)
        attempt.gather()
        attempt.write_stage("layouts", {"image_layout": tiny.arrays["image_layout"]}, {})
        attempt.publish({}, {})
    study = open_published(tmp_path / "a")
    assert study.attention_source is None
    with pytest.raises(LeftOutError, match="rotary"):
        study.attention(0, 0, 0)


def test_softmax_and_norm_survive_large_numbers():
    scores = np.array([[1e4, -1e4, 1e4]], np.float32)
    np.testing.assert_allclose(rebuild.softmax(scores), [[0.5, 0, 0.5]])
    assert np.isfinite(rebuild.normalised(np.full((2, 4), 6e4, np.float16), rebuild.Norm("layernorm", 1e-6))).all()


def test_a_study_that_is_not_there_or_not_published_is_not_found(tmp_path, tiny):
    with pytest.raises(StudyNotFoundError, match="no study at"):
        open_published(tmp_path / "none")
    with begin(tmp_path / "begun", tiny) as attempt:
        write_units(attempt, tiny, [1])
        with pytest.raises(StudyNotFoundError, match="begun is not published yet: 1 of 3 units are done"):
            open_published(tmp_path / "begun")


def test_studies_are_listed_with_how_far_they_are(tmp_path, tiny):
    assert list_studies(tmp_path / "none") == []
    write_tiny_study(tmp_path / "published")
    (tmp_path / "other").mkdir()
    (tmp_path / "file").touch()
    with begin(tmp_path / "begun", tiny) as attempt:
        write_units(attempt, tiny, [0, 2])
        begun, published = list_studies(tmp_path)
    assert (begun.name, begun.manifest, begun.units_done, begun.units_total) == ("begun", None, 2, 3)
    assert (published.name, published.units_total, published.problem) == ("published", 0, None)
    assert open_published(published.path).manifest == published.manifest


def test_a_published_study_that_is_computed_again_is_listed_with_both(tmp_path, tiny):
    folder = write_tiny_study(tmp_path / "tiny")
    with begin(folder, tiny, plan={"again": True}) as attempt:
        write_units(attempt, tiny, [0])
        (entry,) = list_studies(tmp_path)
    assert entry.manifest is not None
    assert (entry.units_done, entry.units_total) == (1, 3)


def test_a_deleted_study_is_gone_and_one_being_written_is_not_deleted(tmp_path, tiny):
    folder = write_tiny_study(tmp_path / "tiny")
    with begin(folder, tiny, plan={"again": True}), pytest.raises(StudyBusyError):
        delete(folder)
    delete(folder)
    assert not folder.exists()
    with pytest.raises(StudyNotFoundError):
        delete(folder)


def test_deleting_touches_nothing_that_is_no_part_of_a_study(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    with pytest.raises(StudyNotFoundError):
        delete(tmp_path / "photos")
    folder = write_tiny_study(tmp_path / "tiny")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"notes\.txt"):
        delete(folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_writer_that_waited_for_a_deleted_study_locks_the_new_folder(tmp_path):
    first = StudyLock(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    second = StudyLock(tmp_path / "a")
    assert (tmp_path / "a" / "lock").read_text() == str(os.getpid())
    first.release()
    second.release()
    second.release()


@pytest.mark.parametrize("name", ["a", "deit-tiny.imagenet_250", "0", "a" * 80])
def test_study_names_are_folder_names(tmp_path, name):
    assert study_path(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../a",
        "a/b",
        "a\\b",
        "/etc",
        "A",
        "a b",
        "a\0",
        "a\n",
        "-a",
        "_a",
        ".a",
        "ä",
        "a" * 81,
        "%2e%2e",
        "a/../../b",
    ],
)
def test_names_that_could_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is not a study name"):
        study_path(tmp_path, name)


@pytest.mark.parametrize("error", [DamagedError("broken: a", ["a"]), DiskFullError("disk full"), LeftOutError("why")])
def test_errors_read_as_their_sentence_and_cross_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert isinstance(error, StoreError)
