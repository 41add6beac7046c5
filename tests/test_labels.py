"""Which class each label is, by every rule, and what is said when none fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workers.labels import ClassNames, LabelError, match_labels, own_classes, read_class_names

# Six of ImageNet's classes, with its trap: two cranes, and a maillot that begins like another.
WNIDS = ("n01440764", "n01484850")
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
        "--classes FILE gives the model's class names, if those are not its own (one a line, in order, or JSON);\n"
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
    def read(text, name):
        return read_class_names(written(tmp_path, text, name))

    assert read("\ufeffcat\r\n dog, hound \n\n", "names.txt") == ClassNames(("cat", "dog, hound"))
    assert read('["cat", "dog, hound"]', "names.json") == ClassNames(("cat", "dog, hound"))
    assert read('\n["cat"]', "list.txt") == ClassNames(("cat",))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"0": "cat", "1": "dog, hound"}', ClassNames(("cat", "dog, hound"))),  # id2label
        ('{"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}}', ClassNames(("cat", "dog"))),  # a config.json
        ('{"dog": 1, "cat": 0}', ClassNames(("cat", "dog"))),  # class_to_idx
        ('{"0": ["n01440764", "tench"], "1": ["n01484850", "shark"]}', ClassNames(("tench", "shark"), WNIDS)),
        # The number is the class, wherever it stands: as sort_keys=True writes eleven classes.
        (
            json.dumps({str(n): f"c{n}" for n in range(11)}, sort_keys=True),
            ClassNames(tuple(f"c{n}" for n in range(11))),
        ),
        ('{"0": 0, "1": 1, "10": 2, "2": 3}', ClassNames(("0", "1", "10", "2"))),
    ],
)
def test_class_names_are_read_from_the_json_objects_that_labs_have(tmp_path, text, found):
    assert read_class_names(written(tmp_path, text, "names.json")) == found
    assert read_class_names(written(tmp_path, text, "names.txt")) == found


def test_wnids_of_a_file_of_classes_match_folders_named_by_them(tmp_path):
    file = written(tmp_path, '{"0": ["n01484850", "shark"], "1": ["n01440764", "tench"]}', "names.json")
    match = match_labels(["n01440764", "n01484850"], read_class_names(file))
    assert (match.rule, match.index.tolist()) == ("wnids", [1, 0])


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
        ("names.json", "{}", "has no class names"),
        ("names.json", '["cat", 1]', "is JSON, but neither a list of names nor an object; give a JSON list of names, "),
        ("names.json", '"cat"', "is JSON, but neither a list of names nor an object"),
        ("names.json", "cat", "is not JSON .*; give a JSON list of names, "),
        ("names.json", "[" * 100_000, "is not JSON .*; give a JSON list of names, "),
        ("names.json", '{"0": "cat", "2": "dog"}', "names 2 classes but none 1, and one 2; number them from 0 to 1"),
        ("names.json", '{"1": "cat", "2": "dog"}', "names 2 classes but none 0, and one 2; number them from 0 to 1"),
        ("names.json", '{"cat": 0, "dog": -1}', "names 2 classes but none 1, and one -1"),
        ("names.json", '{"cat": 0, "dog": 0}', "calls class 0 both 'cat' and 'dog'; keep one of them"),
        ("names.json", '{"0": "cat", "00": "dog"}', "calls class 0 both 'cat' and 'dog'"),
        ("names.json", '{"0": "cat", "0": "dog"}', "has '0' twice; each class has one name, and each name one class"),
        ("names.json", '{"cat": 0, "cat": 1}', "has 'cat' twice"),
        ("names.json", '{"cat": "0"}', "has a class 'cat', which is no number from 0"),
        ("names.json", '{"cat": true}', "has a class 'cat', which is no number from 0"),
        ("names.json", '{"0": "cat", "1": ["n1", "dog"]}', "its values are not all names, all numbers or all pairs"),
        ("names.json", '{"0": ["n1", "cat", "x"]}', "its values are not all names"),
        ("names.json", '{"0": " "}', "name 1 in .* is empty"),
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


# ---- hints

NUMBERS = ClassNames(tuple(f"class {index}" for index in range(12)))


def test_folders_named_0_to_11_say_that_imagefolder_counts_them_in_order_of_text():
    folders = [str(number) for number in range(12)]
    match = match_labels(folders, NUMBERS, folders=True)
    assert match.index.tolist() == list(range(12))
    (hint,) = match.hints
    assert "to it, folder 10 is class 2. If the model was trained with it, give --classes class_to_idx.json" in hint


def test_the_mend_that_the_hint_names_gives_imagefolders_classes(tmp_path):
    folders = [str(number) for number in range(12)]
    theirs = {name: index for index, name in enumerate(sorted(folders))}  # what ImageFolder.class_to_idx is
    named = read_class_names(written(tmp_path, json.dumps(theirs), "class_to_idx.json"))
    match = match_labels(folders, named, folders=True)
    assert (dict(zip(folders, match.index.tolist(), strict=True)), match.hints) == (theirs, ())


@pytest.mark.parametrize(
    ("labels", "folders"),
    [
        ([str(number) for number in range(10)], True),  # 0 … 9 are in order either way
        ([f"{number:02}" for number in range(12)], True),  # and so are 00 … 11
        ([str(number) for number in range(12)], False),  # a CSV's numbers are the model's
        ([f"class {number}" for number in range(12)], True),
    ],
)
def test_no_hint_without_a_reason(labels, folders):
    assert match_labels(labels, NUMBERS, folders=folders).hints == ()


@pytest.mark.parametrize("labels", [["train", "val"], ["Training", "validation", "test"], ["train2017", "val2017"]])
def test_parts_of_a_data_set_are_no_classes(labels):
    hint = f"{' and '.join(sorted(labels))} look like the parts of a data set, not like classes"
    with pytest.raises(LabelError, match=hint):
        match_labels(labels, PLAIN)
    assert own_classes(labels)[1].hints[0].startswith(hint)
    assert "Give one part, as FOLDER/val" in own_classes(labels)[1].hints[0]


def test_a_class_may_be_called_as_a_part_is():
    assert match_labels(["test"], ClassNames(("test", "train"))).hints == ()
    assert own_classes(["test", "stripes"])[1].hints == ()


def test_decimals_of_pandas_are_known():
    with pytest.raises(LabelError, match=r'0\.0 is a class number that became a decimal, .*astype\("Int64"\)'):
        match_labels(["1.0", None, "0.0"], PLAIN)


def test_labels_are_classes_of_their_own_in_order():
    classes, match = own_classes(["dog", None, "cat", "dog"])
    assert (classes.names, match.index.tolist(), match.rule) == (("cat", "dog"), [1, -1, 0, 1], "folders")
    assert own_classes([None])[1].rule == "no labels"
