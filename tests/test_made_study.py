"""Studies made for measuring are studies: they open, they are whole, and what the page reads is in them."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.made_study import CLASSES, GRID, HEADS, LAYERS, OF_MASKS, make_study
from dashboard.data import facts, predictions
from store.manifest import verify
from store.study import Study, open_published


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "made"
    make_study(folder, 7)
    return folder


@pytest.fixture(scope="module")
def study(made: Path) -> Study:
    return open_published(made)


def test_it_is_whole_and_has_the_shape_of_deit_tiny(made: Path, study: Study):
    assert verify(made) == []
    known = facts(study)
    assert (known.num_layers, known.num_heads, known.grid) == (LAYERS, HEADS, (GRID, GRID))
    assert known.maps == ("patch", "cls")
    assert len(study.class_names) == CLASSES


def test_attention_is_rebuilt_and_rows_sum_to_one(study: Study):
    attention = study.attention(3, 5, 1)
    assert attention.shape == (GRID**2 + 1,) * 2
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-5)
    assert attention.max() > 10 * attention.mean()  # it looks somewhere


def test_its_numbers_agree_with_each_other(study: Study):
    told = predictions(study)
    pruned, importance = study.read("pruned_probability"), study.read("importance", study.metric_index("probability"))
    np.testing.assert_allclose(told.probability[:, None, None] - importance, pruned, atol=1e-6)
    assert study.attrs["accuracy"]["top1"] == told.right.mean()
    best = study.read("pruned_top_class", 0, 0, 0, 0)
    assert best == told.predicted[0]
    assert np.isfinite(study.read("entropy")).all()


def test_what_it_has_not_says_why(study: Study):
    assert set(study.attrs["left_out"]) > set(OF_MASKS)
    assert not set(study.attrs["left_out"]) & set(study.arrays)


def test_equal_arguments_make_equal_studies(made: Path, tmp_path: Path):
    assert make_study(tmp_path / "made", 7).content == open_published(made).manifest.content
