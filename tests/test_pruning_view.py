"""The pruned head: bars, predictions and words, from results of every kind; what is asked for, and when."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash import no_update

from dashboard.app import create_app
from dashboard.data import Shelf, StudyFacts, facts
from dashboard.pruned import REGIONS, SHOWN, Effect, Pruning, images_of, request_of
from dashboard.selection import PARTS, PARTS_WITHOUT_CLS, Selection, default, resolve, with_choice
from dashboard.views import head_card, pruning
from dashboard.views.pruning import (
    Face,
    bars,
    beside,
    brief,
    mode,
    of_set,
    predictions,
    progress,
    reading,
    slopes,
    title,
)
from dashboard.words import percent
from store.database import LedgerUnavailableError
from store.settings import Settings
from store.work import WorkerSeen
from tests.fake_desk import FakeDesk, a_job, made_result
from tests.studies import compute, tiny_study
from workers.jobs import BULK, MODES, MOST_PRUNE_IMAGES, checked, key_of, to_json

NAMES = ["macaw", "<b>bold</b>", "a class with a very long name, and a synonym", "four", "five", "six"]


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
    return replace(default(known), card="pruning")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "PATIENCE", 0.02)
    pruning._result.cache_clear()


def result(facts: StudyFacts, chosen: Selection, **changes: Any) -> Pruning:
    return Pruning(made_result(to_json(request_of(facts, chosen)), **changes), chosen.layer)


# --- the request ---


def test_the_request_is_of_the_selected_head_and_image_in_the_six_modes(known: StudyFacts, chosen: Selection):
    request = request_of(known, chosen)
    assert checked(request) == request
    assert (request.study, request.content) == (known.name, known.content)
    assert (request.images, request.heads) == ((chosen.image,), ((chosen.layer, chosen.head),))
    assert request.regions == MODES == tuple(REGIONS[part] for part in SHOWN)
    assert request_of(known, replace(chosen, image=None)).images == tuple(known.image_ids)


def test_of_more_images_than_one_job_may_have_evenly_spaced_ones_are_pruned(known: StudyFacts):
    many = replace(known, image_ids=[str(image) for image in range(4 * MOST_PRUNE_IMAGES)])
    picked = [int(image) for image in images_of(many)]
    assert len(picked) == MOST_PRUNE_IMAGES
    assert (picked[0], picked[-1]) == (0, 4 * MOST_PRUNE_IMAGES - 1)
    assert set(np.diff(picked)) <= {4, 5}


def test_metric_and_part_do_not_ask_for_another_job(known: StudyFacts, chosen: Selection):
    other = replace(chosen, metric="jsd", part="cls", colour="plain", token=3)
    assert key_of(request_of(known, other)) == key_of(request_of(known, chosen))


# --- the selection ---


def test_every_part_has_regions_words_and_a_place(known: StudyFacts):
    assert set(REGIONS) == set(PARTS) == set(SHOWN) == set(pruning.NAMES)
    assert known.choices["part"] == PARTS


def test_parts_of_cls_cannot_be_picked_in_a_model_without_cls(without_cls: StudyFacts):
    start = default(without_cls)
    assert without_cls.choices["part"] == PARTS_WITHOUT_CLS
    assert with_choice(start, without_cls, "part", "crossing") == start
    assert with_choice(start, without_cls, "part", "patches").part == "patches"
    assert resolve({"part": "cls"}, without_cls)[1] == ["part 'cls' is not in no-cls, which has all, none, patches"]


def test_card_and_part_are_in_the_address(known: StudyFacts):
    assert resolve({"card": "pruning", "part": "crossing"}, known)[0].card == "pruning"
    assert default(known).card == "numbers"
    assert default(known).part == "all"


# --- bars ---


def test_of_the_probability_what_is_left_is_drawn_over_what_there_was(known: StudyFacts, chosen: Selection):
    pruned = result(known, chosen)
    found = bars(pruned, chosen)
    row = pruned.result["pruned_probability"]
    assert [found.effects[part].mean for part in SHOWN] == [each[0] for each in row]
    assert found.reference == row[MODES.index(0)][0] == found.top
    assert "dashed" in reading(pruned, chosen)


@pytest.mark.parametrize("metric", ["jsd", "cls_distance", "patch_distance"])
def test_of_the_other_metrics_the_effect_is_drawn_from_0(known: StudyFacts, chosen: Selection, metric: str):
    pruned = result(known, chosen)
    found = bars(pruned, replace(chosen, metric=metric))
    assert found.reference is None
    assert found.effects["none"].mean == 0
    assert found.top == pytest.approx(0.2)
    assert "high" in reading(pruned, replace(chosen, metric=metric))
    assert "'height': '100.0%'" in str(mode("all", found))


def test_over_several_images_a_bar_is_their_mean_and_sd_and_null_is_left_out(known: StudyFacts, chosen: Selection):
    rows = [[None, 0.2, 0.4, None, 0.6] for _ in MODES]
    pruned = result(known, replace(chosen, image=None), pruned_probability=rows)
    assert pruned.effect("probability", "cls") == Effect(pytest.approx(0.4), pytest.approx(np.std([0.2, 0.4, 0.6])), 3)
    found = bars(pruned, chosen)
    assert "spread" in str(mode("cls", found))
    assert title("cls", found).endswith("0.400 ± 0.163 over 3 images")
    assert reading(pruned, chosen).startswith("Mean ± sd. ")


def test_null_is_a_dash_and_no_bar(known: StudyFacts, chosen: Selection):
    for rows in ([[None]] * 6, [None] * 6, None):
        found = bars(result(known, chosen, pruned_probability=rows), chosen)
        drawn = str(mode("all", found))
        assert "'–'" in drawn
        assert "className='bar'" not in drawn
        assert "reference" not in drawn
        assert found.top == 1


def test_the_glyph_hatches_the_regions_that_are_pruned():
    hatched = {part: [cell.className == "off" for cell in pruning.glyph(part).children] for part in SHOWN}
    for part, cells in hatched.items():
        assert sum(bit for bit, off in zip((1, 2, 4, 8), cells, strict=True) if off) == REGIONS[part]


def test_numbers_over_bars_have_at_most_six_signs():
    for value in (0, 1, 0.618, 0.0999, 0.0123, 0.00312, 1e-3, 3.49e-6, 0.99951, float("nan")):
        assert len(brief(value)) <= 6, value
    assert [brief(0.0829), brief(0.00698), brief(0.618)] == ["0.083", "0.0070", "0.618"]


# --- predictions ---


def test_the_true_class_is_bold_in_both_columns_and_its_move_is_drawn(known: StudyFacts, chosen: Selection):
    drawn = predictions(result(known, chosen), NAMES, chosen)
    before, between, after = drawn.children[2:5]
    assert [each.className for each in before.children] == ["label", "", "", "", "gone"]
    assert [each.className for each in after.children] == ["", "label", "", "gone", ""]
    assert [line.className for line in between.children] == ["down label", "up", "level", "down"]
    assert before.children[0].title == "macaw: 0.900"
    assert "a class with a very long name'" in str(before.children[2])


def test_a_line_goes_from_place_to_place():
    down, up = slopes([(7, 0.5), (8, 0.4)], [(8, 0.6), (9, 0.3), (7, 0.1)], None)
    assert (down.className, down.style) == ("down", {"top": "10%", "height": "40%"})
    assert (up.className, up.style) == ("up", {"top": "10%", "height": "20%"})


def test_a_true_class_that_fell_out_of_the_first_five_is_told(known: StudyFacts, chosen: Selection):
    five = [[[place, 0.1] for place in (1, 2, 3, 4, 5)]]
    drawn = str(predictions(result(known, chosen, top_after=[five] * 6), NAMES, chosen))
    assert "B('macaw'), ' 0.69" in drawn
    assert "not among the first 5" in drawn


def test_without_a_label_nothing_is_bold_and_nothing_is_missed(known: StudyFacts, chosen: Selection):
    for label in ([None], None, [-1]):
        assert "label" not in str(predictions(result(known, chosen, label=label), NAMES, chosen))


def test_class_names_stay_text_and_a_class_without_a_name_has_its_number(known: StudyFacts, chosen: Selection):
    drawn = json.dumps(
        predictions(result(known, chosen), NAMES, chosen).to_plotly_json(), default=lambda x: x.to_plotly_json()
    )
    assert "<b>bold</b>" in drawn  # as the text of a component, which the browser escapes
    assert "dangerously" not in drawn
    assert "class 1" in str(predictions(result(known, chosen), None, chosen))


def test_a_model_without_classifier_has_bars_and_no_predictions(without_cls: StudyFacts):
    chosen = replace(default(without_cls), card="pruning")
    nobody = [[None]] * 6
    changes = {"pruned_probability": nobody, "probability": nobody, "jsd": nobody, "top_before": [None]}
    for absent in (nobody, None):
        pruned = result(without_cls, chosen, **changes, top_after=absent, cls_distance=None)
        assert bars(pruned, chosen).effects["all"].mean == pytest.approx(0.2)
        assert "no classifier" in str(predictions(pruned, None, chosen))
        every = replace(chosen, image=None)
        assert "no classifier" in str(of_set(result(without_cls, every, top_before=None, top_after=None), "all"))


def test_a_part_that_the_model_lacks_says_why(without_cls: StudyFacts):
    chosen = replace(default(without_cls), card="pruning", part="cls")
    pruned = result(without_cls, chosen, undefined={"1": "the model has no class token"})
    assert "CLS→CLS pruned: the model has no class token." in str(predictions(pruned, None, chosen))


def test_of_a_set_accuracy_is_told_before_and_after(known: StudyFacts, chosen: Selection):
    every = replace(chosen, image=None, part="all")
    drawn = str(of_set(result(known, every), "all"))
    assert "Th('before')" in drawn
    assert repr(percent(1.0)) in drawn
    assert repr(percent(0.0)) in drawn
    told = result(known, every, label=[0, 0, 1, 3, None]).predictions("all")
    assert told is not None
    assert (told.right_before, told.right_after, told.labelled, told.same) == (0.5, 0.25, 4, 0.0)
    assert "accuracy" not in str(of_set(result(known, every, label=[None] * 5), "all"))


# --- what is asked for, and when ---


def test_a_result_that_is_there_is_drawn_and_nothing_is_asked(known: StudyFacts, chosen: Selection):
    desk = FakeDesk()
    request = request_of(known, chosen)
    desk.ledger.results[key_of(request)] = made_result(to_json(request))
    face = Face.of(known, chosen, desk, None, pressed=False)
    assert (face.pruning is not None, face.waiting, face.run, desk.asked) == (True, None, "", [])
    assert face.class_name == "pruning"


def test_a_result_that_comes_soon_is_drawn_in_the_same_answer(known: StudyFacts, chosen: Selection):
    desk = FakeDesk()
    face = Face.of(known, chosen, desk, None, pressed=False)
    assert face.pruning is not None
    assert len(desk.asked) == 1


def test_until_there_is_a_result_what_was_drawn_stays_and_is_stale(known: StudyFacts, chosen: Selection):
    desk = FakeDesk(answers=False)
    face = Face.of(known, chosen, desk, None, pressed=False)
    assert face.waiting == {"key": key_of(request_of(known, chosen)), "job": "job0", "ended": False}
    assert face.class_name == "pruning stale waiting"
    assert face.top is no_update
    children, classes, disabled, _ = face.modes(list(SHOWN))
    assert children == [no_update] * 6
    assert classes == ["mode on" if part == "all" else "mode" for part in SHOWN]
    assert disabled == [False] * 6
    again = Face.of(known, chosen, desk, face.waiting, pressed=False)
    assert (again.waiting, len(desk.asked)) == (face.waiting, 1)
    desk.finish("job0")
    assert Face.of(known, chosen, desk, face.waiting, pressed=False).pruning is not None
    assert len(desk.asked) == 1


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
    known: StudyFacts, chosen: Selection, state: str, cause: str | None, said: str
):
    desk = FakeDesk(answers=False)
    waiting = Face.of(known, chosen, desk, None, pressed=False).waiting
    desk.set("job0", state=state, cause=cause)
    face = Face.of(known, chosen, desk, waiting, pressed=False)
    assert face.top.children == said
    assert face.run == "try again"
    assert face.modes(list(SHOWN))[0][0] is not no_update  # other bars would be taken for this head's
    for other in (chosen, replace(chosen, part="cls"), replace(chosen, metric="jsd")):
        assert Face.of(known, other, desk, face.waiting, pressed=False).run == "try again"
    assert len(desk.asked) == 1
    desk.answers = True
    assert Face.of(known, chosen, desk, face.waiting, pressed=True).pruning is not None
    assert len(desk.asked) == 2


def test_all_images_are_pruned_when_the_button_is_pressed_and_not_before(known: StudyFacts, chosen: Selection):
    desk, every = FakeDesk(answers=False), replace(chosen, image=None)
    face = Face.of(known, every, desk, None, pressed=False)
    assert (face.run, desk.asked) == ("prune over all 5 images", [])
    assert face.pruning is None
    assert Face.of(known, every, desk, None, pressed=True).waiting is not None
    # Who comes back to the head meanwhile finds its job.
    assert Face.of(known, every, desk, None, pressed=False).waiting is not None
    assert len(desk.asked) == 1
    desk.finish("job0")
    assert Face.of(known, every, desk, None, pressed=False).pruning.images == 5


def test_of_many_images_the_progress_and_the_time_left_are_told():
    assert beside(a_job(images_total=1)) is no_update
    said = str(beside(a_job(images_total=250, images_done=100, eta=12.3, state="running")))
    assert "100 of 250 images, about 12 s left" in said
    assert "40.0%" in said


def test_the_place_in_the_queue_is_told(chosen: Selection):
    label = chosen.label
    assert progress(a_job(place=2), chosen, None) == f"{label}: waiting, 2 jobs before it."
    assert progress(a_job(place=1, note="the disk is full"), chosen, None).endswith("1 job before it. the disk is full")
    assert progress(a_job(), chosen, "the queue does not answer").endswith("the queue does not answer")
    assert progress(a_job(state="running"), chosen, None) == f"Pruning {label}…"


def test_without_a_worker_the_page_says_how_to_start_one(known: StudyFacts, chosen: Selection):
    desk = FakeDesk(answers=False)
    desk.ledger.seen = [WorkerSeen("bulk@here", BULK, "cpu", 0.0)]
    face = Face.of(known, chosen, desk, None, pressed=False)
    assert "headscope worker --queue interactive" in str(face.top)


def test_a_ledger_that_does_not_answer_is_told_in_the_panel(known: StudyFacts, chosen: Selection):
    def fail(*_: object) -> Any:
        raise LedgerUnavailableError("the ledger does not answer: disk I/O error")

    desk = FakeDesk()
    desk.ledger.result = fail
    face = Face.of(known, chosen, desk, None, pressed=False)
    assert "disk I/O error" in face.top.children
    assert face.run == "try again"


def test_a_browser_that_names_another_job_is_not_believed(known: StudyFacts, chosen: Selection):
    desk = FakeDesk()
    Face.of(known, replace(chosen, head=1 - chosen.head), desk, None, pressed=False)
    key = key_of(request_of(known, chosen))
    for waiting in (
        {"key": key, "job": "job0"},
        {"key": key, "job": "gone"},
        {"key": key},
        {"job": "job0"},
        [],
        3,
        "x",
    ):
        assert Face.of(known, chosen, desk, waiting, pressed=False).pruning is not None


def test_in_a_model_without_cls_bars_of_cls_are_disabled_and_say_why(without_cls: StudyFacts):
    chosen = replace(default(without_cls), card="pruning")
    _, _, disabled, titles = Face.of(without_cls, chosen, FakeDesk(), None, pressed=False).modes(list(SHOWN))
    assert disabled == [False, False, False, True, True, True]
    assert titles[4] == "CLS↔patches pruned: the model has no class token"


# --- the callback ---


def call(client: Any, **values: Any) -> Any:
    """What the server answers to the card's callback."""
    parts = [{"choice": pruning.PART, "value": part} for part in SHOWN]
    spread = [
        [{"id": part, "property": name} for part in parts] for name in ("children", "className", "disabled", "title")
    ]
    plain = [(pruning.TOP, "children"), (pruning.RUN, "children"), (pruning.RUN, "hidden"), (pruning.WAITING, "data"),
             (pruning.BODY, "className"), (pruning.PARTS, "aria-label"), (pruning.READING, "children")]  # fmt: skip
    pattern = '{"choice":"part","value":["ALL"]}'
    names = [f"{pattern}.{name}" for name in ("children", "className", "disabled", "title")]
    inputs = [(pruning.SETTLED, "data"), (pruning.AGAIN, "data"), (pruning.RUN, "n_clicks")]
    body = {
        "output": ".." + "...".join([*names, *(f"{each}.{name}" for each, name in plain)]) + "..",
        "outputs": [*spread, *({"id": each, "property": name} for each, name in plain)],
        "inputs": [{"id": each, "property": name, "value": values.get(each)} for each, name in inputs],
        "state": [{"id": pruning.WAITING, "property": "data", "value": values.get(pruning.WAITING)}],
        "changedPropIds": [values.get("changed", f"{pruning.SETTLED}.data")],
    }
    return client.post("/_dash-update-component", json=body)


def test_the_card_is_answered_for_anything_that_a_browser_may_send(data: Path, chosen: Selection):
    desk = FakeDesk(Settings(data=data))
    client = create_app(Settings(data=data), desk).server.test_client()
    answer = call(client, **{pruning.SETTLED: chosen.data()})
    assert answer.status_code == 200
    assert answer.json["response"][pruning.BODY] == {"className": "pruning"}
    odd = [None, 0, "x", [], {}, {"key": 1}, {"key": {}, "job": []}, chosen.data() | {"part": "x"}, {"study": "gone"}]
    rng = random.Random(0)
    for _ in range(100):
        values = {name: rng.choice([*odd, chosen.data()]) for name in (pruning.SETTLED, pruning.AGAIN, pruning.WAITING)}
        changed = rng.choice([f"{pruning.RUN}.n_clicks", f"{pruning.AGAIN}.data", "x.y"])
        answer = call(client, **values, changed=changed)
        assert answer.status_code < 500, (values, answer.text)


def test_the_card_has_its_numbers_or_the_pruned_head_and_not_both(data: Path, chosen: Selection):
    client = create_app(Settings(data=data), FakeDesk(Settings(data=data))).server.test_client()
    outputs = [(head_card.TABLE, "children"), (head_card.PATTERNS, "children"), (head_card.LABEL, "children"),
               (head_card.NUMBERS, "hidden"), (pruning.BODY, "hidden"), (head_card.READING, "children")]  # fmt: skip
    for card, hidden in (("pruning", True), ("numbers", False)):
        body = {
            "output": ".." + "...".join(f"{each}.{name}" for each, name in outputs) + "..",
            "outputs": [{"id": each, "property": name} for each, name in outputs],
            "inputs": [{"id": "selection", "property": "data", "value": replace(chosen, card=card).data()}],
            "changedPropIds": ["selection.data"],
        }
        drawn = client.post("/_dash-update-component", json=body).json["response"]
        assert drawn[head_card.NUMBERS]["hidden"] is hidden
        assert drawn[pruning.BODY]["hidden"] is not hidden
        assert (drawn[head_card.READING]["children"] == "") is hidden
        assert drawn[head_card.LABEL]["children"] == chosen.label
