"""Which class of the model is each label? The first rule under which every label has a class is used.

A label without a class is an error, never class 0: a wrong class makes every figure that needs one wrong.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1


class LabelError(ValueError):
    """Labels, a label map or class names that do not fit the model."""


@dataclass(frozen=True)
class ClassNames:
    """What the classes of a model are called, in the order of its output."""

    names: tuple[str, ...]  # one name, or synonyms separated by commas
    wnids: tuple[str, ...] | None = None  # WordNet ids, as n01440764, where the classes are ImageNet's

    def __post_init__(self) -> None:
        if self.wnids is not None and len(self.wnids) != len(self.names):
            raise LabelError(f"{len(self.wnids)} WordNet ids for {len(self.names)} classes; give one for each")

    @classmethod
    def numbered(cls, size: int) -> ClassNames:
        """What classes are called that nobody has named."""
        return cls(tuple(f"class {index}" for index in range(size)))

    @property
    def size(self) -> int:
        return len(self.names)

    @property
    def are_numbers(self) -> bool:
        """Whether nobody has named them."""
        return self == ClassNames.numbered(self.size)


@dataclass(frozen=True)
class LabelMatch:
    """The class of every image, and how it was found."""

    index: NDArray[np.int32]  # (image,), UNKNOWN where there is no label
    rule: str  # "label map", "wnids", "class names", "class indices", "folders" or "no labels"
    hints: tuple[str, ...] = ()  # sentences: what may be wrong with it, and how to mend that


def match_labels(
    labels: Sequence[str | None], classes: ClassNames, mapping: Path | None = None, *, folders: bool = False
) -> LabelMatch:
    """The class index of each label.

    A label map, if given, decides alone. Otherwise these rules are tried in order, and one counts only if it
    has a class for every label that is there: WordNet ids; class names (see `_by_name`); indices from 0.

    Args:
        labels: One for each image; None where there is none.
        mapping: A CSV with header `label,class`: class is an index, a WordNet id or a name of the model, or
            empty for "none of the model's classes".
        folders: Whether the labels are names of folders.
    Raises:
        LabelError: No rule fits all labels, or a name stands for more than one class.
    """
    present = sorted({label for label in labels if label is not None})
    if mapping is not None:
        rule, found = "label map", _by_map(present, classes, mapping)
    elif present:
        rule, found = _first_full_match(present, classes)
    else:
        rule, found = "no labels", {}
    index = [UNKNOWN if label is None else found[label] for label in labels]
    hints = _order_of_folders(present) if folders and rule == "class indices" else None
    return LabelMatch(np.array(index, dtype=np.int32), rule, () if hints is None else (hints,))


def own_classes(labels: Sequence[str | None]) -> tuple[ClassNames, LabelMatch]:
    """The labels as classes of their own, for a model that has none, in order of their text."""
    present = sorted({label for label in labels if label is not None})
    places = {label: index for index, label in enumerate(present)}
    index = np.array([UNKNOWN if label is None else places[label] for label in labels], dtype=np.int32)
    hint = _splits(present)
    rule = "folders" if present else "no labels"
    return ClassNames(tuple(present)), LabelMatch(index, rule, () if hint is None else (hint,))


def read_class_names(path: Path) -> ClassNames:
    """What the classes of a model are called, from a text file with one name a line, or from JSON.

    JSON may be a list of names in the order of the model's output, or an object: {"0": "tench", …} (`id2label`, also in
    a `config.json`), {"tench": 0, …} (`class_to_idx.json`), or {"0": ["n01440764", "tench"], …}
    (`imagenet_class_index.json`). The numbers of an object decide, in whatever order they stand.

    Raises:
        LabelError: The file cannot be read, is none of these, or has a class without a name or with two.
    """
    text = _text(path)
    if path.suffix.lower() == ".json" or text.lstrip().startswith(("[", "{")):
        names, wnids = _json_class_names(path, text)
    else:
        names, wnids = text.rstrip().splitlines(), None
    names = [name.strip() for name in names]
    if not names:
        raise LabelError(f"{path} has no class names; give one a line, in the order of the model's output")
    if "" in names:
        raise LabelError(f"name {names.index('') + 1} in {path} is empty, so later ones may be out of place; name it")
    return ClassNames(tuple(names), None if wnids is None else tuple(wnids))


# ---- hints

# What people call the parts of a data set, in lower case and without digits, as of COCO's val2017.
SPLITS = {"train", "training", "trn", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"}


def _splits(present: Sequence[str]) -> str | None:
    """What to say if the labels are the parts of a data set rather than classes."""
    if not present or not {re.sub(r"[0-9_-]+$", "", label.lower()) for label in present} <= SPLITS:
        return None
    last = next((label for label in present if label.lower().startswith("val")), present[-1])
    return (
        f"{' and '.join(present)} look like the parts of a data set, not like classes: in a folder, labels are the "
        f"names of its first level. Give one part, as FOLDER/{last}"
    )


def _decimals(present: Sequence[str]) -> str | None:
    """What to say of class numbers that pandas made decimals of."""
    if not present or not all(re.fullmatch(r"[0-9]{1,9}\.0+", label.strip()) for label in present):
        return None
    return (
        f"{present[0]} is a class number that became a decimal, as pandas does to a column with empty cells: write the "
        'column as whole numbers (df["label"] = df["label"].astype("Int64"))'
    )


def _order_of_folders(present: Sequence[str]) -> str | None:
    """What to say of folders 0 … 11, which torchvision numbers in the order of their text: 0, 1, 10, 11, 2 …"""
    by_number = sorted(present, key=int)  # `present` is in order of text
    moved = next((at for at, label in enumerate(present) if label != by_number[at]), None)
    if moved is None:
        return None
    return (
        "the folders are taken as class numbers. torchvision's ImageFolder counts folders in the order of their text: "
        f"to it, folder {present[moved]} is class {moved}. If the model was trained with it, give --classes "
        "class_to_idx.json (the data set's class_to_idx) or --label-map"
    )


# ---- class names in JSON

NAMES_FORMS = (
    'a JSON list of names, {"0": "tench", …}, {"tench": 0, …}, {"0": ["n01440764", "tench"], …}, or one name a line'
)


def _json_class_names(path: Path, text: str) -> tuple[list[str], list[str] | None]:
    """Names, and WordNet ids where the file has them."""
    try:
        found = json.loads(text, object_pairs_hook=lambda pairs: _object(path, pairs))
    except LabelError:
        raise
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{path} is not JSON ({error}); give {NAMES_FORMS}") from None
    if isinstance(found, list) and all(isinstance(name, str) for name in found):
        return found, None
    if isinstance(found, dict) and isinstance(found.get("id2label"), dict):
        found = found["id2label"]
    if not isinstance(found, dict):
        raise LabelError(f"{path} is JSON, but neither a list of names nor an object; give {NAMES_FORMS}")
    if all(type(index) is int for index in found.values()):  # True is no number of a class
        return _in_order(path, [(index, name) for name, index in found.items()]), None
    numbered = [(_class_number(path, key), value) for key, value in found.items()]
    if all(isinstance(value, str) for _, value in numbered):
        return _in_order(path, numbered), None
    if all(_is_pair(value) for _, value in numbered):
        wnids = _in_order(path, [(index, value[0]) for index, value in numbered])
        return _in_order(path, [(index, value[1]) for index, value in numbered]), wnids
    raise LabelError(f"{path} is JSON, but its values are not all names, all numbers or all pairs; give {NAMES_FORMS}")


def _object(path: Path, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise LabelError(f"{path} has {twice!r} twice; each class has one name, and each name one class")
    return found


def _class_number(path: Path, key: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", key):
        raise LabelError(f"{path} has a class {key[:40]!r}, which is no number from 0; give {NAMES_FORMS}")
    return int(key)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _in_order(path: Path, numbered: Iterable[tuple[int, str]]) -> list[str]:
    """The names by number, which must be every one from 0 on, once."""
    found: dict[int, str] = {}
    for index, name in numbered:
        if index in found:
            raise LabelError(f"{path} calls class {index} both {found[index]!r} and {name!r}; keep one of them")
        found[index] = name
    wrong = next((index for index in range(len(found)) if index not in found), None)
    if wrong is not None:
        others = sorted(set(found) - set(range(len(found))))
        raise LabelError(
            f"{path} names {len(found)} classes but none {wrong}, and one {others[0]}; number them from 0 to "
            f"{len(found) - 1}, as the model's output"
        )
    return [found[index] for index in range(len(found))]


# ---- rules

Lookup = Callable[[str], set[int]]  # the classes that a label may mean


def _first_full_match(present: Sequence[str], classes: ClassNames) -> tuple[str, dict[str, int]]:
    """The first rule under which every label has a class, and those classes."""
    rules: dict[str, Lookup] = {} if classes.wnids is None else {"wnids": _by_wnid(classes.wnids)}
    rules |= {"class names": _by_name(classes.names), "class indices": _by_index(classes.size)}
    matches: dict[str, dict[str, set[int]]] = {}
    for rule, lookup in rules.items():
        matches[rule] = {label: found for label in present if (found := lookup(label))}
        if len(matches[rule]) == len(present):
            return rule, {label: _only(label, found, classes) for label, found in matches[rule].items()}
    best = max(matches, key=lambda rule: len(matches[rule]))
    raise LabelError(_unmatched(present, classes, best, matches[best]))


def _by_wnid(wnids: Sequence[str]) -> Lookup:
    found = _places((wnid.lower(), index) for index, wnid in enumerate(wnids))
    return lambda label: found.get(label.strip().lower(), set())


def _by_index(size: int) -> Lookup:
    def lookup(label: str) -> set[int]:
        digits = label.strip()
        return {int(digits)} if re.fullmatch(r"[0-9]{1,9}", digits) and int(digits) < size else set()

    return lookup


def _by_name(names: Sequence[str]) -> Lookup:
    """Classes by name, the nearest way that finds any.

    First the whole name or its first synonym, letter by letter; then the same two whatever the case, and with
    underscores and hyphens as spaces; then any other synonym in that way. The first synonym counts as much as
    the whole name, as folders are mostly named by it: of ImageNet's "maillot" and "maillot, tank suit", a
    folder maillot may be either.
    """
    exact, folded, other = [], [], []
    for index, name in enumerate(names):
        synonyms = [part.strip() for part in name.split(",")]
        exact += [(text, index) for text in (name, synonyms[0])]
        folded += [(_folded(text), index) for text in (name, synonyms[0])]
        other += [(_folded(text), index) for text in synonyms[1:] if text]
    whole, alike, synonym = _places(exact), _places(folded), _places(other)

    def lookup(label: str) -> set[int]:
        key = _folded(label)
        return whole.get(label) or alike.get(key) or synonym.get(key) or set()

    return lookup


def _places(pairs: Iterable[tuple[str, int]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for key, index in pairs:
        found[key].add(index)
    return dict(found)


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()


def _only(label: str, found: set[int], classes: ClassNames) -> int:
    if len(found) > 1:
        which = " and ".join(f"{index} ({classes.names[index]})" for index in sorted(found))
        raise LabelError(
            f"label {label!r} could be class {which}; say which with --label-map CSV, "
            f"a file with the header label,class and a line such as {label},{min(found)}"
        )
    return next(iter(found))


def _by_map(present: Sequence[str], classes: ClassNames, mapping: Path) -> dict[str, int]:
    """What `mapping` says of each label."""
    found: dict[str, int] = {}
    for line, label, wanted in _map_rows(mapping):
        index = _wanted(wanted, classes, f"line {line} of {mapping}")
        if found.setdefault(label, index) != index:
            raise LabelError(f"line {line} of {mapping} gives {label!r} another class; keep one line a label")
    if missing := [label for label in present if label not in found]:
        raise LabelError(
            f"{mapping} has no line for {len(missing)} of {len(present)} labels: {_five(missing)}; add "
            "a line `label,class` for each, with the class left empty if the model has none"
        )
    return found


def _wanted(wanted: str, classes: ClassNames, where: str) -> int:
    """The class that a label map names by index, WordNet id or name."""
    if not wanted:
        return UNKNOWN
    found = _by_index(classes.size)(wanted) | _by_name(classes.names)(wanted)
    if classes.wnids is not None:
        found |= _by_wnid(classes.wnids)(wanted)
    if len(found) > 1:
        raise LabelError(
            f"{where} names class {wanted!r}, which could be {' and '.join(map(str, sorted(found)))}; "
            "write the index, or the WordNet id or full name if names are numbers too"
        )
    if not found:
        raise LabelError(
            f"{where} names class {wanted!r}, which the model does not have; write an index from 0 to "
            f"{classes.size - 1}, a WordNet id or a name, such as {classes.names[0]!r}, or leave it empty"
        )
    return next(iter(found))


def _map_rows(mapping: Path) -> list[tuple[int, str, str]]:
    """Line number, label and class of every row of a label map."""
    reader = csv.reader(_text(mapping).splitlines(keepends=True), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise LabelError(f"line {reader.line_num} of {mapping} is not CSV ({error}); save it again") from None
    header = [name.strip().lower() for name in rows[0][1]] if rows else []
    if header != ["label", "class"]:
        raise LabelError(f"the first line of {mapping} is {','.join(header)[:80]!r}; write `label,class`")
    for line, row in rows[1:]:
        if len(row) != 2 or not row[0].strip():
            raise LabelError(
                f"line {line} of {mapping} is {','.join(row)[:80]!r}; it must be a label and a class. "
                "Quote a field that has a comma in it"
            )
    return [(line, row[0].strip(), row[1].strip()) for line, row in rows[1:]]


def _unmatched(present: Sequence[str], classes: ClassNames, rule: str, found: Mapping[str, set[int]]) -> str:
    lost = [label for label in present if label not in found]
    hint = _splits(present) or _decimals(present)
    best = f" (by {rule}, the best rule; not by it: {_five(lost)})" if found else ""
    named = [f"{index} {name}" for index, name in enumerate(classes.names[:5])]
    return "\n".join([
        f"{len(found)} of {len(present)} labels are classes of the model{best}.",
        f"The labels: {_five(present)}",
        f"The model's classes: {'; '.join(named)}{_more(classes.size - len(named))}",
        *([] if hint is None else [f"{hint}."]),
        "Ways out: --label-map CSV says which class each label is (header label,class);",
        "--classes FILE gives the model's class names, if those are not its own (one a line, in order, or JSON);",
        "--no-labels goes on without labels.",
    ])  # fmt: skip


def _five(texts: Sequence[str]) -> str:
    return "; ".join(texts[:5]) + _more(len(texts) - 5)


def _more(number: int) -> str:
    return f" … and {number} more" if number > 0 else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise LabelError(f"{path} is not UTF-8 text; save it with UTF-8 encoding") from None
    except OSError as error:
        raise LabelError(f"{path} cannot be read: {error.strerror}; check the path") from None
