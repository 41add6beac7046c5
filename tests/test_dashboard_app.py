"""The page as a server: it is wired, draws every kind of study, and nothing that it is sent breaks it."""

import copy
import functools
import gc
import json
import random
import re
import resource
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash import Dash, dcc
from dash._utils import to_json
from dash.development.base_component import Component
from PIL import Image

from analyses.vocabulary import METRICS
from dashboard import routes, writer
from dashboard.app import ASSETS, DRAWINGS, create_app, create_server, room_for_connections
from dashboard.data import Shelf, StudyFacts, facts, large, per_image, predictions, read, summary, table
from dashboard.drawing import BODY, anew
from dashboard.selection import COLOURS, Selection, default, fits, to_search
from dashboard.theme import LIGHT
from dashboard.views import (
    head_attention,
    head_card,
    head_importance,
    header,
    image_card,
    image_overview,
    pattern_map,
)
from store.errors import StudyNotFoundError
from store.paths import manifest_path
from store.settings import Settings
from tests.components import components
from tests.studies import TinyStudy, compute, tiny_study

# Each a kind of study that the page must show.
KINDS: dict[str, dict[str, Any]] = {
    "demo": {"images": 8, "classes": 6, "labelled": 8},
    "rebuilt": {"attention": "rebuilt", "qk_norm": "rmsnorm"},
    "unlabelled": {"labelled": 0},
    "many-classes": {"images": 20, "classes": 20, "labelled": 20},
    "no-classifier": {"classes": 0, "labelled": 0},
    "no-cls": {"has_cls": False, "prefix": 0, "classes": 0, "labelled": 0},
    "registers": {"has_cls": False, "prefix": 5, "grid": (2, 4)},
    "one-image": {"images": 1, "labelled": 1},
    "no-maps": {"maps": False},
}


def not_finite(tiny: TinyStudy) -> TinyStudy:
    """One image with nothing but NaN, and one head with nothing but NaN."""
    for name in (
        "importance",
        "pruned_probability",
        "entropy",
        "probability",
        "logits",
        "image_layout",
        "attention",
        "patch_layout",
        "cls_layout",
        "pattern_score",
        "object_auc",
    ):
        array = tiny.arrays[name]
        images = np.moveaxis(array, 1 if name in ("importance", "image_layout") else 0, 0)
        images[2] = np.nan
        if name in ("importance", "pruned_probability", "entropy", "object_auc"):
            array[..., 1, 1] = np.nan
    tiny.arrays["content_relevance"][1, 1] = np.nan
    tiny.late_attrs["nonfinite"] = {"images": [2], "values": {"importance": 1}}
    return tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a study of every kind."""
    folder = tmp_path_factory.mktemp("data")
    for name, changes in KINDS.items():
        compute(folder / "studies" / name, tiny_study(**changes))
    compute(folder / "studies" / "not-finite", not_finite(tiny_study(images=6, labelled=6)))
    return folder


@pytest.fixture(scope="module")
def shelf(data: Path) -> Shelf:
    return Shelf(data / "studies")


@pytest.fixture(scope="module")
def app(data: Path) -> Dash:
    return create_app(Settings(data=data))


@pytest.fixture
def client(app: Dash) -> Any:
    return app.server.test_client()


def drawn(known: StudyFacts, chosen: Selection) -> dict[str, str]:
    """Everything that the views draw of a selection, as the browser gets it, by component and property."""
    values: dict[str, str] = {}
    for drawing in DRAWINGS:
        made = drawing.draw(known, chosen)
        assert len(made) == len(drawing.outputs)
        values |= {str(output): to_json(value) for output, value in zip(drawing.outputs, made, strict=True)}
        assert len(drawing.blank(LIGHT)) == len(drawing.outputs) - 1
        parts = zip(drawing.outputs, made, strict=True)
        built = [value for output, value in parts if output.component_property == BODY]
        assert {each._namespace for value in built for each in components(value)} <= {"dash_html_components"}
    return values


def says(shelf: Shelf, chosen: Selection, component: str) -> str:
    """What the view says in one of its components, errors too."""
    values = anew(DRAWINGS, facts(shelf.open(chosen.study)), chosen, {})
    named = {
        output.component_id: value
        for each, of in zip(values, DRAWINGS, strict=True)
        for output, value in zip(of.outputs, each, strict=True)
        if output.component_property in ("children", BODY)
    }
    return to_json(named[component])


# --- wiring ---


def names_of(output: str) -> list[str]:
    """The "id.property" names in a callback's output, of one or of several."""
    return output[2:-2].split("...") if output.startswith("..") else [output]


def wired(app: Dash) -> set[str]:
    """Ids that callbacks read or write; of a pattern, its JSON."""
    entries = app.callback_map.items()
    read = {each["id"] for _, entry in entries for part in ("inputs", "state") for each in entry[part]}
    written = {
        name.rsplit(".", 1)[0] for output, entry in entries if not entry["no_output"] for name in names_of(output)
    }
    return read | written


def in_layout(root: Component) -> tuple[set[str], list[set[str]]]:
    """Ids of the layout: plain ones, and the keys of those of patterns."""
    every = [component.id for component in [root, *root._traverse()] if getattr(component, "id", None) is not None]
    return {each for each in every if isinstance(each, str)}, [set(each) for each in every if isinstance(each, dict)]


def test_every_id_of_a_callback_is_in_the_layout(app: Dash):
    plain, patterns = in_layout(app.validation_layout)
    for each in wired(app):
        if each.startswith("{"):
            assert set(json.loads(each)) in patterns, each
        else:
            assert each in plain, each


def test_every_id_that_the_scripts_use_is_in_the_layout(app: Dash):
    plain, _ = in_layout(app.validation_layout)
    scripts = "".join(path.read_text() for path in ASSETS.glob("*.js"))
    used = re.findall(r'(?:byId|getElementById|set_props)\("([^"]+)"', scripts)
    assert len(used) > 8
    assert set(used) <= plain


def test_ids_are_given_once(app: Dash):
    ids = [str(each.id) for each in app.validation_layout._traverse() if getattr(each, "id", None) is not None]
    assert len(ids) == len(set(ids))


def test_no_graph_of_the_page_offers_to_upload_its_data(app: Dash):
    found = [each for each in app.validation_layout._traverse() if isinstance(each, dcc.Graph)]
    assert len(found) == 6
    assert not any(each.config["showSendToCloud"] for each in found)


def test_nothing_of_the_page_is_fetched_from_elsewhere(client: Any):
    page = client.get("/").text
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//[^\"]*", page)
    for path in re.findall(r"(?:src|href)=\"(/[^\"]*)\"", page):
        assert client.get(path).status_code == 200, path
    styles = (ASSETS / "style.css").read_text() + (ASSETS / "bootstrap.min.css").read_text()
    assert not re.findall(r"@import|url\((?![\"']?(?:data:|mark\.svg))", styles)


def test_the_vendored_style_sheet_keeps_its_licence():
    head = (ASSETS / "bootstrap.min.css").read_text()[:300]
    assert "Bootstrap  v5.3" in head
    assert "Licensed under MIT" in head


def test_the_page_may_load_from_its_own_server_only(client: Any):
    for path in ("/", "/health", "/studies/x/y/image/0.png"):
        policy = client.get(path).headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy


def test_a_server_says_that_it_is_well(client: Any):
    assert (client.get("/health").status_code, client.get("/health").text) == (200, "OK")


# --- every kind of study ---


@pytest.mark.parametrize("name", [*KINDS, "not-finite"])
def test_every_view_draws_every_kind_of_study(shelf: Shelf, name: str):
    known = facts(shelf.open(name))
    first = default(known)
    assert fits(first, known)
    sets = ["", "id:no such image", "id:1"]
    if known.num_classes:
        sets.append("p:0..0.5")
    if known.has_labels:
        sets.append("prediction:wrong;class:0,1")
    for images in sets:
        for image in (first.image, None):
            assert drawn(known, replace(first, image=image, images=images))
    for field in ("metric", "colour", "curve", "sort", "map", "map_as", "map_colour", "theme"):
        for value in known.choices[field]:
            assert drawn(known, replace(first, **{field: value}))


def test_a_head_and_an_image_of_nan_never_come_first(shelf: Shelf):
    known = facts(shelf.open("not-finite"))
    first = default(known)
    assert (first.layer, first.head) != (1, 1)
    assert first.image != known.image_ids[2]
    assert 2 not in head_attention.suggested(known, first)
    assert head_attention.suggested(known, replace(first, layer=1, head=1)) == []


def test_what_a_model_does_not_have_is_said_and_cannot_be_picked(shelf: Shelf):
    known = facts(shelf.open("no-cls"))
    assert known.metrics == ("patch_distance",)
    assert head_importance.reasons(known) == {
        **dict.fromkeys(["probability", "jsd"], "the model has no classifier"),
        "cls_distance": "the model has no class token",
    }
    assert set(image_overview.reasons(known).values()) == {"the model has no classifier"}
    assert "the model has no classifier" in str(image_card.view(known, default(known)))
    assert set(image_overview.reasons(facts(shelf.open("unlabelled")))) == {"class", "prediction"}


def test_colours_and_metrics_of_all_studies_have_words(shelf: Shelf):
    for name in KINDS:
        known = facts(shelf.open(name))
        assert set(known.metrics) <= set(METRICS)
        assert set(known.colours) <= set(COLOURS)


def test_many_classes_are_coloured_by_probability_at_first(shelf: Shelf):
    assert facts(shelf.open("many-classes")).colours[0] == "probability"
    assert facts(shelf.open("demo")).colours[0] == "class"


# --- reading ---


def test_mean_and_deviation_are_numpys_whatever_the_block(shelf: Shelf, monkeypatch: pytest.MonkeyPatch):
    study = shelf.open("many-classes")
    values = study.read("importance", 1).astype(np.float64)
    for block in (3, 4096):
        monkeypatch.setattr("dashboard.data.BLOCK", block)
        got = summary.__wrapped__(study, "importance", "jsd")
        np.testing.assert_allclose(got.mean, values.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(got.sd, values.std(axis=0), rtol=1e-9)
        np.testing.assert_array_equal(per_image(study, "jsd", 1, 0), values[:, 1, 0])
        told = predictions.__wrapped__(study)
        probability = study.read("probability")
        np.testing.assert_array_equal(told.predicted, probability.argmax(axis=1))
        np.testing.assert_array_equal(told.probability, probability[np.arange(20), study.read("target")])


def test_nan_is_left_out_of_means_and_counted(shelf: Shelf):
    study = shelf.open("not-finite")
    got = summary(study, "entropy")
    values = study.read("entropy")
    assert got.counted.tolist() == [[5, 5], [5, 0]]
    assert np.isnan(got.mean[1, 1])
    np.testing.assert_allclose(got.mean[0, 0], np.delete(values[:, 0, 0], 2).mean(), rtol=1e-6)


def test_what_is_shared_between_people_is_read_only(shelf: Shelf):
    study = shelf.open("demo")
    for array in (
        read(study, "label"),
        large(study, "patch_layout"),
        summary(study, "entropy").mean,
        table(study, "entropy"),
        predictions(study).predicted,
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_a_study_is_opened_once_until_another_is_published_under_its_name(tmp_path: Path):
    compute(tmp_path / "s", tiny_study())
    shelf = Shelf(tmp_path)
    study = shelf.open("s")
    assert shelf.open("s") is study
    changed = tiny_study(seed=1)
    compute(tmp_path / "s", replace(changed, plan={"seed": 1}))
    assert shelf.open("s").manifest.content != study.manifest.content


@pytest.mark.parametrize("name", ["nobody", "../etc", "", "a/b", "..", "A", "x" * 200, "\0", "%2e%2e"])
def test_no_name_leads_out_of_the_studies_folder(shelf: Shelf, name: str):
    with pytest.raises(StudyNotFoundError):
        shelf.open(name)


# --- damage ---


@pytest.fixture
def damaged(tmp_path: Path) -> Shelf:
    """A study whose JSD and pixels are cut short."""
    compute(tmp_path / "hurt", tiny_study(images=4, labelled=4, unit_images=4))
    for cell in ("importance/c.1.0.0.0", "pixels/c.0.0.0.0"):
        path = tmp_path / "hurt" / "attempt-1" / cell
        path.write_bytes(path.read_bytes()[:-3])
    return Shelf(tmp_path)


def test_damage_is_said_where_it_is_and_the_rest_is_shown(damaged: Shelf):
    jsd = replace(default(facts(damaged.open("hurt"))), metric="jsd")
    assert "verify hurt" in says(damaged, jsd, head_importance.READING)
    assert "verify hurt" in says(damaged, jsd, head_card.TABLE)
    assert "Probability" in says(damaged, jsd, head_card.TABLE)
    assert "verify hurt" in says(damaged, jsd, image_card.CARD)
    assert "verify hurt" not in says(damaged, jsd, image_overview.READING)
    assert drawn(facts(damaged.open("hurt")), replace(jsd, metric="cls_distance"))


@pytest.mark.parametrize("name", ["patch_layout", "pattern_name", "pattern"])
def test_damage_of_a_map_stays_in_its_panel(tmp_path: Path, name: str):
    compute(tmp_path / "hurt", tiny_study())
    for path in (tmp_path / "hurt" / "attempt-1" / name).glob("c.*"):
        path.write_bytes(path.read_bytes()[:-3])
    shelf = Shelf(tmp_path)
    chosen = replace(default(facts(shelf.open("hurt"))), map_colour="pattern")
    assert "verify hurt" in says(shelf, chosen, pattern_map.READING)
    assert "verify hurt" not in says(shelf, chosen, head_importance.READING)
    said = says(shelf, chosen, head_card.PATTERNS)
    assert ("verify hurt" in said) == (name != "patch_layout")
    assert "content_relevance" in said or "relevance" in said


def test_the_page_opens_though_what_it_would_show_first_is_damaged(tmp_path: Path):
    compute(tmp_path / "hurt", tiny_study())
    (tmp_path / "hurt" / "attempt-1" / "importance" / "c.0.0.0.0").unlink()
    known = facts(Shelf(tmp_path).open("hurt"))
    assert known.interesting == (0, 0, known.image_ids[0])


# --- the writer ---


def write(shelf: Shelf, search: str) -> writer.Written:
    return writer.written(shelf, None, None, None) if search == "" else writer.from_address(shelf, search)


def test_the_bare_address_shows_the_first_study(shelf: Shelf):
    result = write(shelf, "")
    assert result.chosen == default(facts(shelf.open("demo")))
    assert (result.notice, result.found) == ("", True)


def test_a_study_that_is_not_there_is_said_and_another_shown(shelf: Shelf):
    result = write(shelf, "?study=gone&layer=1")
    assert result.chosen is not None
    assert result.chosen.study == "demo"
    assert "there is no study gone" in result.notice
    assert result.notice.endswith("showing demo instead")


def test_a_damaged_manifest_is_said_and_another_study_shown(data: Path, tmp_path: Path):
    compute(tmp_path / "a-broken", tiny_study())
    compute(tmp_path / "b", tiny_study())
    manifest_path(tmp_path / "a-broken").write_text("{")
    shelf = Shelf(tmp_path)
    assert write(shelf, "").chosen.study == "b"
    assert "showing b instead" in write(shelf, "?study=a-broken").notice


@pytest.mark.parametrize("search", ["", "?study=x"])
def test_without_a_study_the_page_says_how_to_make_one(tmp_path: Path, search: str):
    assert write(Shelf(tmp_path / "none"), search).chosen is None
    assert "headscope demo" in str(writer.NO_STUDY)


def test_every_gesture_leads_where_its_view_says(shelf: Shelf):
    known = facts(shelf.open("demo"))
    start = replace(default(known), layer=0, head=0, image=None)

    def after(source: object, value: object, typed: str = "", chosen: Selection = start) -> Selection | None:
        return writer.written(shelf, chosen.data(), source, value, typed).chosen

    def made(*gestures: tuple[str, object], chosen: Selection = start) -> Selection | None:
        told = [{"kind": kind, "value": value} for kind, value in gestures]
        return after(writer.GESTURES, {"gestures": told, "n": 1}, chosen=chosen)

    third = known.image_ids[3]
    with_third = replace(start, image=third)
    assert made(("image", 3)) == with_third
    assert made(("image", 3), chosen=with_third) == start
    assert made(("rank", 3)) == made(("head", [1, 1])) == replace(start, layer=1, head=1)
    assert made(("point", 3 * 4 + 2)) == replace(with_third, layer=1)
    assert made(("key", "ArrowRight"), ("key", "ArrowDown")) == replace(start, layer=1, head=1)
    assert made(("token", {"token": 4, "direction": "from"})) == replace(start, token=4, direction="from")
    assert made(("top", 5)) == replace(start, top=5.0)
    assert made(("regions", 6)) == replace(start, regions=6)
    assert made(("basket", [0, 1]), ("basket", [1, 0])) == replace(start, basket="0.1,1.0")
    assert made(("basket", [0, 1]), ("basket-clear", None)) == start
    assert made(("large", "pruning")) == replace(start, large="pruning")
    assert made(("class", 1), ("prediction", "wrong")) == replace(start, images="class:1;prediction:wrong")
    assert made(("class", 1), ("drop", "class")) == start
    assert made(("probability", [0.25, 0.5])) == replace(start, images="p:0.25..0.5")
    assert made(("brush", [0.25, 0.5])) == replace(start, images="entropy:0.0:0.25..0.5")
    drawn_on = image_overview.vector_of(known.study, start.metric)
    assert made(("lasso", [0, 0, 2, 0, 2, 2])) == replace(start, images=f"lasso:{drawn_on}:0,0,2,0,2,2")
    assert made(("key", "]"), ("key", "]"), chosen=replace(start, images="class:1")).image in known.image_ids
    for field, value in (("metric", "jsd"), ("colour", "prediction"), ("map", "cls"), ("map_as", "density")):
        assert made(("choice", [field, value])) == replace(start, **{field: value})
    assert after(header.THEME, "dark") == replace(start, theme="dark")
    assert made(("release", None), chosen=with_third) == start
    assert after(header.SEARCH, 1, typed="003") == with_third
    assert after(header.STUDY, "rebuilt") == default(facts(shelf.open("rebuilt")))
    there = to_search(replace(start, head=1), known)
    assert after(writer.URL, {"search": there}) == replace(start, head=1)
    assert after(writer.URL, {"search": there.replace("theme", "x"), "theme": "dark"}) == replace(
        start, head=1, theme="dark"
    )


def test_brackets_go_through_the_images_of_the_set(shelf: Shelf):
    known = facts(shelf.open("many-classes"))
    chosen = replace(default(known), image=None, images="id:1")
    walked = []
    for _ in range(len(known.image_ids)):
        chosen = writer.after_gesture(chosen, known, "key", "]")
        walked.append(chosen.image)
    inside = [image for image in known.image_ids if "1" in image]
    assert walked == (inside * len(walked))[: len(walked)]


ODD = [
    None,
    0,
    -1,
    1e308,
    True,
    "x",
    "\0",
    [],
    {},
    [[]],
    {"points": None},
    {"points": [None]},
    {"points": [{"x": {}}]},
]


KINDS_OF_GESTURE = [
    *["key", "choice", "release", "head", "basket", "basket-clear", "token", "lasso", "drop", "nobody"],
    *(None, 3, [], {}),
    *(kind for kind in writer.WITH_A_VALUE),
]


ODD_VALUES = [[1], [1, "x"], [[], {}], {"token": {}, "direction": "from"}, "class:1", 10**30]
ODD_CHOICES = [["study", "demo"], ["metric", "x"], ["layer", 1]]


@pytest.mark.parametrize("odd", [*ODD, *ODD_VALUES, *ODD_CHOICES])
def test_a_gesture_that_makes_no_sense_leaves_a_selection_of_the_study(shelf: Shelf, odd: object):
    for name in ("demo", "unlabelled", "no-cls"):
        known = facts(shelf.open(name))
        start = replace(default(known), images="id:0")
        for kind in KINDS_OF_GESTURE:
            value = {"gestures": [{"kind": kind, "value": odd}]}
            chosen = writer.written(shelf, start.data(), writer.GESTURES, value).chosen
            assert chosen is not None
            assert fits(chosen, known), (kind, odd, chosen)
        chosen = writer.written(shelf, start.data(), writer.GESTURES, {"gestures": odd}).chosen
        assert chosen == start


@pytest.mark.parametrize("odd", [*ODD, {"search": 3}, {"search": None}, {"search": "", "theme": "pink"}])
def test_what_makes_no_sense_elsewhere_leaves_a_selection_too(shelf: Shelf, odd: object):
    start = default(facts(shelf.open("demo")))
    sources = [
        *(writer.GESTURES, writer.URL, header.STUDY, header.SEARCH, header.THEME, None, "nobody"),
    ]
    for source in sources:
        chosen = writer.written(shelf, start.data(), source, odd, odd).chosen
        assert chosen is not None
        assert fits(chosen, facts(shelf.open(chosen.study)))


def test_a_selection_that_the_study_does_not_have_is_not_carried_on(shelf: Shelf):
    start = default(facts(shelf.open("demo")))
    made_up = replace(start, images="class:99", basket="7.7", layer=9)
    chosen = writer.written(shelf, made_up.data(), writer.GESTURES, {"gestures": []}).chosen
    assert chosen == start


def test_a_damaged_array_behind_a_gesture_is_said(damaged: Shelf):
    known = facts(damaged.open("hurt"))
    for path in (damaged.studies / "hurt" / "attempt-1" / "entropy").glob("c.*"):
        path.write_bytes(path.read_bytes()[:-3])
    chosen = replace(default(known), images="entropy:0.0:0..1")
    told = writer.written(damaged, chosen.data(), writer.GESTURES, {"gestures": [{"kind": "key", "value": "]"}]})
    assert told.chosen == chosen
    assert "verify hurt" in told.notice


def test_a_selection_that_the_browser_made_up_starts_anew(shelf: Shelf):
    for false in ({}, [], "x", {"study": "../etc"}):
        assert writer.written(shelf, false, header.STUDY, "demo").chosen == default(facts(shelf.open("demo")))


# --- addresses beside the page ---


def pictures(shelf: Shelf, name: str = "demo") -> str:
    return routes.pictures_url(facts(shelf.open(name)))


def test_a_picture_is_what_the_model_saw(client: Any, shelf: Shelf, tmp_path: Path):
    answer = client.get(f"{pictures(shelf)}/image/3.png")
    (tmp_path / "seen.png").write_bytes(answer.data)
    seen = np.asarray(Image.open(tmp_path / "seen.png"))
    np.testing.assert_array_equal(seen, shelf.open("demo").read("pixels", 3))
    assert answer.mimetype == "image/png"
    assert client.get(f"{pictures(shelf)}/thumbnail/3.webp").mimetype == "image/webp"


def test_a_picture_is_kept_by_the_browser_for_good(client: Any, shelf: Shelf):
    answer = client.get(f"{pictures(shelf)}/image/0.png")
    assert answer.headers["Cache-Control"] == "public, immutable, max-age=31536000"
    again = client.get(f"{pictures(shelf)}/image/0.png", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_a_caption_says_what_is_known(client: Any, shelf: Shelf):
    said = client.get(f"{pictures(shelf)}/image/1.json").json
    assert said["id"] == "set/photo 001.png"
    assert said["true"] == "class 1"
    assert client.get(f"{pictures(shelf, 'no-cls')}/image/1.json").json == {"id": "set/photo 001.png"}


@pytest.mark.parametrize(
    "path",
    [
        "/studies/gone/0123456789abcdef/image/0.png",
        "/studies/demo/0123456789abcdef/image/0.png",
        "/studies/..%2f..%2fetc/x/image/0.png",
        "/studies/%00/x/image/0.png",
        "{pictures}/image/99.png",
        "{pictures}/image/-1.png",
        "{pictures}/image/x.png",
        "{pictures}/image/99999999999999999999.png",
        "{pictures}/thumbnail/8.webp",
        "{pictures}/image/8.json",
    ],
)
def test_a_picture_that_is_not_there_is_404_or_the_page_and_never_an_error(client: Any, shelf: Shelf, path: str):
    answer = client.get(path.format(pictures=pictures(shelf)))
    # Dash answers every address that is no route with the page itself.
    assert answer.status_code == (400 if "%00" in path else 404) or b"react-entry-point" in answer.data
    assert b"Traceback" not in answer.data


def test_a_damaged_picture_is_404_with_the_reason(damaged: Shelf):
    app = create_app(Settings(data=damaged.studies.parent))
    app.server.testing = True
    link = damaged.studies.parent / "studies"
    link.symlink_to(damaged.studies, target_is_directory=True)
    answer = app.server.test_client().get(f"{pictures(damaged, 'hurt')}/image/0.png")
    assert answer.status_code == 404
    assert "verify hurt" in answer.text
    assert "Cache-Control" not in answer.headers


# --- what the browser could be made to send ---


def bodies(app: Dash) -> dict[str, dict[str, Any]]:
    """A well-formed call of every callback, without values."""
    calls = {}
    for output, entry in app.callback_map.items():
        if "callback" not in entry:
            continue
        places = [_place(*name.rsplit(".", 1)) for name in names_of(output)]
        calls[output] = {
            "output": output,
            "outputs": places if output.startswith("..") else places[0],
            **{part: [_place(each["id"], each["property"]) for each in entry[part]] for part in ("inputs", "state")},
            "changedPropIds": [],
        }
    return calls


def _place(component: str, name: str) -> Any:
    if not component.startswith("{"):
        return {"id": component, "property": name, "value": None}
    return [{"id": json.loads(component.replace('["ALL"]', "1")), "property": name, "value": None}]


def call(client: Any, body: object) -> Any:
    answer = client.post("/_dash-update-component", json=body)
    assert b"Traceback" not in answer.data
    assert b"/dashboard/" not in answer.data
    return answer


def test_well_formed_calls_are_answered(app: Dash, client: Any, shelf: Shelf):
    chosen = default(facts(shelf.open("demo"))).data()
    for body in bodies(app).values():
        for place in [*body["inputs"], *body["state"]]:
            if isinstance(place, dict) and place["id"] == writer.WRITTEN:
                place["value"] = json.dumps({"selection": chosen})
        assert call(client, body).status_code in (200, 204), body["output"]


@pytest.mark.parametrize("odd", [*ODD, {"study": 1}, {"study": "demo", "layer": 1}, "a" * 5000, [1] * 50])
def test_values_of_a_wrong_kind_are_refused_in_one_line(app: Dash, client: Any, odd: object):
    for body in bodies(app).values():
        for part in ("inputs", "state"):
            for index in range(len(body[part])):
                changed = json.loads(json.dumps(body))
                place = changed[part][index]
                (place[0] if isinstance(place, list) else place)["value"] = odd
                changed["changedPropIds"] = (
                    [f"{body['inputs'][0]['id']}.x"] if isinstance(body["inputs"][0], dict) else []
                )
                answer = call(client, changed)
                assert answer.status_code < 500, (body["output"], part, index, answer.text)
                if answer.status_code >= 400:
                    assert len(answer.text) < 200


MALFORMED = [
    *(None, [], "x", 3, {}, {"output": None}, {"output": "nobody.children"}, {"output": ["x"]}),
    *({"inputs": bad} for bad in (None, {}, [None], [[]], [{"id": "x"}], "x")),
    *({"state": bad} for bad in ([1], {}, "x")),
    *({"outputs": bad} for bad in (None, [], {}, "x", [None], [{"id": None}], [[]] * 5)),
    *({"changedPropIds": bad} for bad in (None, 1, "x", [None], ["nodot"], ["{bad json.x"], ['{"a":1}'], [[]])),
]


@pytest.mark.parametrize("change", MALFORMED, ids=lambda change: json.dumps(change)[:40])
def test_a_malformed_call_is_refused_in_one_line(app: Dash, client: Any, change: object):
    for body in bodies(app).values():
        part = next(iter(change)) if isinstance(change, dict) and change else None
        if part == "state" and not body["state"] and change == {"state": []}:
            continue
        answer = call(client, {**body, **change} if part else change)
        assert 400 <= answer.status_code < 500, (body["output"], answer.text)
        assert len(answer.text) < 200


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{", 400),
        ("application/json", b"", 400),
        ("text/plain", b"{}", 400),
        ("application/json", b"[" * 100_000, 400),
        ("application/json", b'"' + b"x" * 2_000_000 + b'"', 413),
    ],
)
def test_a_body_that_is_no_json_or_too_long_is_refused(client: Any, kind: str, body: bytes, status: int):
    answer = client.post("/_dash-update-component", data=body, content_type=kind)
    assert answer.status_code == status
    assert len(answer.text) < 200


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a piece of JSON."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*path, key)
        yield from places(part, (*path, key))


@pytest.mark.parametrize("calls", [400, pytest.param(10_000, marks=pytest.mark.hostile)])
def test_calls_with_anything_changed_are_answered_or_refused(app: Dash, client: Any, shelf: Shelf, calls: int):
    rng = random.Random(calls)
    well_formed = list(bodies(app).values())
    chosen = default(facts(shelf.open("unlabelled"))).data()
    statuses = Counter()
    for _ in range(calls):
        body = copy.deepcopy(rng.choice(well_formed))
        for place in [*body["inputs"], *body["state"]]:
            (place if isinstance(place, dict) else place[0])["value"] = copy.deepcopy(
                rng.choice([*ODD, chosen, chosen])
            )
        for _ in range(rng.randint(0, 2)):
            *way, last = rng.choice(list(places(body)))
            target = functools.reduce(lambda part, key: part[key], way, body)
            target[last] = copy.deepcopy(rng.choice([*ODD, chosen]))
        answer = call(client, body)
        assert answer.status_code < 500, (body, answer.text)
        statuses[answer.status_code] += 1
    # Both kinds were tried: what is refused before it reaches a callback, and what does reach one.
    assert min(statuses[400], statuses[200] + statuses[204]) > calls / 10
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("soft", "hard", "most", "raised"),
    [
        (1_024, 20_000, 2_000, (2_224, 20_000)),
        (1_024, 1_024, 800, None),
        (20_000, 20_000, 2_000, None),
        (1_024, resource.RLIM_INFINITY, 2_000, (2_224, resource.RLIM_INFINITY)),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 2_000, None),
    ],
)
def test_a_server_holds_as_many_connections_as_it_may_have_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int, raised: tuple[int, int] | None
):
    made = []
    monkeypatch.setattr(resource, "getrlimit", lambda of: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda of, limits: made.append(limits))
    assert room_for_connections() == most
    assert made == ([raised] if raised else [])


def test_a_server_leaves_what_it_started_with_out_of_garbage_collections(data: Path):
    before = gc.get_freeze_count()
    try:
        server = create_server(Settings(data=data))
        assert gc.get_freeze_count() > before + 10_000
        assert server.test_client().get("/health").status_code == 200
    finally:
        gc.unfreeze()
