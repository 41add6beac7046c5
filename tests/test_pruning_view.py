"""Pruned heads: bars, predictions and words, from results of every kind; what is asked for, and when."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash import no_update
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate
from werkzeug.exceptions import BadRequest

from analyses.pruning import ANALYSIS
from analyses.request import MOST_IMAGES
from analyses.vocabulary import MODES, REGIONS
from dashboard.app import create_app
from dashboard.data import Shelf, StudyFacts, facts, of_image, per_image
from dashboard.pruned import Effect, Pruning, images_of, is_custom, name_of, requests_of
from dashboard.selection import Selection, default
from dashboard.views import pruning, pruning_export
from dashboard.views.pruning import (
    Bars,
    Face,
    beside,
    brief,
    briefest,
    compared,
    drawn,
    facts_of,
    progress,
    reading,
    selection_of,
)
from dashboard.words import percent
from jobs.database import LedgerUnavailableError
from jobs.requests import BULK, from_json, key_of, to_json
from jobs.work import WorkerSeen
from store import derived
from store.errors import StoreError
from store.settings import Settings
from tests.fake_desk import FakeDesk, a_job, made_pruning
from tests.studies import compute, tiny_study

NAMES = ["macaw", "<b>bold</b>", "a class with a very long name, and a synonym", "four", "five", "six"]
CUSTOM = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    compute(folder / "studies" / "demo", tiny_study())
    compute(folder / "studies" / "no-cls", tiny_study(has_cls=False, prefix=0, classes=0, labelled=0))
    return folder


@pytest.fixture(scope="module")
def known(data: Path) -> StudyFacts:
    return facts(Shelf(data / "studies").open("demo"))


@pytest.fixture(scope="module")
def without_cls(data: Path) -> StudyFacts:
    return facts(Shelf(data / "studies").open("no-cls"))


@pytest.fixture
def chosen(known: StudyFacts) -> Selection:
    return replace(default(known), basket="", regions=15)


@pytest.fixture
def basket(chosen: Selection) -> Selection:
    return replace(chosen, basket="1.1,0.0,0.1")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    """Who waits 20 ms, and finds no result of an earlier test."""
    monkeypatch.setattr(pruning, "PATIENCE", 0.02)
    for study in ("demo", "no-cls"):
        derived.remove_all(data / "studies" / study)


@pytest.fixture
def a_desk(data: Path) -> Callable[..., FakeDesk]:
    """Makes desks that publish beside the studies of `data`."""
    return partial(FakeDesk, Settings(data=data))


def result(known: StudyFacts, chosen: Selection, **changes: Any) -> Pruning:
    return made_pruning(requests_of(known, chosen), **changes)


def found_in(root: Component, name: str) -> Component:
    """The component of that id."""
    return next(each for each in root._traverse() if getattr(each, "id", None) == name)


def properties(component: Component) -> dict[str, Any]:
    return component.to_plotly_json()["props"]


# --- the requests ---


def test_the_request_is_of_the_selected_head_and_image_in_the_six_modes(known: StudyFacts, chosen: Selection):
    (request,) = requests_of(known, chosen)
    assert from_json("prune", to_json(request)) == request
    assert (request.study, request.content) == (known.name, known.study.content_of(ANALYSIS.reads))
    assert (request.images, request.heads) == ((chosen.image,), ((chosen.layer, chosen.head),))
    assert request.regions == MODES


def test_other_regions_than_the_six_modes_are_asked_for_by_themselves(known: StudyFacts, chosen: Selection):
    for regions in range(16):
        modes, *other = requests_of(known, replace(chosen, regions=regions))
        assert modes == requests_of(known, chosen)[0]
        assert [each.regions for each in other] == ([(regions,)] if regions not in MODES else [])
        assert is_custom(regions) == (regions not in MODES)


def test_the_heads_of_the_basket_are_pruned_together(known: StudyFacts, chosen: Selection, basket: Selection):
    (request,) = requests_of(known, basket)
    assert request.heads == ((0, 0), (0, 1), (1, 1))
    assert from_json("prune", to_json(request)) == request
    # Which head is selected, and in which order they were put there, is another picture and not another question.
    for other in (replace(basket, layer=1, head=0), replace(basket, basket="0.0,1.1,0.1")):
        assert key_of(requests_of(known, other)[0]) == key_of(request)


def test_metric_and_the_other_views_do_not_ask_for_another_job(known: StudyFacts, chosen: Selection):
    other = replace(chosen, metric="jsd", regions=1, colour="plain", token=3, theme="dark")
    assert requests_of(known, other) == requests_of(known, chosen)


def test_without_an_image_those_of_the_set_are_pruned(known: StudyFacts, chosen: Selection):
    every = replace(chosen, image=None)
    assert requests_of(known, every)[0].images == tuple(known.image_ids)
    few = replace(every, images=f"id:{known.image_ids[1]}")
    assert requests_of(known, few)[0].images == (known.image_ids[1],)
    assert requests_of(known, replace(every, images="id:no such image")) == []
    assert requests_of(known, replace(few, image=known.image_ids[0]))[0].images == (known.image_ids[0],)


def test_of_more_images_than_one_job_may_have_evenly_spaced_ones_are_pruned(
    known: StudyFacts, monkeypatch: pytest.MonkeyPatch
):
    many = replace(known, image_ids=[str(image) for image in range(4 * MOST_IMAGES)])
    monkeypatch.setattr("dashboard.pruned.indices_of", lambda study, images: np.arange(4 * MOST_IMAGES))
    picked = [int(image) for image in images_of(many, "")]
    assert len(picked) == MOST_IMAGES
    assert (picked[0], picked[-1]) == (0, 4 * MOST_IMAGES - 1)
    assert set(np.diff(picked)) <= {4, 5}


# --- regions ---


def test_the_browser_is_told_the_regions_and_what_any_of_them_are_called():
    told = properties(found_in(pruning.layout(), pruning.PICTURE))
    regions = json.loads(told["data-regions"])
    assert regions["modes"] == list(MODES)
    assert [tuple(cell) for cell in regions["cells"]] == list(REGIONS.items())
    assert sum(bit for bit, _ in regions["cells"]) == len(regions["names"]) - 1
    assert all(regions["names"][each] == name_of(each) for each in range(16))
    assert told.get("children") is None  # which would be React's, and pruning.js fills it


def test_the_panel_is_drawn_by_the_browser_and_not_by_dash():
    assert sum(isinstance(each, Component) for each in pruning.layout()._traverse()) < 20


def test_every_set_of_regions_has_a_name_of_its_own():
    names = [name_of(regions) for regions in range(16)]
    assert len(set(names)) == 16
    assert [names[regions] for regions in (0, 15, 8, 6, 7, 5, 14)] == [
        "nothing pruned",
        "whole head pruned",
        "patches→patches pruned",
        "CLS↔patches pruned",
        "all of CLS pruned",
        "CLS→CLS, patches→CLS pruned",
        "CLS→patches, patches→CLS, patches→patches pruned",
    ]


# --- bars ---


def test_of_the_probability_what_is_left_is_drawn_over_what_there_was(known: StudyFacts, chosen: Selection):
    pruned = result(known, chosen)
    bars = Bars.of(pruned, "probability")
    row = pruned.arrays["pruned_probability"]
    assert [bars.effects[regions].mean for regions in MODES] == [each[0] for each in row]
    assert bars.reference == row[MODES.index(0)][0] == bars.top
    assert "dashed" in reading(pruned, known, "probability")


@pytest.mark.parametrize("metric", ["jsd", "cls_distance", "patch_distance"])
def test_of_the_other_metrics_the_effect_is_drawn_from_0(known: StudyFacts, chosen: Selection, metric: str):
    pruned = result(known, chosen)
    bars = Bars.of(pruned, metric)
    assert bars.reference is None
    assert bars.effects[0].mean == 0
    assert bars.top == pytest.approx(0.2)
    assert bars.share(bars.effects[15].mean) == 1
    assert "high" in reading(pruned, known, metric)


def test_over_several_images_a_bar_is_their_mean_and_sd_and_null_is_left_out(known: StudyFacts, chosen: Selection):
    rows = np.array([[np.nan, 0.2, 0.4, np.nan, 0.6] for _ in MODES])
    pruned = result(known, replace(chosen, image=None), pruned_probability=rows)
    assert pruned.effect("probability", 1) == Effect(pytest.approx(0.4), pytest.approx(np.std([0.2, 0.4, 0.6])), 3)
    bar = drawn(pruned, known, replace(chosen, image=None))["metrics"]["probability"]["bars"][3]
    assert bar["title"].endswith("0.400 ± 0.163 over 3 images")
    assert 0 < bar["low"] < bar["height"] < bar["high"] == 1
    assert reading(pruned, known, "probability").startswith("Mean ± sd. ")


def test_null_is_a_dash_and_no_bar(known: StudyFacts, chosen: Selection):
    for rows in (np.full((6, 1), np.nan), None):
        found = drawn(result(known, chosen, pruned_probability=rows), known, chosen)["metrics"]["probability"]
        assert {(bar["value"], bar["height"], bar["high"]) for bar in found["bars"]} == {("–", None, None)}
        assert found["reference"] is None


def test_regions_beside_the_six_modes_are_a_seventh_bar_on_one_scale(known: StudyFacts, chosen: Selection):
    seven = drawn(result(known, replace(chosen, regions=CUSTOM)), known, chosen)
    assert seven["regions"] == [*MODES, CUSTOM]
    for found in seven["metrics"].values():
        assert len(found["bars"]) == 7
        assert found["bars"][6]["title"].startswith("CLS→CLS, patches→CLS pruned: ")
    assert len(seven["predictions"]) == 7
    six = drawn(result(known, chosen), known, chosen)
    assert six["metrics"]["jsd"]["bars"] == seven["metrics"]["jsd"]["bars"][:6]


def test_all_that_is_drawn_is_plain_json_and_of_every_metric(known: StudyFacts, chosen: Selection):
    found = drawn(result(known, chosen, jsd=np.full((6, 1), np.nan)), known, chosen)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found["metrics"]) == set(known.metrics)
    assert len(json.dumps(found)) < 20_000


def test_numbers_over_bars_have_at_most_five_signs():
    for value in (0, 1, 0.618, 0.0999, 0.0123, 0.00312, 1e-3, 3.49e-6, 0.99951, float("nan")):
        assert len(briefest(value)) <= 5, value
    assert [briefest(0.0829), briefest(0.00698), briefest(0.00051)] == ["0.083", "0.007", "5e−4"]
    assert [brief(0.0829), brief(0.00698), brief(0.618), brief(0.00051)] == ["0.083", "0.0070", "0.618", "5e−4"]


# --- several heads ---


def test_what_heads_do_together_stands_beside_the_sum_of_what_each_does_alone(known: StudyFacts, basket: Selection):
    pruned = result(known, basket)
    index = known.image_indices[basket.image]
    alone = of_image(known.study, "importance", index, "probability")
    expected = float(alone[1, 1] + alone[0, 0] + alone[0, 1])
    assert pruned.together(known, "probability") == (pytest.approx(0.6), pytest.approx(expected))
    said = reading(pruned, known, "probability")
    change = pruning._change(expected)
    assert said == f"3 whole heads together: P(target) changes by −0.600; one by one they sum to {change}."
    assert reading(pruned, known, "jsd").startswith("3 whole heads together: JSD 0.600; one by one they sum to ")


def test_over_a_set_both_are_means_over_the_images_where_both_are_known(known: StudyFacts, basket: Selection):
    every = replace(basket, image=None)
    requests = requests_of(known, every)
    images = len(requests[0].images)
    rows = np.array([[0.1 * regions] * (images - 1) + [np.nan] for regions in MODES])
    pruned = result(known, every, probability_drop=rows)
    alone = sum(per_image(known.study, "probability", *head).astype(float) for head in every.heads_pruned)
    both = pruned.together(known, "probability")
    assert both == (pytest.approx(1.5), pytest.approx(alone[:-1].mean(), rel=1e-6))
    assert " on average; one by one" in reading(pruned, known, "probability")


def test_distances_of_different_layers_are_not_added(known: StudyFacts, chosen: Selection, basket: Selection):
    pruned = result(known, basket)
    assert pruned.together(known, "cls_distance") is None
    assert pruned.layer == 1  # its output feels the others
    assert Bars.of(pruned, "cls_distance").axis.endswith("of layer 1")
    assert "hatched" in reading(pruned, known, "cls_distance")
    same = result(known, replace(chosen, basket="1.0,1.1"))
    assert same.together(known, "cls_distance") is not None
    assert result(known, chosen).together(known, "probability") is None


def test_a_change_has_its_sign():
    assert [pruning._change(drop) for drop in (0.41, -0.0312, 0.0)] == ["−0.410", "+0.0312", "0"]


# --- predictions ---


def test_the_true_class_is_known_in_both_columns(known: StudyFacts, chosen: Selection):
    found = compared(result(known, chosen), NAMES, 15)
    assert found["label"] == 0
    assert [rank["class"] for rank in found["before"]] == [0, 1, 2, 3, 4]
    assert [rank["class"] for rank in found["after"]] == [1, 0, 2, 5, 3]
    assert found["before"][0] == {"class": 0, "name": "macaw", "p": "0.900", "share": 0.9, "title": "macaw: 0.900"}
    assert found["before"][2]["name"] == "a class with a very long name"
    assert (found["title"], found["fallen"]) == ("whole head pruned", None)


def test_a_true_class_that_fell_out_of_the_first_five_is_told(known: StudyFacts, chosen: Selection):
    five = np.array([[[1, 2, 3, 4, 5]]] * 6)
    fallen = compared(result(known, chosen, top_class=five), NAMES, 15)["fallen"]
    assert fallen["name"] == "macaw"
    assert fallen["said"].startswith(" 0.")
    assert fallen["said"].endswith(", not among the first 5")


def test_without_a_label_nothing_is_true_and_nothing_is_missed(known: StudyFacts, chosen: Selection):
    found = compared(result(known, chosen, label=np.array([-1])), NAMES, 15)
    assert (found["label"], found["fallen"]) == (None, None)


def test_a_class_without_a_name_has_its_number(known: StudyFacts, chosen: Selection):
    assert compared(result(known, chosen), None, 15)["after"][0]["name"] == "class 1"


def test_a_model_without_classifier_has_bars_and_no_predictions(without_cls: StudyFacts):
    chosen = replace(default(without_cls), regions=15)
    names = ("pruned_probability", "probability_drop", "jsd", "top_class", "top_probability", "cls_distance")
    absent = dict.fromkeys((*names, "first_before")) | {"top_before": []}
    pruned = result(without_cls, chosen, **absent)
    assert Bars.of(pruned, chosen.metric).effects[15].mean == pytest.approx(0.2)
    assert "no classifier" in compared(pruned, None, 15)["note"]
    every = replace(chosen, image=None)
    assert "no classifier" in compared(result(without_cls, every, **absent), None, 15)["note"]


def test_regions_that_the_model_lacks_say_why(without_cls: StudyFacts):
    pruned = result(without_cls, default(without_cls), undefined={1: "the model has no class token"})
    assert compared(pruned, None, 1) == {"note": "CLS→CLS pruned: the model has no class token."}


def test_of_a_set_accuracy_is_told_before_and_after(known: StudyFacts, chosen: Selection):
    every = replace(chosen, image=None)
    rows = compared(result(known, every), NAMES, 15)["rows"]
    assert rows[0] == ("Top-1", percent(1.0), percent(0.0), "accuracy on 5 labelled images")
    told = result(known, every, label=np.array([0, 0, 1, 3, -1])).predictions(15)
    assert told is not None
    assert (told.right_before, told.right_after, told.labelled, told.same) == (0.5, 0.25, 4, 0.0)
    assert "accuracy" not in str(compared(result(known, every, label=np.full(5, -1)), NAMES, 15))


# --- what is asked for, and when ---


def there(desk: FakeDesk, known: StudyFacts, chosen: Selection) -> None:
    """Put the results on the desk."""
    for request in requests_of(known, chosen):
        desk.publish(request)


def test_a_result_that_is_there_is_drawn_and_nothing_is_asked(
    known: StudyFacts, chosen: Selection, basket: Selection, a_desk: Callable[..., FakeDesk]
):
    for each in (chosen, basket, replace(basket, regions=CUSTOM), replace(chosen, image=None)):
        desk = a_desk()
        there(desk, known, each)
        face = Face.of(known, each, desk, None, pressed=False)
        assert (face.found["of"][0], face.jobs, face.run, desk.asked) == ("demo", None, "", [])
        assert face.state == {"said": "", "told": False, "jobs": {}, "waits": False}


def test_a_result_that_comes_soon_is_drawn_in_the_same_answer(
    known: StudyFacts, chosen: Selection, a_desk: Callable[..., FakeDesk]
):
    desk = a_desk()
    assert Face.of(known, chosen, desk, None, pressed=False).found is not None
    assert len(desk.asked) == 1
    seven = Face.of(known, replace(chosen, regions=CUSTOM), desk, None, pressed=False)
    assert seven.found["regions"] == [*MODES, CUSTOM]
    assert [request.regions for request in desk.asked] == [MODES, (CUSTOM,)]


def test_until_there_is_a_result_what_was_drawn_stays(
    known: StudyFacts, chosen: Selection, a_desk: Callable[..., FakeDesk]
):
    desk = a_desk(answers=False)
    face = Face.of(known, chosen, desk, None, pressed=False)
    assert face.found is no_update
    assert face.jobs == {key_of(requests_of(known, chosen)[0]): "job0"}
    assert face.state["waits"]
    assert not face.state["told"]
    again = Face.of(known, chosen, desk, face.state, pressed=False)
    assert (again.jobs, len(desk.asked)) == (face.jobs, 1)
    desk.finish("job0")
    assert Face.of(known, chosen, desk, face.state, pressed=False).found["regions"] == list(MODES)
    assert len(desk.asked) == 1


def test_the_six_modes_do_not_wait_for_the_seventh(
    known: StudyFacts, chosen: Selection, a_desk: Callable[..., FakeDesk]
):
    desk, custom = a_desk(answers=False), replace(chosen, regions=CUSTOM)
    face = Face.of(known, custom, desk, None, pressed=False)
    assert len(face.jobs) == len(desk.asked) == 2
    desk.finish("job0")
    face = Face.of(known, custom, desk, face.state, pressed=False)
    assert face.found["regions"] == list(MODES)
    assert face.state["waits"]
    desk.finish("job1")
    face = Face.of(known, custom, desk, face.state, pressed=False)
    assert face.found["regions"] == [*MODES, CUSTOM]
    assert (face.state["waits"], len(desk.asked)) == (False, 2)


def test_a_seventh_that_fails_leaves_the_six(known: StudyFacts, chosen: Selection, a_desk: Callable[..., FakeDesk]):
    desk, custom = a_desk(answers=False), replace(chosen, regions=CUSTOM)
    there(desk, known, chosen)
    state = Face.of(known, custom, desk, None, pressed=False).state
    desk.set("job0", state="failed", cause="no memory")
    face = Face.of(known, custom, desk, state, pressed=False)
    assert face.found["regions"] == list(MODES)
    assert (face.top.children, face.run, face.state["waits"]) == ("no memory.", "try again", False)


@pytest.mark.parametrize(
    ("state", "cause", "said"),
    [
        (
            "failed",
            "weights not here: put x.safetensors into /models",
            "weights not here: put x.safetensors into /models.",
        ),
        ("cancelled", "cancelled by someone", "cancelled by someone."),
        ("failed", None, "failed."),
    ],
)
def test_an_end_without_result_is_told_and_not_tried_again_by_itself(
    known: StudyFacts, chosen: Selection, state: str, cause: str | None, said: str, a_desk: Callable[..., FakeDesk]
):
    desk = a_desk(answers=False)
    waiting = Face.of(known, chosen, desk, None, pressed=False).state
    desk.set("job0", state=state, cause=cause)
    face = Face.of(known, chosen, desk, waiting, pressed=False)
    assert face.top.children == said
    assert face.run == "try again"
    assert face.found is None  # other bars would be taken for this head's
    for other in (chosen, replace(chosen, regions=1), replace(chosen, metric="jsd")):
        assert Face.of(known, other, desk, face.state, pressed=False).run == "try again"
    assert len(desk.asked) == 1
    desk.answers = True
    assert Face.of(known, chosen, desk, face.state, pressed=True).found is not None
    assert len(desk.asked) == 2


def test_all_images_are_pruned_when_the_button_is_pressed_and_not_before(
    known: StudyFacts, chosen: Selection, a_desk: Callable[..., FakeDesk]
):
    desk, every = a_desk(answers=False), replace(chosen, image=None)
    face = Face.of(known, every, desk, None, pressed=False)
    assert (face.run, desk.asked) == ("prune over all 5 images", [])
    assert face.found is None
    assert Face.of(known, every, desk, None, pressed=True).jobs
    # Who comes back to the head meanwhile finds its job.
    assert Face.of(known, every, desk, None, pressed=False).jobs
    assert len(desk.asked) == 1
    desk.finish("job0")
    found = Face.of(known, every, desk, None, pressed=False).found
    assert found["predictions"][1]["rows"][0][3] == "accuracy on 4 labelled images"
    # Other regions over the whole set are again a matter of pressing.
    custom = replace(every, regions=CUSTOM)
    face = Face.of(known, custom, desk, None, pressed=False)
    assert (face.found["regions"], face.run, len(desk.asked)) == (list(MODES), "prune over all 5 images", 1)


def test_what_takes_long_can_be_cancelled_and_asked_for_again(
    known: StudyFacts, chosen: Selection, a_desk: Callable[..., FakeDesk]
):
    desk, every = a_desk(answers=False), replace(chosen, image=None)
    Face.of(known, every, desk, None, pressed=True)
    desk.set("job0", images_total=5, images_done=1, state="running")
    face = Face.of(known, every, desk, None, pressed=False)
    assert (face.run, face.state["waits"]) == ("cancel", True)
    assert "1 of 5 images" in str(face.top)
    cancelled = Face.of(known, every, desk, face.state, pressed=True)
    assert desk.ledger.job("job0").state == "cancelled"
    assert (cancelled.run, cancelled.state["waits"], len(desk.asked)) == ("try again", False, 1)
    assert Face.of(known, every, desk, cancelled.state, pressed=True).jobs == {key_of(desk.asked[0]): "job1"}
    # A job of something else is not cancelled, whatever the browser says.
    other = {"waits": True, "jobs": {key_of(requests_of(known, chosen)[0]): "job1"}}
    Face.of(known, every, desk, other, pressed=True)
    assert desk.ledger.job("job1").state == "queued"


def test_the_button_says_how_many_images_of_the_set_are_pruned(
    known: StudyFacts, chosen: Selection, monkeypatch: pytest.MonkeyPatch, a_desk: Callable[..., FakeDesk]
):
    few = replace(chosen, image=None, images=f"id:{known.image_ids[0]}")
    assert Face.of(known, few, a_desk(), None, pressed=False).run == "prune over the 1 image of the set"
    monkeypatch.setattr("dashboard.pruned.MOST_IMAGES", 3)
    assert Face.of(known, replace(few, images=""), a_desk(), None, pressed=False).run == "prune over 3 of 5 images"
    some = replace(few, images="p:0..1")
    assert Face.of(known, some, a_desk(), None, pressed=False).run == "prune over 3 of the 5 images of the set"


def test_a_set_without_images_says_so(known: StudyFacts, chosen: Selection, a_desk: Callable[..., FakeDesk]):
    desk = a_desk()
    face = Face.of(known, replace(chosen, image=None, images="id:no such image"), desk, None, pressed=True)
    assert (face.said, face.run, desk.asked) == ("No image is in the set.", "", [])


def test_of_many_images_the_progress_and_the_time_left_are_told():
    assert beside(a_job(images_total=1)) is None
    said = str(beside(a_job(images_total=250, images_done=100, eta=12.3, state="running")))
    assert "100 of 250 images, about 12 s left" in said
    assert "40.0%" in said


def test_the_place_in_the_queue_is_told(chosen: Selection, basket: Selection):
    label = chosen.label
    assert progress(a_job(place=2), chosen, None) == f"{label}: waiting, 2 jobs before it."
    assert progress(a_job(place=1, note="the disk is full"), chosen, None).endswith("1 job before it. the disk is full")
    assert progress(a_job(), chosen, "the queue does not answer").endswith("the queue does not answer")
    assert progress(a_job(state="running"), chosen, None) == f"Pruning {label}…"
    assert progress(a_job(state="running"), basket, None) == "Pruning 3 heads…"


def test_without_a_worker_the_page_says_how_to_start_one(
    known: StudyFacts, chosen: Selection, a_desk: Callable[..., FakeDesk]
):
    desk = a_desk(answers=False)
    desk.ledger.seen = [WorkerSeen("bulk@here", BULK, "cpu", 0.0)]
    face = Face.of(known, chosen, desk, None, pressed=False)
    assert "headscope worker --queue interactive" in str(face.top)
    assert face.state["told"]


def test_a_ledger_that_does_not_answer_is_told_in_the_panel(
    known: StudyFacts, chosen: Selection, a_desk: Callable[..., FakeDesk]
):
    def fail(*_: object) -> Any:
        raise LedgerUnavailableError("the ledger does not answer: disk I/O error")

    desk = a_desk()
    desk.submit = fail
    face = Face.of(known, chosen, desk, None, pressed=False)
    assert "disk I/O error" in face.top.children
    assert face.run == "try again"


def test_a_browser_that_names_another_job_is_not_believed(
    known: StudyFacts, chosen: Selection, a_desk: Callable[..., FakeDesk]
):
    desk = a_desk()
    Face.of(known, replace(chosen, head=1 - chosen.head), desk, None, pressed=False)
    key = key_of(requests_of(known, chosen)[0])
    for jobs in ({key: "job0"}, {key: "gone"}, {key: None}, {"x": "job0"}, [], 3, "x", None):
        assert Face.of(known, chosen, desk, {"jobs": jobs}, pressed=False).found is not None
    for state in ([], 3, "x", {}):
        assert Face.of(known, chosen, desk, state, pressed=False).found is not None


# --- the callback ---


def call(client: Any, **values: Any) -> Any:
    """What the server answers to the panel's callback."""
    outputs = [
        *((pruning.FOUND, "data"), (pruning.STATE, "data"), (pruning.TOP, "children")),
        *((pruning.RUN, "children"), (pruning.RUN, "hidden")),
    ]
    inputs = [(pruning.SETTLED, "data"), (pruning.AGAIN, "data"), (pruning.RUN, "n_clicks")]
    body = {
        "output": ".." + "...".join(f"{each}.{name}" for each, name in outputs) + "..",
        "outputs": [{"id": each, "property": name} for each, name in outputs],
        "inputs": [{"id": each, "property": name, "value": values.get(each)} for each, name in inputs],
        "state": [{"id": pruning.STATE, "property": "data", "value": values.get(pruning.STATE)}],
        "changedPropIds": [values.get("changed", f"{pruning.SETTLED}.data")],
    }
    return client.post("/_dash-update-component", json=body)


def test_the_panel_is_answered_for_anything_that_a_browser_may_send(
    data: Path, chosen: Selection, basket: Selection, a_desk: Callable[..., FakeDesk]
):
    desk = a_desk()
    client = create_app(Settings(data=data), desk).server.test_client()
    answer = call(client, **{pruning.SETTLED: chosen.data()})
    assert answer.status_code == 200
    assert answer.json["response"][pruning.FOUND]["data"]["regions"] == list(MODES)
    bad = {"study": "gone"}, chosen.data() | {"regions": 16}, chosen.data() | {"basket": "9.9"}
    odd = [None, 0, "x", [], {}, {"jobs": 1}, {"jobs": {"x": []}}, *bad, basket.data() | {"regions": CUSTOM}]
    rng = random.Random(0)
    for _ in range(100):
        values = {name: rng.choice([*odd, chosen.data()]) for name in (pruning.SETTLED, pruning.AGAIN, pruning.STATE)}
        changed = rng.choice([f"{pruning.RUN}.n_clicks", f"{pruning.AGAIN}.data", "x.y"])
        answer = call(client, **values, changed=changed)
        assert answer.status_code < 500, (values, answer.text)


def test_a_study_that_was_computed_anew_says_to_reload(data: Path, chosen: Selection, a_desk: Callable[..., FakeDesk]):
    client = create_app(Settings(data=data), a_desk()).server.test_client()
    answer = call(client, **{pruning.SETTLED: chosen.data() | {"layer": 9}}).json["response"]
    assert "reload the page" in str(answer[pruning.TOP]["children"])
    assert answer[pruning.FOUND]["data"] is None


# --- what leaves ---


def test_the_bars_and_the_predictions_leave_as_numbers_and_as_figures(
    known: StudyFacts, chosen: Selection, basket: Selection, a_desk: Callable[..., FakeDesk]
):
    for each in (chosen, replace(basket, regions=CUSTOM, metric="jsd"), replace(chosen, image=None, theme="dark")):
        desk = a_desk()
        there(desk, known, each)
        bars, predictions = pruning_export.exports(desk)
        found = bars.numbers(known, each)
        assert len({len(column) for column in found.values()}) == 1
        assert found["regions"][:6] == list(MODES)
        name = "jsd" if each.metric == "jsd" else "pruned_probability"
        assert np.isfinite(found[name]).all()
        assert bars.figure(known, each).data[0].y == tuple(found[name])
        told = predictions.numbers(known, each)
        assert len({len(column) for column in told.values()}) == 1
        assert len(predictions.figure(known, each).data) == 2


def test_what_was_not_pruned_yet_cannot_leave(known: StudyFacts, chosen: Selection, a_desk: Callable[..., FakeDesk]):
    with pytest.raises(StoreError, match=r"not pruned on .* yet"):
        pruning_export.exports(a_desk())[0].numbers(known, chosen)


def test_class_names_stay_text_in_the_figure(known: StudyFacts, chosen: Selection, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(known.study, "class_names", NAMES)
    words = pruning_export.predictions_figure(result(known, chosen), known, chosen).layout.yaxis.ticktext
    assert "<b>macaw</b>" in words
    assert "&lt;b&gt;bold&lt;/b&gt;" in words


@pytest.mark.parametrize(
    ("change", "said"),
    [({"study": "three"}, "there is no study three"), ({"layer": 9}, "study demo was computed anew; reload the page")],
)
def test_a_selection_of_what_is_no_longer_there_is_refused(
    data: Path, known: StudyFacts, change: dict[str, Any], said: str
):
    with pytest.raises(StoreError, match=said):
        facts_of(Shelf(data / "studies"), replace(default(known), **change))


def test_a_selection_that_is_none_is_waited_for_or_refused():
    with pytest.raises(PreventUpdate):
        selection_of(None)
    for odd in (3, [], {}, {"study": "one"}):
        with pytest.raises(BadRequest, match="reload the page"):
            selection_of(odd)
