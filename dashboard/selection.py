"""What has a person picked? One small value of ids, which is also the address of the page."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlencode

# Id of the dcc.Store that holds it. `writer` alone writes it; every view draws from it.
SELECTION = "selection"

# What the image overview can be coloured by; "plain" is for a model without a classifier.
COLOURS = ("class", "probability", "prediction", "plain")

# The maps of all heads of all images: by their attention between patches, or from and to CLS.
MAPS = ("patch", "cls")
# What the heads of a map can be coloured by; "density" is not the heads but how many there are.
MAP_COLOURS = ("layer", "pattern", "density")

# What the card of the selected head has: its numbers, or what switching parts of it off does.
CARDS = ("numbers", "pruning")
# The parts of a head that can be switched off together; the first is the default.
PARTS = ("all", "none", "patches", "cls", "crossing", "cls-related")
PARTS_WITHOUT_CLS = ("all", "none", "patches")


@dataclass(frozen=True)
class Selection:
    """Everything that is picked.

    Attributes:
        study: Its name.
        image: Id of an image, or None.
        layer, head: The head; there is always one.
        metric: The importance metric.
        colour: What the image overview is coloured by, of COLOURS.
        map: The map of attention patterns, of MAPS.
        map_colour: What its heads are coloured by, of MAP_COLOURS.
        card: What the card of the head has, of CARDS.
        part: What is switched off in the predictions that the card compares, of PARTS.
        token: The query token whose attention is shown on the image; None for CLS, or, in a model without
            CLS, for the mean over patches.
    """

    study: str
    image: str | None
    layer: int
    head: int
    metric: str
    colour: str
    map: str
    map_colour: str
    card: str
    part: str
    token: int | None

    @classmethod
    def from_data(cls, data: object) -> Self:
        """From what the browser holds.

        Raises:
            ValueError: It is not what `data()` gave.
        """
        if not isinstance(data, dict) or data.keys() != asdict(EXAMPLE).keys():
            raise ValueError(f"a selection has {', '.join(asdict(EXAMPLE))}; reload the page")
        wrong = [name for name, kinds in KINDS.items() if type(data[name]) not in kinds]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} of the selection cannot be what it is; reload the page")
        return cls(**data)

    def data(self) -> dict[str, Any]:
        """For the browser."""
        return asdict(self)

    @property
    def label(self) -> str:
        """The head's name, as L10·H0."""
        return head_label(self.layer, self.head)


KINDS: dict[str, tuple[type, ...]] = {
    "study": (str,),
    "image": (str, type(None)),
    "layer": (int,),
    "head": (int,),
    "metric": (str,),
    "colour": (str,),
    "map": (str,),
    "map_colour": (str,),
    "card": (str,),
    "part": (str,),
    "token": (int, type(None)),
}
EXAMPLE = Selection("demo", None, 0, 0, "probability", "class", "patch", "layer", "numbers", "all", None)


@dataclass(frozen=True)
class Facts:
    """What the selection must know of a study.

    Attributes:
        metrics, colours: That it has; the first is the default.
        maps: That it has, of MAPS; of a study without any the one whose place says so.
        interesting: Layer, head and image that are picked when nothing is asked for.
    """

    name: str
    num_layers: int
    num_heads: int
    num_tokens: int
    has_cls: bool
    image_ids: list[str]
    metrics: tuple[str, ...]
    colours: tuple[str, ...]
    maps: tuple[str, ...]
    interesting: tuple[int, int, str | None]

    @cached_property
    def image_indices(self) -> dict[str, int]:
        return {image: index for index, image in enumerate(self.image_ids)}

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """What can be picked by a button, by field of the selection."""
        return {
            "metric": self.metrics,
            "colour": self.colours,
            "map": self.maps,
            "map_colour": MAP_COLOURS,
            "card": CARDS,
            "part": PARTS if self.has_cls else PARTS_WITHOUT_CLS,
        }


def head_label(layer: int, head: int) -> str:
    return f"L{layer}·H{head}"


def default(facts: Facts) -> Selection:
    """What is picked when nothing is asked for: a head that matters, and an image on which it does."""
    layer, head, image = facts.interesting
    first = {field: values[0] for field, values in facts.choices.items()}
    return Selection(study=facts.name, image=image, layer=layer, head=head, token=None, **first)


# --- the address ---


def to_search(chosen: Selection) -> str:
    """The query string of the page's address. An empty image is "no image"; a missing one, the default."""
    words = {name: value for name, value in chosen.data().items() if name != "token" or value is not None}
    return "?" + urlencode(words | {"image": chosen.image or ""}, quote_via=quote, safe="/")


def asked_for(search: object) -> dict[str, str]:
    """The fields of a query string, whatever is in it; of a field given twice, the last."""
    text = search.removeprefix("?") if isinstance(search, str) else ""
    words = dict(parse_qsl(text, keep_blank_values=True))
    return {name: words[name] for name in KINDS if name in words}


def resolve(asked: Mapping[str, str], facts: Facts) -> tuple[Selection, list[str]]:
    """The selection that was asked for, as far as the study has it, and a line for what it has not."""
    fields: dict[str, Any] = {}
    problems = []
    for name, word in asked.items():
        value = _parsed(name, word)
        if _has(facts, name, value):
            fields[name] = value
        elif name != "study":
            problems.append(f"{name} {_short(word)} is not in {facts.name}, which has {_range(facts, name)}")
            fields |= {"image": None} if name == "image" else {}
    return replace(default(facts), **fields), problems


def fits(chosen: Selection, facts: Facts) -> bool:
    """Whether the study has everything that is picked."""
    return all(_has(facts, name, value) for name, value in chosen.data().items())


def _parsed(name: str, word: str) -> str | int | None:
    if KINDS[name][0] is int:
        return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else word
    return None if name == "image" and not word else word


def _has(facts: Facts, name: str, value: object) -> bool:
    match name:
        case "study":
            return value == facts.name
        case "image":
            return value is None or value in facts.image_indices
        case "token" if value is None:
            return True
    if name in facts.choices:
        return value in facts.choices[name]
    return _is_index(value, _size(facts, name))


def _size(facts: Facts, name: str) -> int:
    return {"layer": facts.num_layers, "head": facts.num_heads, "token": facts.num_tokens}[name]


def _range(facts: Facts, name: str) -> str:
    if name == "image":
        return f"{len(facts.image_ids):,} images"
    if name in facts.choices:
        return ", ".join(facts.choices[name])
    return f"{name}s 0 to {_size(facts, name) - 1}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


# --- the moves ---


def with_head(chosen: Selection, facts: Facts, layer: object, head: object) -> Selection:
    """That head picked; unchanged if the study has no such head."""
    if _is_index(layer, facts.num_layers) and _is_index(head, facts.num_heads):
        return replace(chosen, layer=int(layer), head=int(head))  # type: ignore[call-overload]
    return chosen


def with_rank(chosen: Selection, facts: Facts, rank: object) -> Selection:
    """The head at a place of the curve, which counts through all layers; unchanged off its ends."""
    if not _is_index(rank, facts.num_layers * facts.num_heads):
        return chosen
    return with_head(chosen, facts, *divmod(int(rank), facts.num_heads))  # type: ignore[call-overload]


def with_image(chosen: Selection, facts: Facts, index: object) -> Selection:
    """That image picked, or released if it was; unchanged if the study has no such image."""
    if not _is_index(index, len(facts.image_ids)):
        return chosen
    image = facts.image_ids[int(index)]  # type: ignore[call-overload]
    return replace(chosen, image=None if image == chosen.image else image)


def with_point(chosen: Selection, facts: Facts, place: object) -> Selection:
    """A head on an image picked, `place` counting through the heads of all images; the image released if both were."""
    num_heads = facts.num_layers * facts.num_heads
    if not _is_index(place, len(facts.image_ids) * num_heads):
        return chosen
    image, rank = divmod(int(place), num_heads)  # type: ignore[call-overload]
    there = with_rank(chosen, facts, rank)
    return with_image(chosen, facts, image) if there == chosen else replace(there, image=facts.image_ids[image])


def with_token(chosen: Selection, facts: Facts, token: object) -> Selection:
    """That query token pinned, or released if it was. CLS, where there is one, needs no pin."""
    default_token = 0 if facts.has_cls else None
    if not _is_index(token, facts.num_tokens) or token in (chosen.token, default_token):
        return replace(chosen, token=None)
    return replace(chosen, token=int(token))  # type: ignore[call-overload]


def with_choice(chosen: Selection, facts: Facts, field: str, value: str) -> Selection:
    """Another metric, colour, map, card or part; unchanged if the study does not have it."""
    changes: dict[str, Any] = {field: value} if value in facts.choices[field] else {}
    return replace(chosen, **changes)


def with_study(chosen: Selection, facts: Facts) -> Selection:
    """The default of another study, with every choice kept where it has it."""
    if facts.name == chosen.study:
        return chosen
    kept = default(facts)
    for field in facts.choices:
        kept = with_choice(kept, facts, field, getattr(chosen, field))
    return kept


def find_image(chosen: Selection, facts: Facts, text: str) -> tuple[Selection, str]:
    """The image whose id is, or alone contains, `text`; else the same selection and what to type instead."""
    text = text.strip()
    if not text or text in facts.image_indices:
        return (replace(chosen, image=text) if text else chosen), ""
    alike = [image for image in facts.image_ids if text.casefold() in image.casefold()]
    if len(alike) == 1:
        return replace(chosen, image=alike[0]), ""
    if not alike:
        return chosen, f"no image of {facts.name} has {_short(text)} in its id"
    return (
        chosen,
        f"{len(alike):,} images have {_short(text)} in their id, as {', '.join(alike[:3])}; type more of it",
    )


KEYS = ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "[", "]", "Escape")


def after_key(chosen: Selection, facts: Facts, key: object) -> Selection:
    """← →: the head before, after, through all layers. ↑ ↓: the layer. [ ]: the image. Escape: no image."""
    rank = chosen.layer * facts.num_heads + chosen.head
    match key:
        case "ArrowLeft":
            return with_rank(chosen, facts, rank - 1)
        case "ArrowRight":
            return with_rank(chosen, facts, rank + 1)
        case "ArrowUp":
            return with_head(chosen, facts, chosen.layer - 1, chosen.head)
        case "ArrowDown":
            return with_head(chosen, facts, chosen.layer + 1, chosen.head)
        case "[" | "]":
            return _next_image(chosen, facts, 1 if key == "]" else -1)
        case "Escape":
            return replace(chosen, image=None)
    return chosen


def _next_image(chosen: Selection, facts: Facts, step: int) -> Selection:
    """The next image in the study's order, from its end back to its beginning."""
    before = facts.image_indices[chosen.image] if chosen.image is not None else (-1 if step > 0 else 0)
    return replace(chosen, image=facts.image_ids[(before + step) % len(facts.image_ids)])


def _is_index(value: object, size: int) -> bool:
    """Whether `value`, straight from the browser, is one of 0 … size - 1. JSON has 3.0 for 3 at times."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < size and value == int(value)
