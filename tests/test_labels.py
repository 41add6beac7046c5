"""Which class each label is, by every rule, and what is said when none fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.labels import ClassNames, LabelError, match_labels, read_class_names

# Six of ImageNet's classes, with its trap: two cranes, and a maillot that begins like another.
CLASSES = ClassNames(
    names=(
        "tench, Tinca tinca",
        "great white shark, white shark",
        "crane",
        "crane",
        "maillot",
        "maillot, tank suit",
    ),
    wnids=("n01440764", "n01484850", "n02012849", "n03126707", "n03710637", "n03710721"),
)
PLAIN = ClassNames(names=("stripes_horizontal", "dots", "Red over blue"))


def written(folder: Path, text: str, name: str = "map.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def index(labels, classes, mapping=None):
    return match_labels(labels, classes, mapping).index.tolist()


def test_wnids_match_and_images_without_a_label_are_unknown():
    match = match_labels(["n01484850", None, "N01440764", "n01484850"], CLASSES)
    assert match.rule == "wnids"
    assert match.index.tolist() == [1, -1, 0, 1]
    assert match.index.dtype == "int32"


def test_no_labels_are_all_unknown_and_no_error():
    match = match_labels([None, None], CLASSES)
    assert (match.rule, match.index.tolist()) == ("no labels", [-1, -1])
    assert match_labels([], CLASSES).index.shape == (0,)


def test_one_class_alone_matches():
    assert index(["dots", "dots"], PLAIN) == [1, 1]


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        ("tench, Tinca tinca", 0),
        ("tench", 0),
        ("Tinca_Tinca", 0),
        ("GREAT-WHITE_SHARK", 1),
        ("White shark", 1),
        ("maillot, tank suit", 5),
        ("tank_suit", 5),
    ],
)
def test_names_match_whatever_the_case_and_the_separator_and_by_synonym(label, wanted):
    match = match_labels([label], CLASSES)
    assert (match.rule, match.index.tolist()) == ("class names", [wanted])


def test_an_exact_name_wins_over_one_that_is_alike():
    assert index(["apple", "Apple"], ClassNames(("Apple", "apple"))) == [1, 0]


def test_a_whole_name_wins_over_a_later_synonym_of_another_class():
    assert index(["missile"], ClassNames(("projectile, missile", "missile"))) == [1]


@pytest.mark.parametrize(
    ("label", "both"),
    [("crane", r"2 \(crane\) and 3 \(crane\)"), ("Maillot", r"4 \(maillot\) and 5 \(maillot, tank suit\)")],
)
def test_a_name_of_two_classes_is_an_error_with_both_indices(label, both):
    with pytest.raises(LabelError, match=f"label '{label}' could be class {both}; say which with --label-map CSV"):
        match_labels(["tench", label], CLASSES)


def test_indices_match_when_every_label_is_one():
    match = match_labels(["0", "2", None, "001"], PLAIN)
    assert (match.rule, match.index.tolist()) == ("class indices", [0, 2, -1, 1])
    for labels in (["0", "3"], ["0", "-1"], ["0", "1.5"], ["0", "dots"], ["0", "²"], ["0", "9" * 5000]):
        with pytest.raises(LabelError):
            match_labels(labels, PLAIN)


def test_names_that_are_numbers_are_names_before_they_are_indices():
    match = match_labels(["0", "1"], ClassNames(("1", "0")))
    assert (match.rule, match.index.tolist()) == ("class names", [1, 0])


def test_rules_are_not_mixed():
    with pytest.raises(LabelError, match="2 of 3 labels are classes of the model"):
        match_labels(["n01440764", "n01484850", "tench"], CLASSES)


def test_labels_without_a_class_show_both_sides_and_the_ways_out():
    with pytest.raises(LabelError) as caught:
        match_labels(["tench", *"abcdefg"], CLASSES)
    assert str(caught.value) == (
        "1 of 8 labels are classes of the model"
        " (by class names, the best rule; not by it: a; b; c; d; e … and 2 more).\n"
        "The labels: a; b; c; d; e … and 3 more\n"
        "The model's classes: 0 tench, Tinca tinca; 1 great white shark, white shark; 2 crane; 3 crane;"
        " 4 maillot … and 1 more\n"
        "Ways out: --label-map CSV says which class each label is (header label,class);\n"
        "--classes FILE gives the model's class names, if those are not its own (one a line, in order);\n"
        "--no-labels goes on without labels."
    )
    with pytest.raises(LabelError, match=r"^0 of 1 labels are classes of the model\.\n"):
        match_labels(["zebra"], PLAIN)


def test_a_map_names_classes_by_index_wnid_or_name_and_may_leave_one_out(tmp_path):
    lines = '\ufefflabel,class\nfish,tench\n"big, bad",n01484850\nbird,2\nperson,\nunused,5\n'
    match = match_labels(["fish", "big, bad", "bird", "person", None], CLASSES, written(tmp_path, lines))
    assert (match.rule, match.index.tolist()) == ("label map", [0, 1, 2, -1, -1])


def test_a_map_decides_alone(tmp_path):
    assert index(["tench"], CLASSES, written(tmp_path, "label,class\ntench,3\n")) == [3]
    with pytest.raises(LabelError, match=r"has no line for 1 of 2 labels: tench; add a line `label,class` for each"):
        match_labels(["tench", "x"], CLASSES, written(tmp_path, "label,class\nx,3\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"first line of .* is ''; write `label,class`"),
        ("a,0\n", r"first line of .* is 'a,0'; write `label,class`"),
        (
            "label,class\na,6\n",
            "line 2 of .* names class '6', which the model does not have; write an index from 0 to 5,",
        ),
        (
            "label,class\na,crane\n",
            "line 2 of .* names class 'crane', which could be 2 and 3; write the index",
        ),
        ("label,class\na,0\na,1\n", "line 3 of .* gives 'a' another class; keep one line a label"),
        ("label,class\na,tench, Tinca tinca\n", "line 2 of .*; it must be a label and a class. Quote"),
        ('label,class\n"a"b,0\n', "line 2 of .* is not CSV"),
    ],
)
def test_a_map_that_cannot_be_understood_names_the_line(tmp_path, text, message):
    with pytest.raises(LabelError, match=message):
        match_labels(["a"], CLASSES, written(tmp_path, text))


def test_a_map_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(LabelError, match=r"nowhere\.csv cannot be read: No such file or directory; check the path"):
        match_labels(["a"], CLASSES, tmp_path / "nowhere.csv")


def test_class_names_are_read_from_lines_or_from_a_json_list(tmp_path):
    assert read_class_names(written(tmp_path, "\ufeffcat\r\n dog, hound \n\n", "names.txt")) == (
        "cat",
        "dog, hound",
    )
    assert read_class_names(written(tmp_path, '["cat", "dog, hound"]', "names.json")) == ("cat", "dog, hound")
    assert read_class_names(written(tmp_path, '\n["cat"]', "list.txt")) == ("cat",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("names.txt", "\n\n", "has no class names; give one a line"),
        (
            "names.txt",
            "cat\n\ndog\n",
            r"name 2 in .*names\.txt is empty, so later ones may be out of place; name it",
        ),
        ("names.json", "[]", "has no class names"),
        ("names.json", "{}", "is JSON, but no list of strings; give one name a class, in order"),
        ("names.json", '["cat", 1]', "is JSON, but no list of strings"),
        ("names.json", "cat", "is not JSON .*; give a JSON list, or one name a line"),
    ],
)
def test_class_names_that_cannot_be_read_say_what_would_be_right(tmp_path, name, text, message):
    with pytest.raises(LabelError, match=message):
        read_class_names(written(tmp_path, text, name))


def test_class_names_in_another_encoding_are_an_error(tmp_path):
    (tmp_path / "names.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(LabelError, match="is not UTF-8 text; save it with UTF-8 encoding"):
        read_class_names(tmp_path / "names.txt")


def test_wnids_must_be_as_many_as_names():
    assert CLASSES.size == 6
    with pytest.raises(LabelError, match="1 WordNet ids for 2 classes; give one for each"):
        ClassNames(("a", "b"), ("n1",))
