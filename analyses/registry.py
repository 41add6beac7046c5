"""Which analyses are there? Every file of this package with an ANALYSIS, and those that installed packages declare.

A package declares its own by an entry point of the group `headscope.analyses` that names an Analysis; see
docs/extending.md. One that cannot be used is left out and listed in PROBLEMS: it must not take the server with it.
"""

import logging
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules

import analyses
from analyses.analysis import Analysis
from analyses.arrays import ArraySpec
from analyses.numbers import head_numbers, image_numbers, is_of_a_package
from analyses.vocabulary import METRICS, HeadNumber

GROUP = "headscope.analyses"
_ORDER = ("start", "pass", "after", "request")

# Of entry points that cannot be used: their names, and why.
PROBLEMS: dict[str, str] = {}

_log = logging.getLogger(__name__)


def own() -> Iterator[Analysis]:
    """The analyses of this package."""
    for module in iter_modules(analyses.__path__, "analyses."):
        declared = getattr(import_module(module.name), "ANALYSIS", None)
        if declared is not None:
            yield declared


def of_packages(known: Iterable[Analysis], points: Iterable[EntryPoint]) -> Iterator[Analysis]:
    """The analyses that entry points name, in the order of their names; problems are noted in PROBLEMS.

    Args:
        known: Analyses whose names are taken.
    """
    names = {each.name for each in known}
    arrays = {array for each in known if each.when != "request" for array in each.arrays}
    for point in sorted(points, key=lambda each: each.name):
        try:
            declared = point.load()
            _refuse(declared, names, arrays)
        except Exception as error:  # noqa: BLE001  whatever another package does, it is left out and named
            PROBLEMS[point.name] = f"{point.value}: {error}"
            _log.warning("analysis %s is left out: %s", point.name, PROBLEMS[point.name])
            continue
        names.add(declared.name)
        arrays |= set(declared.arrays) if declared.when != "request" else set()
        yield declared


def _refuse(declared: object, names: set[str], arrays: set[str]) -> None:
    """Refuse what another package may not declare.

    Raises:
        ValueError: The message says what is wrong and what would be right.
    """
    if not isinstance(declared, Analysis):
        raise ValueError(f"it is a {type(declared).__name__}; name an analyses.Analysis")  # noqa: TRY004
    namespace, colon, _ = declared.name.partition(":")
    if not (colon and namespace.isidentifier()):
        raise ValueError(f"its name {declared.name!r} has no namespace; call it PACKAGE:{declared.name}")
    apart = declared.when == "request"
    if wrong := [array for array in declared.arrays if not (apart or array.startswith(f"{namespace}:"))]:
        raise ValueError(f"array {wrong[0]!r} is not of its namespace; call it {namespace}:{wrong[0]}")
    if declared.name in names or (not apart and arrays & set(declared.arrays)):
        raise ValueError(f"{declared.name!r}, or an array of it, is declared already")
    if declared.when in ("start", "pass"):
        raise ValueError(f'it is computed at {declared.when!r}; only "after" and "request" are open to packages')


def _ordered(declared: Iterable[Analysis]) -> list[Analysis]:
    """By when they are computed, each after those whose arrays it reads.

    Raises:
        ValueError: Some read each other's arrays in a circle.
    """
    waiting = sorted(declared, key=lambda each: (_ORDER.index(each.when), ":" in each.name, each.name))
    ordered: list[Analysis] = []
    while waiting:
        missing = {array for each in waiting if each.when != "request" for array in each.arrays}
        ready = [each for each in waiting if not (missing - set(each.arrays)) & set(each.reads)]
        if not ready:
            raise ValueError(f"{', '.join(each.name for each in waiting)} read each other's arrays in a circle")
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered


def _all() -> dict[str, Analysis]:
    ours = list(own())
    return {each.name: each for each in _ordered([*ours, *of_packages(ours, entry_points(group=GROUP))])}


ANALYSES: dict[str, Analysis] = _all()
# Every array that a study can have, by name. What is computed on request has arrays of its own, by analysis: they lie
# apart from the study's, so that their names may be the same.
ARRAYS: dict[str, ArraySpec] = {
    name: spec for each in ANALYSES.values() if each.when != "request" for name, spec in each.arrays.items()
}
# Every number of a head that a study can have, and of these what can be picked where a metric is: importance, and the
# numbers of other packages. Headscope's own others have views of their own.
HEAD_NUMBERS: dict[str, HeadNumber] = METRICS | head_numbers(ARRAYS)
PICKED_NUMBERS = {name: each for name, each in HEAD_NUMBERS.items() if name in METRICS or is_of_a_package(name)}
# Every number of an image that a study can have and that has a title.
IMAGE_NUMBERS: dict[str, ArraySpec] = image_numbers(ARRAYS)


def on_request() -> dict[str, Analysis]:
    """The analyses that people ask for, of a published study, by name."""
    return {name: each for name, each in ANALYSES.items() if each.when == "request"}


def analysis_of(array: str) -> Analysis:
    """The analysis that an array of a study is of.

    Raises:
        KeyError: None has an array of that name.
    """
    for each in ANALYSES.values():
        if each.when != "request" and array in each.arrays:
            return each
    raise KeyError(f"no analysis has an array {array!r}")
