"""How are the things called that a person can pick, and in which order do they come? Each is written once, here.

Computing, the store, the jobs, the page and the command line take names, titles and order from here; the page's scripts
get them from the page.
"""

from dataclasses import dataclass
from enum import Flag, auto

from analyses.analysis import Need

# --- importance, and other numbers of a head ---


@dataclass(frozen=True)
class HeadNumber:
    """One number of each head: on each image, or, where `per_image` is false, of the whole study.

    Attributes:
        name: In addresses and on the axis `metric`; of an array that has one number a head, the array's.
        title: On buttons and in tables.
        axis: What is measured, for axes and colour bars.
        reading: How to read a higher or lower value.
        array: Where it is, of analyses.registry.ARRAYS.
        metric: Its name on that array's axis `metric`, if it has one.
        per_image: Whether each image has its own.
        signed: Whether zero is in the middle of the scale, even if no value is negative.
        curve: The array that the curve of all heads shows instead; empty for `array` itself.
        curve_axis, curve_reading: The same as `axis` and `reading` for that.
        pruned_reading: How to read it where parts of a head are pruned.
        needs: What a model must have for it, of analyses.analysis.Need.
    """

    name: str
    title: str
    axis: str
    reading: str
    array: str = "importance"
    metric: str | None = None
    per_image: bool = True
    signed: bool = False
    curve: str = ""
    curve_axis: str = ""
    curve_reading: str = ""
    pruned_reading: str = ""
    needs: tuple[Need, ...] = ()

    @property
    def drawn(self) -> str:
        """Name of what a curve or bars show of it: of the probability, what is left of it."""
        return self.curve or self.name


# The importance metrics, in the order of the axis `metric` and of the buttons.
METRICS: dict[str, HeadNumber] = {
    each.name: each
    for each in (
        HeadNumber(
            "probability",
            "Probability",
            "drop of P(target)",
            "P(target) lost when a head is pruned.",
            metric="probability",
            needs=("classifier",),
            signed=True,
            # The paper plots the probability that is left, as more intuitive than the difference (Sec. 5.2.4).
            curve="pruned_probability",
            curve_axis="P(target), head pruned",
            curve_reading="P(target) with one head pruned; low: it matters.",
            pruned_reading="P(target) with the hatched part pruned; dashed: none. Low: it matters.",
        ),
        HeadNumber(
            "jsd",
            "JSD",
            "JSD, bits",
            "How far one head's pruning moves the prediction; high: it matters.",
            metric="jsd",
            needs=("classifier",),
            pruned_reading="How far pruning the hatched part moves the prediction; high: it matters.",
        ),
        HeadNumber(
            "cls_distance",
            "CLS distance",
            "cosine distance",
            "How far one head's pruning turns its layer's output for CLS; high: it matters.",
            metric="cls_distance",
            needs=("cls",),
            pruned_reading="How far pruning the hatched part turns the output for CLS; high: it matters.",
        ),
        HeadNumber(
            "patch_distance",
            "Patch distance",
            "cosine distance",
            "How far one head's pruning turns its layer's output for patches; high: it matters.",
            metric="patch_distance",
            pruned_reading="How far pruning the hatched part turns that for patches; high: it matters.",
        ),
    )
}
# What an image's vector over all heads can hold, by which images are laid out (Sec. 5.1, 6.1).
VECTORS = ("pruned_probability", *METRICS)

TOP_CLASSES = 5  # most probable classes that are stored of a pruned prediction: the paper's Fig. 1 B3 shows five

# --- regions of a head's attention matrix ---


class Regions(Flag):
    """Parts of a head's attention matrix, source → target (query → key). Any of the 16 sets of them can be pruned."""

    NONE = 0
    CLS_CLS = auto()
    CLS_PATCHES = auto()
    PATCHES_CLS = auto()
    PATCHES_PATCHES = auto()
    CROSSING = CLS_PATCHES | PATCHES_CLS
    CLS_RELATED = CLS_CLS | CROSSING
    ALL = CLS_RELATED | PATCHES_PATCHES


# The four regions by their bits, as they lie in the matrix.
REGIONS: dict[int, str] = {
    Regions.CLS_CLS.value: "CLS→CLS",
    Regions.CLS_PATCHES.value: "CLS→patches",
    Regions.PATCHES_CLS.value: "patches→CLS",
    Regions.PATCHES_PATCHES.value: "patches→patches",
}
WHOLE_HEAD: int = Regions.ALL.value
# The six modes of the paper's Fig. 4B, by number: none, all, patches alone, CLS alone, the crossings, all of CLS.
MODES: tuple[int, ...] = tuple(
    each.value
    for each in (
        Regions.NONE,
        Regions.ALL,
        Regions.PATCHES_PATCHES,
        Regions.CLS_CLS,
        Regions.CROSSING,
        Regions.CLS_RELATED,
    )
)
# All sets of regions; those of a model that reads no CLS.
REGION_SETS = tuple(range(WHOLE_HEAD + 1))
REGION_SETS_WITHOUT_CLS: tuple[int, ...] = (Regions.NONE.value, Regions.PATCHES_PATCHES.value, WHOLE_HEAD)


def regions_title(regions: int, heads: int = 1) -> str:
    """What a set of regions is called, as "CLS→CLS, patches→CLS" or "whole head"; of several `heads`, their regions."""
    named = {
        Regions.NONE.value: "nothing",
        WHOLE_HEAD: "whole head" if heads == 1 else "whole heads",
        Regions.CROSSING.value: "CLS↔patches",
        Regions.CLS_RELATED.value: "all of CLS",
    }
    return named.get(regions) or ", ".join(title for bit, title in REGIONS.items() if regions & bit)


# --- patterns and maps ---

# Of attention between patches (Fig. 13 A–M), in the order of the axis `pattern`.
PATCH_PATTERNS = (
    "self",
    "left",
    "right",
    "above",
    "below",
    "several above",
    "several below",
    "several above and below",
    "mirrored",
    "row before",
    "row after",
    "vertical",
    "block",
)
# Of attention from and to CLS (Fig. 12 P, Q, R), in the order of the axis `cls_pattern`.
CLS_PATTERNS = ("CLS→CLS", "patches→CLS", "CLS→few patches")
MIXED = "mixed"  # a head with no one pattern; -1 in the arrays


@dataclass(frozen=True)
class AttentionMap:
    """A map of all heads of all images by a part of their attention, and the patterns of that part.

    Attributes:
        title: Of the part.
        layout: Array of the places of heads.
        patterns: Array of the names of patterns.
        pattern: Array of each head's pattern.
        score: Array of each head's score of each pattern.
    """

    title: str
    layout: str
    patterns: str
    pattern: str
    score: str


# The first is picked when nothing is asked for.
MAPS = {
    "patch": AttentionMap("patches", "patch_layout", "pattern", "pattern_name", "pattern_score"),
    "cls": AttentionMap("CLS", "cls_layout", "cls_pattern", "cls_pattern_name", "cls_pattern_score"),
}

# --- what can be said of a model where no file says it, and left out of a study ---

POOLS = ("token", "avg", "avgmax", "max", "map")  # how the head reads the tokens
# Whether the outputs are classes of which one is true of an image; which of two sets of weights that a checkpoint has.
OUTPUTS = {"auto": "auto", "classes": "classes, one is true", "other": "something else"}
WEIGHTS = {"auto": "auto", "ema": "averaged (EMA)", "plain": "plain"}
ATTENTION = ("auto", "stored", "rebuilt")  # whether the matrices are stored
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest")  # how pictures are resized
LEAST_CROP = 0.1  # share of the resized side: a tenth means resizing to ten times the input
# Sets of classes that can be named in place of a file of names: timm has their names and WordNet ids.
NAMED_CLASSES = ("imagenet-1k", "imagenet-12k", "imagenet-21k-miil", "imagenet-21k-goog", "imagenet-22k")
SKIPPABLE = ("patterns",)  # what a study can do without, by the name that --skip takes
