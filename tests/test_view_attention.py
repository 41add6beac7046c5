"""The attention of one head: what the browser is sent, what stands there without an image, and what can leave."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash.development.base_component import Component
from flask.testing import FlaskClient

from dashboard.app import create_app
from dashboard.data import Shelf, StudyFacts, facts, per_image
from dashboard.routes import pictures_url
from dashboard.selection import Selection, default
from dashboard.theme import LIGHT
from dashboard.views import head_attention as view
from store.errors import StoreError
from store.settings import Settings
from tests.fake_desk import FakeDesk
from tests.studies import compute, tiny_study

KINDS: dict[str, dict[str, Any]] = {
    "cls": {"images": 20, "labelled": 12},
    "rebuilt": {"attention": "rebuilt"},
    "mean": {"has_cls": False, "prefix": 0, "classes": 0, "labelled": 0},
    "registers": {"has_cls": True, "prefix": 5, "grid": (2, 4)},
}
WIDE = (0.001, 1.0, 37.5, 100.0)  # per cent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, changes in KINDS.items():
        compute(folder / "studies" / name, tiny_study(**changes))
    odd = tiny_study(images=3, labelled=3)
    odd.arrays["attention"][1, 1, 0, 2, 3] = np.nan
    odd.arrays["importance"][:, 0, 0, 0] = np.nan
    compute(folder / "studies" / "odd", odd)
    return folder


@pytest.fixture(scope="module")
def shelf(data: Path) -> Shelf:
    return Shelf(data / "studies")


@pytest.fixture(scope="module")
def client(data: Path) -> Iterator[FlaskClient]:
    with create_app(Settings(data=data), FakeDesk()).server.test_client() as client:
        yield client


def picked(shelf: Shelf, name: str, **changes: Any) -> tuple[StudyFacts, Selection]:
    """A study, and its first image selected."""
    known = facts(shelf.open(name))
    return known, replace(default(known), image=known.image_ids[0], **changes)


def address(known: StudyFacts, image: int = 0, layer: int = 0, head: int = 0) -> str:
    return f"{pictures_url(known)}/attention/{image}/{layer}/{head}.f16"


# --- what the browser is sent ---


@pytest.mark.parametrize("name", ["cls", "registers", "rebuilt"])
def test_the_browser_is_sent_the_stores_values_in_float16(client: FlaskClient, shelf: Shelf, name: str):
    known = facts(shelf.open(name))
    answer = client.get(address(known, image=3, layer=1, head=1))
    assert answer.mimetype == "application/octet-stream"
    sent = np.frombuffer(answer.data, "<f2").reshape(known.num_tokens, known.num_tokens)
    attn = known.study.attention(3, 1, 1)
    np.testing.assert_array_equal(sent, attn.astype(np.float16))
    if name != "rebuilt":
        np.testing.assert_array_equal(sent.astype(np.float32), attn)  # nothing was lost: it is stored so


def test_attention_is_kept_for_good_by_the_browser(client: FlaskClient, shelf: Shelf):
    known = facts(shelf.open("cls"))
    answer = client.get(address(known))
    assert answer.cache_control.immutable
    assert answer.cache_control.max_age == 31_536_000
    again = client.get(address(known), headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ({"image": 20}, "study cls has images 0 to 19"),
        ({"layer": 2}, "layer 2 is not in vit_tiny_test, which has layers 0 to 1"),
        ({"head": 2}, "head 2 is not in vit_tiny_test, which has heads 0 to 1"),
    ],
)
def test_what_is_not_there_is_404_and_says_what_is(client: FlaskClient, shelf: Shelf, place: dict[str, int], said: str):
    answer = client.get(address(facts(shelf.open("cls")), **place))
    assert (answer.status_code, answer.text) == (404, said)
    assert not answer.cache_control.immutable


def test_another_content_than_the_pages_is_404(client: FlaskClient):
    answer = client.get("/studies/cls/0123456789abcdef/attention/0/0/0.f16")
    assert answer.status_code == 404
    assert "reload the page" in answer.text


def test_attention_that_is_not_finite_is_404_and_names_head_and_image(client: FlaskClient, shelf: Shelf):
    known = facts(shelf.open("odd"))
    answer = client.get(address(known, image=1, layer=1))
    assert answer.status_code == 404
    assert "L1·H0 on set/photo 001.png is not finite" in answer.text
    assert client.get(address(known, image=1)).status_code == 200


def test_a_damaged_tile_is_404_with_what_to_do(tmp_path: Path):
    compute(tmp_path / "studies" / "hurt", tiny_study(images=2, unit_images=2))
    shelf = Shelf(tmp_path / "studies")
    known = facts(shelf.open("hurt"))
    for path in known.study.path.glob("attention/c.*"):
        path.write_bytes(path.read_bytes()[:-3])
    answer = create_app(Settings(data=tmp_path), FakeDesk()).server.test_client().get(address(known))
    assert answer.status_code == 404
    assert "headscope verify hurt" in answer.text


# --- what is drawn ---


def test_the_panel_is_filled_by_the_browser_and_not_by_dash():
    every = [each for each in view.layout()._traverse() if isinstance(each, Component)]
    assert len(every) < 15
    [views] = [each.to_plotly_json()["props"] for each in every if getattr(each, "id", None) == view.VIEWS]
    assert views.get("children") is None  # which would be React's, and attention.js fills it


def test_without_an_image_those_of_the_set_on_which_the_head_matters_most_stand_there(shelf: Shelf):
    known, chosen = picked(shelf, "cls", metric="jsd", layer=1, head=0)
    effect = per_image(known.study, "jsd", 1, 0)
    assert view.suggested(known, chosen) == list(np.argsort(-effect)[: view.MOST_SUGGESTED])
    few = replace(chosen, image=None, images="id:photo 00")
    assert view.suggested(known, few) == list(np.argsort(-effect[:10]))
    buttons, reading = view.draw(known, few)
    assert [int(button.to_plotly_json()["props"]["data-index"]) for button in buttons] == view.suggested(known, few)
    assert reading.startswith("Pick an image to see where L1·H0 looks.")


def test_an_image_without_a_number_is_never_suggested(shelf: Shelf):
    known, chosen = picked(shelf, "odd", layer=0, head=0)
    assert sorted(view.suggested(known, chosen)) == [1, 2]
    assert view.suggested(known, replace(chosen, images="id:photo 000")) == []


def test_with_an_image_nothing_is_suggested_and_rebuilt_attention_says_so(shelf: Shelf):
    for name, rebuilt in (("cls", False), ("rebuilt", True)):
        buttons, reading = view.draw(*picked(shelf, name))
        assert buttons == []
        assert ("Rebuilt." in str(reading)) == rebuilt
    assert view.blank(LIGHT) == ([],)


# --- what can leave ---


@pytest.mark.parametrize("export", view.EXPORTS, ids=lambda export: export.name)
@pytest.mark.parametrize(("name", "token"), [("cls", None), ("cls", 4), ("mean", None), ("registers", 2)])
def test_the_python_lines_give_the_numbers_that_leave(
    shelf: Shelf, data: Path, monkeypatch: pytest.MonkeyPatch, export: Any, name: str, token: int | None
):
    monkeypatch.setenv("HEADSCOPE_DATA", str(data))
    known, chosen = picked(shelf, name, token=token, top=12.5)
    names: dict[str, Any] = {}
    exec(export.python(known, chosen), names)
    numbers = export.numbers(known, chosen)
    assert names["numbers"].keys() == numbers.keys()
    for column, values in numbers.items():
        np.testing.assert_array_equal(names["numbers"][column], values, err_msg=column)


def test_the_matrix_leaves_as_the_store_has_it(shelf: Shelf):
    known, chosen = picked(shelf, "cls", layer=1, head=1)
    table = view.matrix_numbers(known, chosen)
    attn = known.study.attention(0, 1, 1)
    assert len(table["attention"]) == attn.size
    np.testing.assert_array_equal(attn[table["query"], table["key"]], table["attention"])


@pytest.mark.parametrize("top", WIDE)
@pytest.mark.parametrize("name", ["cls", "rebuilt"])
def test_the_lines_that_leave_are_the_strongest_and_all_of_them(shelf: Shelf, name: str, top: float):
    known, chosen = picked(shelf, name, top=top)
    lines = view.lines_numbers(known, chosen)
    drawn = known.study.attention(0, chosen.layer, chosen.head).astype(np.float16)
    wanted = max(1, int(top / 100 * drawn.size + 0.5))
    least = view.least_shown(drawn, top)
    assert (drawn > least).sum() < wanted <= (drawn >= least).sum() == len(lines["query"])
    assert lines["attention"].astype(np.float16).min() == least


def test_every_value_is_in_the_histogram_that_leaves(shelf: Shelf):
    known, chosen = picked(shelf, "cls")
    bars = view.histogram_numbers(known, chosen)
    assert bars["count"].sum() == known.num_tokens**2
    np.testing.assert_array_equal(bars["from"][1:], bars["to"][:-1])


def test_the_masks_that_leave_are_a_column_and_a_row(shelf: Shelf):
    known, chosen = picked(shelf, "registers", token=6)
    attn = known.study.attention(0, chosen.layer, chosen.head)
    masks = view.mask_numbers(known, chosen)
    np.testing.assert_array_equal(masks["source"], attn[5:, 6])
    np.testing.assert_array_equal(masks["target"], attn[6, 5:])
    assert list(zip(masks["row"], masks["column"], strict=True))[-1] == (1, 3)
    known, chosen = picked(shelf, "mean")
    mean = known.study.attention(0, chosen.layer, chosen.head).mean(axis=0)
    np.testing.assert_array_equal(view.mask_numbers(known, chosen)["target"], mean)


def test_without_an_image_nothing_leaves_and_it_says_why(shelf: Shelf):
    known, chosen = picked(shelf, "cls")
    for export in view.EXPORTS:
        for made in (export.numbers, export.python):
            with pytest.raises(StoreError, match="pick one"):
                made(known, replace(chosen, image=None))
