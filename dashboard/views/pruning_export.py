"""What of pruned heads can leave? The bars and the predictions: their pictures, numbers and Python lines."""

import math
from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from analyses.vocabulary import METRICS, MODES, REGIONS, TOP_CLASSES, Regions
from dashboard.data import StudyFacts
from dashboard.exports import Columns, Export
from dashboard.graphs import figure
from dashboard.pruned import Pruning, is_custom, name_of, requests_of
from dashboard.selection import Selection
from dashboard.theme import Palette, palette
from dashboard.views.pruning import NAME, NO_CLASSIFIER, Bars, brief, class_name, label, results_of
from dashboard.words import short_name
from jobs.client import Desk
from store.errors import StoreError

Numbers = Callable[[Pruning, Selection], Columns]
Lines = Callable[[Selection, int], str]
Figure = Callable[[Pruning, StudyFacts, Selection], go.Figure]


def exports(desk: Desk) -> tuple[Export, ...]:
    """The bars and the predictions; `desk` has the results."""

    def of(name: str, words: str, numbers: Numbers, lines: Lines, figure: Figure) -> Export:
        return Export(
            NAME,
            name,
            words,
            lambda known, chosen: numbers(result_of(known, chosen, desk), by_importance(known, chosen)),
            lambda known, chosen: python(known, by_importance(known, chosen), lines),
            "figure",
            lambda known, chosen: figure(result_of(known, chosen, desk), known, by_importance(known, chosen)),
        )

    return (
        of("pruning", "Pruned in parts", bars_numbers, bars_lines, bars_figure),
        of("predictions", "Predictions", predictions_numbers, predictions_lines, predictions_figure),
    )


def by_importance(known: StudyFacts, chosen: Selection) -> Selection:
    """The same with an importance metric: pruning tells nothing of another number, and shows the first metric."""
    return chosen if chosen.metric in known.metrics else replace(chosen, metric=known.metrics[0])


def result_of(known: StudyFacts, chosen: Selection, desk: Desk) -> Pruning:
    """What was found of the heads that are pruned together.

    Raises:
        StoreError: They were not pruned yet.
    """
    results = results_of(known, requests_of(known, chosen), desk)
    there = [result for result in results if result is not None]
    if not there or len(there) < len(results):
        where = "on these images" if chosen.image is None else f"on {chosen.image}"
        raise StoreError(f"{label(chosen)}: not pruned {where} yet; wait for the bars on the page, then export them")
    return Pruning.joined(known, there)


def bars_numbers(pruning: Pruning, chosen: Selection) -> Columns:
    """The metric by regions; the probability as what is left of it, as it is drawn."""
    effects = [pruning.effect(chosen.metric, regions) for regions in pruning.regions]
    return {
        "regions": pruning.regions,
        "name": [name_of(regions) for regions in pruning.regions],
        measured(chosen.metric): [effect.mean for effect in effects],
        "sd": [effect.sd for effect in effects],
        "counted": [effect.counted for effect in effects],
    }


def predictions_numbers(pruning: Pruning, chosen: Selection) -> Columns:
    """Of one image the classes that are among the first five, before or after; of several, each image's first."""
    if pruning.images > 1:
        firsts = [pruning.first_before, pruning.first_after(chosen.regions)]
        told = [np.full(pruning.images, -1) if first is None else first for first in firsts]
        return {"image": pruning.image_ids, "before": told[0], "after": told[1]}
    before, after = dict(pruning.top_before), dict(pruning.after(chosen.regions))
    classes = list(before | after)
    missing = float("nan")
    return {
        "class": classes,
        "before": [before.get(each, missing) for each in classes],
        "after": [after.get(each, missing) for each in classes],
    }


def measured(metric: str) -> str:
    """Name of the array of a result that is drawn of a metric."""
    return METRICS[metric].drawn


def python(known: StudyFacts, chosen: Selection, lines: Lines) -> str:
    """Lines that give the same numbers; `numbers` are they."""
    requests = requests_of(known, chosen)
    heads = sorted(set(chosen.heads_pruned))
    images = [chosen.image] if chosen.image is not None else list(requests[0].images) if requests else []
    named = "study.image_ids" if images == known.image_ids else repr(images)
    asked = [list(request.regions) for request in requests]
    return f"""import headscope
import numpy as np

study = headscope.open_study({known.name!r})
images = {named}
heads = {heads!r}  # (layer, head), switched off together
# Sums of CLS→CLS 1, CLS→patches 2, patches→CLS 4, patches→patches 8, as they were asked for on the page.
asked = {asked!r}
found = [study.derived("prune", {{"images": images, "heads": heads, "regions": each}}) for each in asked]
regions = [each for several in asked for each in several]
{lines(chosen, len(images))}"""


def bars_lines(chosen: Selection, images: int) -> str:
    """The end of the lines, for the bars."""
    name = measured(chosen.metric)
    last = "[:, -1]  # in the last of their layers" if chosen.metric.endswith("distance") else ""
    return f"""values = np.concatenate([each.read({name!r}) for each in found]){last}
# (regions, image), NaN where there is no number
counted = np.isfinite(values).sum(axis=1)
mean = np.nansum(values, axis=1) / np.where(counted, counted, np.nan)
sd = np.sqrt(np.nansum((values - mean[:, None]) ** 2, axis=1) / np.where(counted > 1, counted, np.nan))
names = {[name_of(each) for each in (*MODES, *([chosen.regions] if is_custom(chosen.regions) else []))]!r}
numbers = {{"regions": regions, "name": names, {name!r}: mean, "sd": sd, "counted": counted}}
"""


def predictions_lines(chosen: Selection, images: int) -> str:
    """The same for the predictions."""
    opening = f"""row = regions.index({chosen.regions})
top_class, top_p = (np.concatenate([each.read(name) for each in found]) for name in ("top_class", "top_probability"))
rows = [study.image_index(image) for image in images]
p = study.read("probability", rows)  # with nothing pruned
"""
    if images > 1:
        return f"""{opening}known = np.isfinite(p).all(axis=1)
before = np.where(known, np.where(known[:, None], p, 0).argmax(axis=1), -1)
after = np.where(np.isfinite(top_p[row]).all(axis=-1), top_class[row][:, 0], -1)
numbers = {{"image": images, "before": before, "after": after}}
"""
    return f"""{opening}order = np.argsort(-p[0], kind="stable")[:{TOP_CLASSES}]
before = dict(zip(order.tolist(), p[0][order].tolist()))
after = dict(zip(top_class[row, 0].tolist(), top_p[row, 0].tolist()))
classes = list(before | after)
numbers = {{
    "class": classes,
    "before": [before.get(each, np.nan) for each in classes],
    "after": [after.get(each, np.nan) for each in classes],
}}
"""


def bars_figure(pruning: Pruning, known: StudyFacts, chosen: Selection) -> go.Figure:
    """The bars, with the matrix under each, as on the page."""
    colours, bars = palette(chosen.theme), Bars.of(pruning, chosen.metric)
    effects = list(bars.effects.values())
    spread = [effect.sd if math.isfinite(effect.sd) else None for effect in effects]
    trace = go.Bar(
        x=list(range(len(effects))),
        y=[effect.mean for effect in effects],
        width=0.6,
        text=[brief(effect.mean) for effect in effects],
        textposition="outside",
        cliponaxis=False,
        marker={"color": [colours.accent if each == chosen.regions else colours.muted for each in pruning.regions]},
        error_y={"array": spread, "color": colours.text, "thickness": 1} if any(spread) else None,
    )
    shapes = [
        shape for place, regions in enumerate(pruning.regions) for shape in _glyph_shapes(place, regions, colours)
    ]
    if bars.reference is not None and math.isfinite(bars.reference):
        line = {"color": colours.text, "dash": "dash", "width": 1}
        shapes.append(
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": bars.reference,
                "y1": bars.reference,
                "line": line,
            }
        )
    return figure(
        colours,
        [trace],
        shapes=shapes,
        xaxis={"showticklabels": False, "range": [-0.6, len(effects) - 0.4], "showgrid": False, "zeroline": False},
        yaxis={"title": {"text": bars.axis}, "range": [0, bars.top * 1.12]},
        margin={"l": 64, "r": 12, "t": 12, "b": 44},
    )


def _glyph_shapes(place: int, regions: int, colours: Palette) -> list[dict[str, Any]]:
    """The matrix of a head under the bar at `place`, in pixels."""
    spans = ((-16, -7), (-5, 16))  # of CLS and of patches, from the middle; downwards the same
    anchored = {"xsizemode": "pixel", "ysizemode": "pixel", "xanchor": place, "yanchor": 0, "yref": "paper"}
    shapes = []
    for cell, bit in enumerate(REGIONS):
        (top, bottom), (left, right) = spans[cell // 2], spans[cell % 2]
        off = bool(regions & bit)
        ramp = colours.patch if bit == Regions.PATCHES_PATCHES.value else colours.cls
        box = {"x0": left, "x1": right, "y0": -24 - top, "y1": -24 - bottom}
        fill = "rgba(0,0,0,0)" if off else ramp[2]
        shapes.append(
            {"type": "rect", **anchored, **box, "fillcolor": fill, "line": {"color": colours.faint, "width": 1}}
        )
        if off:
            path = f"M{left},{-24 - bottom}L{right},{-24 - top}"
            shapes.append({"type": "path", **anchored, "path": path, "line": {"color": colours.faint, "width": 1}})
    return shapes


def predictions_figure(pruning: Pruning, known: StudyFacts, chosen: Selection) -> go.Figure:
    """The most probable classes before and after; of several images, top-1 accuracy and predictions that stay."""
    colours, names, true = palette(chosen.theme), known.study.class_names, int(pruning.label[0])
    if pruning.images > 1:
        told = pruning.predictions(chosen.regions)
        if told is None:
            raise StoreError(NO_CLASSIFIER)
        words = ["Same prediction", *(["Top-1 accuracy"] if told.right_before is not None else [])]
        before, after = [1.0, told.right_before][: len(words)], [told.same, told.right_after][: len(words)]
    else:
        columns = predictions_numbers(pruning, chosen)
        if not columns["class"]:
            raise StoreError(NO_CLASSIFIER)
        words = [escape(short_name(class_name(names, place))) for place in columns["class"]]
        words = [
            f"<b>{word}</b>" if place == true else word for place, word in zip(columns["class"], words, strict=True)
        ]
        before, after = columns["before"], columns["after"]
    rows = list(range(len(words)))
    series = (("before", before, colours.faint), (name_of(chosen.regions), after, colours.text))
    traces = [
        go.Bar(y=rows, x=values, name=name, orientation="h", marker={"color": colour})
        for name, values, colour in series
    ]
    return figure(
        colours,
        traces,
        barmode="group",
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis={"title": {"text": "share of images" if pruning.images > 1 else "probability"}, "rangemode": "tozero"},
        yaxis={"tickvals": rows, "ticktext": words, "autorange": "reversed", "automargin": True, "showgrid": False},
        margin={"l": 12, "r": 12, "t": 40, "b": 44},
    )
