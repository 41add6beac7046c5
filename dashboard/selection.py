"""What has a person picked? One small value of ids, which is also the address of the page."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlencode

from analyses.vocabulary import REGION_SETS, REGION_SETS_WITHOUT_CLS, WHOLE_HEAD
from dashboard.image_sets import (
    MOST_CORNERS,
    Classes,
    Condition,
    Entropy,
    Ids,
    Lasso,
    Prediction,
    Probability,
    conditions_of,
    is_number,
    with_class,
    with_condition,
    without,
)

# What the image overview can be coloured by, besides the numbers that packages have of images; "plain" is for a model
# without a classifier, and "importance" the number of heads that is picked as `metric`.
COLOURS = ("class", "probability", "prediction", "importance", "plain")

# Importance as a curve over all heads, or as a grid of layers and heads; and the order of the curve's heads.
CURVES = ("line", "grid")
SORTS = ("model", "importance")

# How the maps of all heads of all images are drawn, and coloured.
MAP_LOOKS = ("points", "density")
MAP_COLOURS = ("layer", "pattern", "importance")

# Which attention of the picked token is meant: where it looks, who looks at it, or both.
DIRECTIONS = ("both", "from", "to")

# Which of two panels that share a place on a narrow screen is there.
TABS = ("patterns", "strength")
THEMES = ("light", "dark")

MOST_IN_BASKET = 32
LEAST_TOP, MOST_TOP = 0.001, 100.0  # per cent


@dataclass(frozen=True)
class Selection:
    """Everything that is picked.

    Attributes:
        study: Its name.
        images: The image set, as text of conditions (dashboard/image_sets.py); "" is all images.
        image: Id of an image, or None.
        layer, head: The head; there is always one.
        metric: The number of heads, of analyses.registry.PICKED_NUMBERS: an importance metric, or one of a package.
        colour: What the image overview is coloured by, of COLOURS.
        curve: How importance is drawn, of CURVES.
        sort: The order of the curve's heads, of SORTS.
        regions: Which regions of the attention are switched off in the predictions that are compared, of
            vocabulary.REGION_SETS.
        basket: Heads that are pruned together, as "0.4,0.9"; "" is the selected head alone.
        map: The map of attention patterns, of vocabulary.MAPS.
        map_as: How it is drawn, of MAP_LOOKS.
        map_colour: What its heads are coloured by, of MAP_COLOURS.
        token: The token whose attention is shown on the image; None for CLS, or, in a model without CLS, for
            the mean over patches.
        direction: Of the token's attention, of DIRECTIONS.
        top: The strongest so many per cent of the attention values are shown.
        large: The panel that fills the screen, of `panels`, or "".
        tab: Which panels are seen where the screen is too narrow for all, of TABS.
        theme: Of THEMES.
    """

    study: str
    images: str
    image: str | None
    layer: int
    head: int
    metric: str
    colour: str
    curve: str
    sort: str
    regions: int
    basket: str
    map: str
    map_as: str
    map_colour: str
    token: int | None
    direction: str
    top: float
    large: str
    tab: str
    theme: str

    @classmethod
    def from_data(cls, data: object) -> Self:
        """From what the browser holds.

        Raises:
            ValueError: It is not what `data()` gave.
        """
        if not isinstance(data, dict) or data.keys() != KINDS.keys():
            raise ValueError(f"a selection has {', '.join(KINDS)}; reload the page")
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

    @property
    def basket_heads(self) -> tuple[tuple[int, int], ...]:
        """The heads in the basket, (layer, head) each, in the order in which they were put there."""
        return heads_of(self.basket)

    @property
    def heads_pruned(self) -> tuple[tuple[int, int], ...]:
        """The heads that are pruned together: those of the basket, or the selected one."""
        return self.basket_heads or ((self.layer, self.head),)


KINDS: dict[str, tuple[type, ...]] = {
    "study": (str,),
    "images": (str,),
    "image": (str, type(None)),
    "layer": (int,),
    "head": (int,),
    "metric": (str,),
    "colour": (str,),
    "curve": (str,),
    "sort": (str,),
    "regions": (int,),
    "basket": (str,),
    "map": (str,),
    "map_as": (str,),
    "map_colour": (str,),
    "token": (int, type(None)),
    "direction": (str,),
    "top": (float, int),
    "large": (str,),
    "tab": (str,),
    "theme": (str,),
}


@dataclass(frozen=True)
class Facts:
    """What the selection must know of a study.

    Attributes:
        metrics, colours: That it has; the first is the default.
        numbers: Numbers of heads of packages that it has, which can be picked where a metric is.
        maps: That it has, of vocabulary.MAPS; of a study without any the one whose place says so.
        vectors: What its images are laid out by.
        num_classes: Of the model's classifier; 0 without one.
        has_labels: Whether any image has a true class.
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
    vectors: tuple[str, ...]
    num_classes: int
    has_labels: bool
    interesting: tuple[int, int, str | None]
    numbers: tuple[str, ...] = field(default=(), kw_only=True)

    @cached_property
    def image_indices(self) -> dict[str, int]:
        return {image: index for index, image in enumerate(self.image_ids)}

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """What can be picked by a button, by field of the selection."""
        return {
            "metric": (*self.metrics, *self.numbers),
            "colour": self.colours,
            "curve": CURVES,
            "sort": SORTS,
            "regions": REGION_SETS if self.has_cls else REGION_SETS_WITHOUT_CLS,
            "map": self.maps,
            "map_as": MAP_LOOKS,
            "map_colour": MAP_COLOURS,
            "direction": DIRECTIONS,
            "large": ("", *panels()),
            "tab": TABS,
            "theme": THEMES,
        }


@cache
def panels() -> tuple[str, ...]:
    """The panels, any of which can fill the screen: those of the views, which read this module."""
    from dashboard.workspace import VIEWS

    return tuple(view.name for view in VIEWS)


def head_label(layer: int, head: int) -> str:
    return f"L{layer}·H{head}"


def default(facts: Facts) -> Selection:
    """What is picked when nothing is asked for: the most important head of the most typical image."""
    layer, head, image = facts.interesting
    first = {field: values[0] for field, values in facts.choices.items()} | {"regions": WHOLE_HEAD}
    return Selection(
        study=facts.name, images="", image=image, layer=layer, head=head, basket="", token=None, top=1.0, **first
    )


# --- the address ---

ALWAYS = ("study", "image", "layer", "head", "theme")  # in the address, as the page is about them


def to_search(chosen: Selection, facts: Facts) -> str:
    """The query string of the page's address: what is not as it would be anyway. An empty image is "no image"."""
    usual = default(facts).data()
    words = {name: value for name, value in chosen.data().items() if name in ALWAYS or value != usual[name]}
    words = {name: f"{value:g}" if name == "top" else value for name, value in words.items()}
    return "?" + urlencode(words | {"image": chosen.image or ""}, quote_via=quote, safe="/:,;.")


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
        why = _why_not(facts, name, value)
        if not why:
            fields[name] = value
        elif name != "study":
            problems.append(why)
            fields |= {"image": None} if name == "image" else {}
    return replace(default(facts), **fields), problems


def fits(chosen: Selection, facts: Facts) -> bool:
    """Whether the study has everything that is picked."""
    return not any(_why_not(facts, name, value) for name, value in chosen.data().items())


def _parsed(name: str, word: str) -> str | int | float | None:
    if KINDS[name][0] is int:
        return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else word
    if name == "top":
        try:
            return float(word)
        except ValueError:
            return word
    return None if name == "image" and not word else word


def _why_not(facts: Facts, name: str, value: Any) -> str:
    """Why the study does not have that; empty if it has."""
    match name:
        case "study":
            has, range_ = value == facts.name, facts.name
        case "image":
            has, range_ = value is None or value in facts.image_indices, f"{len(facts.image_ids):,} images"
        case "images":
            return _why_no_set(facts, value)
        case "basket":
            has, range_ = _has_heads(facts, value), f"L0·H0 to {head_label(facts.num_layers - 1, facts.num_heads - 1)}"
        case "top":
            has = isinstance(value, float | int) and LEAST_TOP <= value <= MOST_TOP
            range_ = f"{LEAST_TOP:g} to {MOST_TOP:g} per cent"
        case "layer" | "head" | "token":
            size = {"layer": facts.num_layers, "head": facts.num_heads, "token": facts.num_tokens}[name]
            has, range_ = _is_index(value, size) or (name == "token" and value is None), f"{name}s 0 to {size - 1}"
        case _:
            has, range_ = value in facts.choices[name], ", ".join(map(str, facts.choices[name]))
    return "" if has else f"{name} {_short(str(value))} is not in {facts.name}, which has {range_}"


def _why_no_set(facts: Facts, text: str) -> str:
    try:
        wrong = [each for each in (why_not(facts, found) for found in conditions_of(text)) if each]
    except ValueError as error:
        return f"images {_short(text)}: {error}"
    return "; ".join(wrong)


def why_not(facts: Facts, condition: Condition) -> str:
    """Why no image set of the study can have that condition; empty if it can."""
    match condition:
        case Classes(classes) if not facts.has_labels or max(classes) >= facts.num_classes:
            return f"{facts.name} has no labels" if not facts.has_labels else f"classes end at {facts.num_classes - 1}"
        case Prediction() if not facts.has_labels:
            return f"nobody knows what is predicted rightly: {facts.name} has no labels"
        case Probability() if not facts.num_classes:
            return f"the model of {facts.name} has no classifier"
        case Lasso(vector) if vector not in facts.vectors:
            return f"{_short(vector)} is no layout of {facts.name}, which has {', '.join(facts.vectors)}"
        case Entropy(layer, head) if layer >= facts.num_layers or head >= facts.num_heads:
            return f"{head_label(layer, head)} is not in {facts.name}"
    return ""


def heads_of(basket: str) -> tuple[tuple[int, int], ...]:
    """The heads that a basket's text names; ValueError if it names none."""
    places = [part.split(".") for part in basket.split(",")] if basket else []
    return tuple((int(layer), int(head)) for layer, head in places)


def _has_heads(facts: Facts, basket: object) -> bool:
    try:
        heads = heads_of(str(basket))
    except ValueError:
        return False
    inside = all(_is_index(layer, facts.num_layers) and _is_index(head, facts.num_heads) for layer, head in heads)
    return inside and len(heads) == len(set(heads)) <= MOST_IN_BASKET


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


def with_token(chosen: Selection, facts: Facts, token: object, direction: object = "both") -> Selection:
    """That token pinned, or released if it was. CLS, where there is one, needs no pin."""
    if direction not in DIRECTIONS:
        return chosen
    default_token = 0 if facts.has_cls else None
    same = (token, direction) == (chosen.token if chosen.token is not None else default_token, chosen.direction)
    if not _is_index(token, facts.num_tokens) or same:
        return replace(chosen, token=None, direction="both")
    pinned = None if token == default_token else int(token)  # type: ignore[call-overload]
    return replace(chosen, token=pinned, direction=direction)


def with_top(chosen: Selection, per_cent: object) -> Selection:
    """Another threshold; unchanged by what is no share."""
    if not is_number(per_cent) or not LEAST_TOP <= per_cent <= MOST_TOP:
        return chosen
    return replace(chosen, top=float(f"{per_cent:.4g}"))


def with_choice(chosen: Selection, facts: Facts, field: str, value: object) -> Selection:
    """Another metric, colour, map …; unchanged if the study does not have it. Values of buttons are text."""
    if KINDS[field][0] is int and isinstance(value, str):
        value = _parsed(field, value)
    changes: dict[str, Any] = {field: value} if value in facts.choices[field] else {}
    return replace(chosen, **changes)


def with_large(chosen: Selection, facts: Facts, panel: object) -> Selection:
    """That panel on the whole screen, or back among the others if it was."""
    return with_choice(chosen, facts, "large", "" if panel == chosen.large else panel)


def with_basket(chosen: Selection, facts: Facts, layer: object, head: object) -> Selection:
    """That head in the basket, or out of it if it was there; unchanged when the basket is full."""
    if not (_is_index(layer, facts.num_layers) and _is_index(head, facts.num_heads)):
        return chosen
    place = (int(layer), int(head))  # type: ignore[call-overload]
    heads = [each for each in chosen.basket_heads if each != place]
    if len(heads) == len(chosen.basket_heads):
        heads.append(place)
    if len(heads) > MOST_IN_BASKET:
        return chosen
    return replace(chosen, basket=",".join(f"{layer}.{head}" for layer, head in heads))


def with_study(chosen: Selection, facts: Facts) -> Selection:
    """The default of another study, with every choice kept where it has it."""
    if facts.name == chosen.study:
        return chosen
    kept = replace(default(facts), top=chosen.top)
    for name in facts.choices:
        kept = with_choice(kept, facts, name, getattr(chosen, name))
    return kept


# --- the image set ---


def within(chosen: Selection, facts: Facts, condition: Condition) -> Selection:
    """The set with that condition too; unchanged if no set of the study can have it."""
    if why_not(facts, condition):
        return chosen
    return replace(chosen, images=with_condition(chosen.images, condition))


def with_class_toggled(chosen: Selection, facts: Facts, index: object) -> Selection:
    """A class more in the set, or, if it was there, one less."""
    if not facts.has_labels or not _is_index(index, facts.num_classes):
        return chosen
    return replace(chosen, images=with_class(chosen.images, int(index)))  # type: ignore[call-overload]


def with_prediction(chosen: Selection, facts: Facts, verdict: object) -> Selection:
    """The images that are predicted "right" or "wrong"; all again if they were."""
    if verdict not in ("right", "wrong"):
        return chosen
    condition = Prediction(verdict == "right")
    if condition in conditions_of(chosen.images):
        return replace(chosen, images=without(chosen.images, condition.slot))
    return within(chosen, facts, condition)


def with_probability(chosen: Selection, facts: Facts, span: object) -> Selection:
    """The images whose P(target) is in a range; all again if that is 0 to 1."""
    if not _are_numbers(span, 2):
        return chosen
    low, high = sorted(map(float, span))  # type: ignore[call-overload]
    if low <= 0 and high >= 1:
        return replace(chosen, images=without(chosen.images, Probability.kind))
    return within(chosen, facts, Probability(low, high))


def with_lasso(chosen: Selection, facts: Facts, vector: str, corners: Sequence[tuple[float, float]]) -> Selection:
    """The images within a polygon of the overview; unchanged by what is none."""
    if not 3 <= len(corners) <= MOST_CORNERS:
        return chosen
    return within(chosen, facts, Lasso(vector, tuple((_figures(x), _figures(y)) for x, y in corners)))


def with_entropy(chosen: Selection, facts: Facts, span: object) -> Selection:
    """The images on which the selected head's entropy is in a range; without one, whatever it is."""
    if not _are_numbers(span, 2):
        return replace(chosen, images=without(chosen.images, Entropy(chosen.layer, chosen.head, 0, 0).slot))
    low, high = sorted(map(_figures, span))  # type: ignore[call-overload]
    return within(chosen, facts, Entropy(chosen.layer, chosen.head, low, high))


def without_condition(chosen: Selection, slot: object) -> Selection:
    """The set without the condition of a slot."""
    return replace(chosen, images=without(chosen.images, str(slot)))


def without_last(chosen: Selection) -> Selection:
    """The set before its last condition."""
    conditions = conditions_of(chosen.images)
    return without_condition(chosen, conditions[-1].slot) if conditions else chosen


def find_image(chosen: Selection, facts: Facts, text: str) -> tuple[Selection, str]:
    """The image whose id is, or alone contains, `text`; of several the set; of none a line that says so."""
    text = text.strip()
    if not text or text in facts.image_indices:
        return (replace(chosen, image=text) if text else chosen), ""
    alike = [image for image in facts.image_ids if text.casefold() in image.casefold()]
    if not alike:
        return chosen, f"no image of {facts.name} has {_short(text)} in its id"
    if len(alike) == 1:
        return replace(chosen, image=alike[0]), ""
    return within(chosen, facts, Ids(text[:100])), ""


# --- keys ---


def after_key(chosen: Selection, facts: Facts, key: object, among: Sequence[int] | None = None) -> Selection:
    """← →: the head before, after, through all layers. ↑ ↓: the layer. [ ]: the image. b: basket. u: the set before.

    Escape takes back one thing after the other: the large panel, the token, the image, the set.

    Args:
        among: Indices of the image set's images, ascending, through which [ and ] go; None is all.
    """
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
            return _next_image(chosen, facts, 1 if key == "]" else -1, among)
        case "b":
            return with_basket(chosen, facts, chosen.layer, chosen.head)
        case "u":
            return without_last(chosen)
        case "Escape" if chosen.large:
            return replace(chosen, large="")
        case "Escape" if chosen.token is not None or chosen.direction != "both":
            return replace(chosen, token=None, direction="both")
        case "Escape" if chosen.image is not None:
            return replace(chosen, image=None)
        case "Escape":
            return replace(chosen, images="")
    return chosen


def _next_image(chosen: Selection, facts: Facts, step: int, among: Sequence[int] | None) -> Selection:
    """The next image of the set in the study's order, from its end back to its beginning."""
    every: Sequence[int] = range(len(facts.image_ids)) if among is None else among
    if not len(every):
        return chosen
    if chosen.image is None:
        return replace(chosen, image=facts.image_ids[every[0 if step > 0 else -1]])
    now = facts.image_indices[chosen.image]
    place = bisect_right(every, now) if step > 0 else bisect_left(every, now) - 1
    return replace(chosen, image=facts.image_ids[every[place % len(every)]])


def _is_index(value: object, size: int) -> bool:
    """Whether `value`, straight from the browser, is one of 0 … size - 1. JSON has 3.0 for 3 at times."""
    return is_number(value) and 0 <= value < size and value == int(value)


def _are_numbers(values: object, count: int) -> bool:
    """Whether `values`, straight from the browser, are so many finite numbers."""
    return isinstance(values, list) and len(values) == count and all(map(is_number, values))


def _figures(value: float) -> float:
    """With four figures, as the address has it."""
    return float(f"{value:.4g}")
