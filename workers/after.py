"""What is computed once all images are? The analyses that say "after": whole, or in pieces that are then joined."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from analyses.analysis import Analysis, resolve
from analyses.registry import ANALYSES
from precompute.unit import Arrays, Attrs, Part, Unit, gradients


def after() -> list[Analysis]:
    """All of them, each after those whose arrays it reads."""
    return [each for each in ANALYSES.values() if each.when == "after"]


def seconds_after(skip: frozenset[str], left_out: Collection[str], masks: bool, sizes: Mapping[str, int]) -> float:
    """About how long they take on two CPU cores, one after the other: those that the request and the model allow.

    Args:
        skip: Words of `--skip`.
        left_out: Arrays that the model cannot have.
        masks: Whether masks were given.
    """
    asked = [each for each in after() if each.skipped_by not in skip and (masks or "masks" not in each.needs)]
    return sum(each.seconds(sizes) for each in asked if not set(each.arrays) <= set(left_out))


def compute(analysis: Analysis, unit: Unit) -> tuple[Arrays, Attrs]:
    """What the function of an analysis makes of a unit: arrays by name, and root attributes."""
    with gradients("gradients" in analysis.needs, unit.open_model):
        found: Any = resolve(analysis.function)(unit)
    return found if isinstance(found, tuple) else (found, {})


def compute_whole(analysis: Analysis, unit: Unit) -> tuple[Arrays, Attrs]:
    """The analysis in one unit, of everything."""
    arrays, attrs = compute(analysis, unit)
    if not analysis.cut:
        return arrays, attrs
    part = Part(range(unit.images[0], unit.images[-1] + 1), range(unit.layers[0], unit.layers[-1] + 1), arrays)
    return join(analysis, unit, [part])


def join(analysis: Analysis, unit: Unit, parts: Iterable[Part]) -> tuple[Arrays, Attrs]:
    """The arrays of all parts of an analysis, and root attributes.

    Args:
        unit: Of everything.
        parts: Of all images and layers, in order; each is read once.
    """
    if analysis.join:
        found: Any = resolve(analysis.join)(unit, parts)
        return found if isinstance(found, tuple) else (found, {})
    return _put_together(analysis, unit.study.sizes, parts), {}


def _put_together(analysis: Analysis, sizes: Mapping[str, int], parts: Iterable[Part]) -> Arrays:
    """Arrays that are of images or layers, each part in its place."""
    whole: Arrays = {}
    for part in parts:
        for name, spec in analysis.arrays.items():
            if name not in part.arrays:
                continue
            array = part.arrays[name]
            if name not in whole:
                shape = [sizes.get(dim, size) for dim, size in zip(spec.dims, array.shape, strict=True)]
                whole[name] = np.empty(shape, array.dtype)
            places = {"image": part.images, "layer": part.layers}
            where = (slice(places[dim].start, places[dim].stop) if dim in places else slice(None) for dim in spec.dims)
            whole[name][tuple(where)] = array
    return whole


def rows_of_one_more(
    analysis: Analysis,
    wanted: Iterable[str],
    whole: Unit,
    one: Unit,
    arrays: Arrays,
    shape_of: Callable[[str], tuple[int, ...]],
) -> Arrays:
    """The part that one more image has of the analysis' arrays of images, one image on the image axis.

    Args:
        wanted: Names of the arrays, of those of images.
        whole: Of the study without it.
        one: Of the image alone, in the study with it.
        arrays: Of the image, by name, that are known already.
        shape_of: The shape of one image's part of an array.
    """
    if analysis.cut:
        found, _ = compute(analysis, one)
    elif analysis.one_more:
        found = resolve(analysis.one_more)(whole, arrays)
    else:
        found = {}
    return {n: found[n] if n in found else np.full(shape_of(n), analysis.arrays[n].fill) for n in wanted}
