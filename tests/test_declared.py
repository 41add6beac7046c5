"""What is declared is there: functions by their names, packages by their entry points, words in one place."""

from importlib.metadata import EntryPoint

import pytest

from analyses import HEADS, Analysis, ArraySpec, registry, resolve
from analyses.numbers import head_numbers, image_numbers
from analyses.registry import ANALYSES, ARRAYS, HEAD_NUMBERS, PICKED_NUMBERS
from analyses.vocabulary import (
    MAPS,
    METRICS,
    MODES,
    REGION_SETS_WITHOUT_CLS,
    REGIONS,
    VECTORS,
    WHOLE_HEAD,
    regions_title,
)

ROW = ArraySpec(HEADS, "float32", "Something of a head.", unit="0 to 1", title="Something")


@pytest.mark.parametrize("name", ARRAYS)
def test_what_computes_an_array_can_be_imported_and_is_documented(name: str):
    computes = resolve(ARRAYS[name].computed_by)
    assert callable(computes)
    assert computes.__doc__, ARRAYS[name].computed_by


@pytest.mark.parametrize("name", [name for name, each in ANALYSES.items() if each.when in ("pass", "after")])
def test_the_functions_of_an_analysis_can_be_imported(name: str):
    analysis = ANALYSES[name]
    named = [each for each in (analysis.function, analysis.each_layer, analysis.join, analysis.one_more) if each]
    assert named
    assert all(callable(resolve(each)) for each in named)


def test_a_name_of_no_function_says_which_part_is_wrong():
    for name, part in (("precompute.nowhere:f", "nowhere"), ("precompute.strength:nothing", "nothing")):
        with pytest.raises(ValueError, match=part):
            resolve(name)


def test_arrays_of_a_number_and_a_title_are_numbers_and_no_others_are():
    rows = {
        "of_heads": ROW,
        "once": ArraySpec(HEADS[1:], "float32", "Of the study", title="Once"),
        "of_images": ArraySpec(("image",), "float32", "Of an image.", title="Brightness"),
        "untitled": ArraySpec(HEADS, "float32", "Of a head."),
        "index": ArraySpec(HEADS, "int8", "An index.", title="Index"),
        "many": ArraySpec((*HEADS, "hop"), "float32", "Many numbers a head.", title="Many"),
    }
    heads = head_numbers(rows)
    assert {name: each.per_image for name, each in heads.items()} == {"of_heads": True, "once": False}
    assert (heads["of_heads"].axis, heads["once"].reading) == ("Something", "Of the study.")
    assert list(image_numbers(rows)) == ["of_images"]


def test_without_packages_what_is_picked_is_importance_alone():
    ours = [name for name in PICKED_NUMBERS if ":" not in name]
    assert ours == list(METRICS)
    assert set(METRICS) < set(HEAD_NUMBERS)
    assert {"entropy", "object_auc", "cls_object_auc", "content_relevance"} <= set(HEAD_NUMBERS)


def test_the_words_agree_with_the_table_and_with_each_other():
    assert all(
        name in ARRAYS for part in MAPS.values() for name in (part.layout, part.patterns, part.pattern, part.score)
    )
    assert all(each.array in ARRAYS and (not each.curve or each.curve in ARRAYS) for each in HEAD_NUMBERS.values())
    assert {each.drawn for each in METRICS.values()} <= set(VECTORS)
    assert sum(REGIONS) == WHOLE_HEAD == 15
    assert MODES == (0, 15, 8, 1, 6, 7)
    assert REGION_SETS_WITHOUT_CLS == (0, 8, 15)
    assert regions_title(9) == "CLS→CLS, patches→patches"
    assert [regions_title(each) for each in (0, 6, 7, 15)] == ["nothing", "CLS↔patches", "all of CLS", "whole head"]
    assert regions_title(15, heads=2) == "whole heads"


# --- packages ---

USABLE = Analysis("acme:sharp", "Sharp", {"acme:sharp": ROW})
NO_NAMESPACE = Analysis("sharp", "Sharp", {"sharp": ROW})
OTHER_NAMESPACE = Analysis("acme:other", "Other", {"strength": ROW})
TOO_EARLY = Analysis("acme:early", "Early", {"acme:early": ROW}, when="pass")
NOT_ONE = "acme:sharp"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (f"{__name__}:NO_NAMESPACE", "call it PACKAGE:sharp"),
        (f"{__name__}:OTHER_NAMESPACE", "call it acme:strength"),
        (f"{__name__}:TOO_EARLY", 'only "after" and "request" are open to packages'),
        (f"{__name__}:NOT_ONE", "name an analyses.Analysis"),
        (f"{__name__}:NOTHING", "NOTHING"),
        ("no_such_module_of_acme:ANALYSIS", "no_such_module_of_acme"),
    ],
)
def test_a_package_that_cannot_be_used_is_left_out_and_listed(value: str, said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "PROBLEMS", {})
    points = [EntryPoint("wrong", value, registry.GROUP), EntryPoint("good", f"{__name__}:USABLE", registry.GROUP)]
    assert list(registry.of_packages([], points)) == [USABLE]
    assert list(registry.PROBLEMS) == ["wrong"]
    assert said in registry.PROBLEMS["wrong"]


def test_a_name_that_is_taken_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "PROBLEMS", {})
    points = [EntryPoint(name, f"{__name__}:USABLE", registry.GROUP) for name in ("first", "second")]
    assert list(registry.of_packages([], points)) == [USABLE]
    assert "declared already" in registry.PROBLEMS["second"]
