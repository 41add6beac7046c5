"""Which images is it about? An image set as conditions that all hold, and as the text that the address has of them.

class:88,281 ; prediction:wrong ; p:0.2..0.6 ; id:dog ; lasso:jsd:1.5,2,3,2,3,4 ; entropy:3.2:0.1..0.3
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self, TypeGuard
from urllib.parse import quote, unquote

import shapely  # type: ignore[import-untyped]

MOST_TEXT = 4000  # characters, so that the address stays one that servers and chats take
MOST_CORNERS = 64
LEAST_LASSO = 1e-9  # across, in units of a layout
BETWEEN = ";"


@dataclass(frozen=True)
class Classes:
    """The true class is one of these, by index."""

    kind: ClassVar[str] = "class"
    classes: tuple[int, ...]

    @property
    def slot(self) -> str:
        return self.kind

    @property
    def words(self) -> str:
        return ",".join(map(str, self.classes))

    @classmethod
    def parse(cls, words: str) -> Self:
        found = tuple(dict.fromkeys(map(_whole, words.split(","))))
        return cls(found)


@dataclass(frozen=True)
class Prediction:
    """The most probable class is the true one, or is not; images without a label are in neither."""

    kind: ClassVar[str] = "prediction"
    right: bool

    @property
    def slot(self) -> str:
        return self.kind

    @property
    def words(self) -> str:
        return "right" if self.right else "wrong"

    @classmethod
    def parse(cls, words: str) -> Self:
        if words not in ("right", "wrong"):
            raise ValueError(f"prediction:{words} should be prediction:right or prediction:wrong")
        return cls(words == "right")


@dataclass(frozen=True)
class Probability:
    """P(target) is in a range, its ends included."""

    kind: ClassVar[str] = "p"
    low: float
    high: float

    @property
    def slot(self) -> str:
        return self.kind

    @property
    def words(self) -> str:
        return f"{_short(self.low)}..{_short(self.high)}"

    @classmethod
    def parse(cls, words: str) -> Self:
        return cls(*_range(words))


@dataclass(frozen=True)
class Ids:
    """The id contains a text; case does not matter."""

    kind: ClassVar[str] = "id"
    part: str

    @property
    def slot(self) -> str:
        return self.kind

    @property
    def words(self) -> str:
        return quote(self.part, safe="/ .-_")

    @classmethod
    def parse(cls, words: str) -> Self:
        if not words:
            raise ValueError("id: should have some of an image's id after it")
        return cls(unquote(words))


@dataclass(frozen=True)
class Lasso:
    """The image lies within a polygon of the overview.

    Attributes:
        vector: Of the layout that it was drawn on.
        corners: Its corners, (x, y) each, in the layout's own units.
    """

    kind: ClassVar[str] = "lasso"
    vector: str
    corners: tuple[tuple[float, float], ...]

    @property
    def slot(self) -> str:
        return self.kind

    @property
    def words(self) -> str:
        return f"{self.vector}:{','.join(_short(value) for corner in self.corners for value in corner)}"

    @classmethod
    def parse(cls, words: str) -> Self:
        vector, colon, values = words.partition(":")
        numbers = [_number(value) for value in values.split(",")] if colon else []
        if len(numbers) % 2 or not 6 <= len(numbers) <= 2 * MOST_CORNERS:
            raise ValueError(f"a lasso has x,y of 3 to {MOST_CORNERS} corners")
        return cls(vector, tuple(zip(numbers[::2], numbers[1::2], strict=True)))


@dataclass(frozen=True)
class Entropy:
    """The entropy of one head's attention strength is in a range, its ends included."""

    kind: ClassVar[str] = "entropy"
    layer: int
    head: int
    low: float
    high: float

    @property
    def slot(self) -> str:
        return f"{self.kind}:{self.layer}.{self.head}"

    @property
    def words(self) -> str:
        return f"{self.layer}.{self.head}:{_short(self.low)}..{_short(self.high)}"

    @classmethod
    def parse(cls, words: str) -> Self:
        place, _, span = words.partition(":")
        layer, _, head = place.partition(".")
        return cls(_whole(layer), _whole(head), *_range(span))


Condition = Classes | Prediction | Probability | Ids | Lasso | Entropy
KINDS: dict[str, type[Condition]] = {
    each.kind: each for each in (Classes, Prediction, Probability, Ids, Lasso, Entropy)
}


def text_of(conditions: Iterable[Condition]) -> str:
    return BETWEEN.join(f"{each.kind}:{each.words}" for each in conditions)


@lru_cache(maxsize=256)
def conditions_of(text: str) -> tuple[Condition, ...]:
    """The conditions that a text names.

    Raises:
        ValueError: It names none, with what would be right.
    """
    if len(text) > MOST_TEXT:
        raise ValueError(f"an image set of {len(text):,} letters; up to {MOST_TEXT:,} are read")
    found: tuple[Condition, ...] = ()
    for part in text.split(BETWEEN) if text else []:
        kind, colon, words = part.partition(":")
        if not colon or kind not in KINDS:
            raise ValueError(f"{part[:40]!r} is no condition; there are {', '.join(KINDS)}, each with : after it")
        found = _put(found, KINDS[kind].parse(words))
    return found


def with_condition(text: str, condition: Condition) -> str:
    """The set with one more condition; it takes the place of the one of its slot."""
    return text_of(_put(conditions_of(text), condition))


def without(text: str, slot: str) -> str:
    """The set without the condition of a slot."""
    return text_of(each for each in conditions_of(text) if each.slot != slot)


def with_class(text: str, index: int) -> str:
    """A class more, or, if it was one of them, one less."""
    had = next((each for each in conditions_of(text) if isinstance(each, Classes)), Classes(()))
    classes = tuple(each for each in had.classes if each != index)
    if len(classes) == len(had.classes):
        return with_condition(text, Classes((*classes, index)))
    return with_condition(text, replace(had, classes=classes)) if classes else without(text, had.slot)


def corners_of(drawn: Sequence[object]) -> tuple[tuple[float, float], ...]:
    """The corners of a lasso that was drawn as x, y, x, y, …, as few as keep its shape; none of what is no polygon."""
    if len(drawn) < 6 or len(drawn) % 2 or not all(map(is_number, drawn)):
        return ()
    outline = shapely.LineString(list(zip(drawn[::2], drawn[1::2], strict=True)))
    x0, y0, x1, y1 = outline.bounds
    room = max(x1 - x0, y1 - y0, LEAST_LASSO) / 1000
    while len(found := shapely.get_coordinates(outline.simplify(room, preserve_topology=False))) > MOST_CORNERS:
        room *= 1.5
    return tuple((float(x), float(y)) for x, y in found) if len(found) >= 3 else ()


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value`, straight from the browser, is a number that can be reckoned with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30  # NaN is not


def _put(conditions: tuple[Condition, ...], new: Condition) -> tuple[Condition, ...]:
    """A condition of a slot that is taken goes to its place, another to the end."""
    slots = [each.slot for each in conditions]
    if new.slot in slots:
        return tuple(new if each.slot == new.slot else each for each in conditions)
    return (*conditions, new)


def _whole(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 10):
        raise ValueError(f"{word[:20]!r} should be a whole number")
    return int(word)


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{word[:20]!r} should be a number")
    return value


def _range(words: str) -> tuple[float, float]:
    low, dots, high = words.partition("..")
    if not dots:
        raise ValueError(f"{words[:40]!r} should be a range, as 0.2..0.6")
    ends = _number(low), _number(high)
    return min(ends), max(ends)


def _short(value: float) -> str:
    """Four figures: an address is read by people too."""
    return f"{value:.4g}"
