"""Which pictures are there twice, by cases that can be counted on one hand."""

import numpy as np
import pytest

from workers.copies import MOST_FILES, MOST_IMAGES, copies_of, counted_once


def labels(*of):
    return np.array(of, np.int32)


def test_different_pictures_are_no_copies():
    assert copies_of(["a", "b"], ["x", "y"], labels(0, 0)) is None
    assert copies_of([], [], labels()) is None


def test_copies_are_counted_and_contradictions_come_first():
    ids, files = ["a", "b", "c", "d", "e", "f"], ["x", "x", "y", "z", "z", "z"]
    assert copies_of(ids, files, labels(0, 0, 1, 1, -1, 2)) == {
        "files": 2,
        "images": 5,
        "contradicting": 1,
        "examples": [["d", "e", "f"], ["a", "b"]],
    }


def test_a_copy_without_a_label_contradicts_nothing():
    assert copies_of(["a", "b"], ["x", "x"], labels(3, -1))["contradicting"] == 0
    assert copies_of(["a", "b"], ["x", "x"], labels(-1, -1))["contradicting"] == 0


def test_a_study_names_a_few_however_many_there_are():
    count = 40_000
    ids = [f"{number}.png" for number in range(count)]
    found = copies_of(ids, [f"{number % 1000}" for number in range(count)], labels(*np.arange(count) % 7))
    assert (found["files"], found["images"]) == (1000, count)
    assert [len(each) for each in found["examples"]] == [MOST_IMAGES] * MOST_FILES


@pytest.mark.parametrize(
    ("files", "label", "counted"),
    [
        ("xyz", (0, 1, 2), (True, True, True)),
        ("xyz", (0, -1, 2), (True, False, True)),  # nothing is right or wrong without a label
        ("xxy", (0, 0, 1), (True, False, True)),
        ("xxy", (-1, 0, 1), (False, True, True)),  # the copy that has a label
        ("xxy", (0, 1, 1), (False, False, True)),  # no true class
        ("xxx", (0, 1, -1), (False, False, False)),
        ("xxx", (-1, -1, -1), (False, False, False)),
    ],
)
def test_each_labelled_picture_counts_once_and_one_of_two_labels_never(files, label, counted):
    assert tuple(counted_once(list(files), labels(*label))) == counted
