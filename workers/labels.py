"""Which class of the model is each label? The first rule under which every label has a class is used.

A label without a class is an error, never class 0: a wrong class makes every figure that needs one wrong.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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

    @property
    def size(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class LabelMatch:
    """The class of every image, and how it was found."""

    index: NDArray[np.int32]  # (image,), UNKNOWN where there is no label
    rule: str  # "label map", "wnids", "class names", "class indices" or "no labels"


def match_labels(labels: Sequence[str | None], classes: ClassNames, mapping: Path | None = None) -> LabelMatch:
    """The class index of each label.

    A label map, if given, decides alone. Otherwise these rules are tried in order, and one counts only if it
    has a class for every label that is there: WordNet ids; class names (see `_by_name`); indices from 0.

    Args:
        labels: One for each image; None where there is none.
        mapping: A CSV with header `label,class`: class is an index, a WordNet id or a name of the model, or
            empty for "none of the model's classes".
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
    return LabelMatch(np.array(index, dtype=np.int32), rule)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names in the order of the model's output: a text file with one name a line, or a JSON list.

    Raises:
        LabelError: The file cannot be read, is neither, or has an empty name in it.
    """
    text = _text(path)
    if path.suffix.lower() == ".json" or text.lstrip().startswith("["):
        try:
            names = json.loads(text)
        except ValueError as error:
            raise LabelError(f"{path} is not JSON ({error}); give a JSON list, or one name a line") from None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise LabelError(f"{path} is JSON, but no list of strings; give one name a class, in order")
    else:
        names = text.rstrip().splitlines()
    names = [name.strip() for name in names]
    if not names:
        raise LabelError(f"{path} has no class names; give one a line, in the order of the model's output")
    if "" in names:
        raise LabelError(f"name {names.index('') + 1} in {path} is empty, so later ones may be out of place; name it")
    return tuple(names)


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
    best = f" (by {rule}, the best rule; not by it: {_five(lost)})" if found else ""
    named = [f"{index} {name}" for index, name in enumerate(classes.names[:5])]
    return "\n".join([
        f"{len(found)} of {len(present)} labels are classes of the model{best}.",
        f"The labels: {_five(present)}",
        f"The model's classes: {'; '.join(named)}{_more(classes.size - len(named))}",
        "Ways out: --label-map CSV says which class each label is (header label,class);",
        "--classes FILE gives the model's class names, if those are not its own (one a line, in order);",
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
