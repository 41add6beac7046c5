"""What the views share: places, caveats, words and colours."""

from types import SimpleNamespace

import numpy as np
import pytest

from dashboard import graphs
from dashboard.data import first_of, ranks
from dashboard.theme import DARK, LIGHT, PALETTES, colorscale, css, palette
from dashboard.views import header
from dashboard.words import count, number, percent, share, short_name

NAN = float("nan")


# --- ranks ---


def test_a_rank_is_a_place_from_the_largest_and_nan_has_none():
    assert ranks(np.array([[0.2, NAN], [0.9, 0.2]])).tolist() == [[2, 0], [1, 3]]


def test_nan_and_infinity_never_come_first():
    assert first_of(np.array([[NAN, 1.0], [3.0, np.inf]])) == 2
    assert first_of(np.full((2, 2), NAN)) == 0
    assert first_of(np.empty(0)) == 0


# --- what must be known of a study ---

QUIET = {
    "weights": {"kind": "pretrained"},
    "accuracy": {"top1": 0.8, "top5": 0.9, "images": 10, "near_chance": False},
    "images": {"quarantined": []},
    "nonfinite": {"images": []},
    "left_out": {},
}


def test_a_sound_study_has_no_caveats():
    assert header.caveats(QUIET, ["a"]) == []
    assert header.caveats(QUIET | {"accuracy": None}, ["a"]) == []


def test_random_weights_and_chance_are_loud_and_come_first():
    attrs = QUIET | {
        "weights": {"kind": "random"},
        "accuracy": {"top1": 0.1, "top5": 0.5, "images": 10, "near_chance": True},
        "images": {"quarantined": [{"image": "x.png", "reason": "cut short"}]},
        "nonfinite": {"images": [1]},
        "left_out": {"jsd": "no classifier", "logits": "no classifier"},
    }
    found = header.caveats(attrs, ["a.png", "b.png"])
    assert [(caveat.label, caveat.loud) for caveat in found] == [
        ("weights: RANDOM", True),
        ("accuracy near chance", True),
        ("1 unreadable", False),
        ("1 not finite", False),
        ("2 left out", False),
    ]
    assert "x.png: cut short" in found[2].said
    assert "b.png" in found[3].said
    assert found[4].said == ("jsd, logits: no classifier.",)


COPIES = {"files": 7, "images": 15, "contradicting": 1, "examples": [["cat/1.png", "dog/9.png"], ["a.png", "b.png"]]}


def test_copies_and_their_contradicting_labels_are_known_before_the_study_is_believed():
    (caveat,) = header.caveats(QUIET | {"images": {"quarantined": [], "copies": COPIES}}, [])
    assert caveat.label == "1 labelled two ways"
    assert caveat.said[0] == (
        "15 images are copies, byte for byte, of 7 pictures; each counts in what is said of all images."
    )
    assert caveat.said[1].startswith("Copies of 1 picture have different labels")
    assert caveat.said[2:4] == ("cat/1.png = dog/9.png", "a.png = b.png")
    assert caveat.said[-1].startswith("… and more")
    alike = COPIES | {"contradicting": 0, "files": 2}
    (caveat,) = header.caveats(QUIET | {"images": {"quarantined": [], "copies": alike}}, [])
    assert caveat.label == "15 copies"
    assert caveat.said[1:] == ("cat/1.png = dog/9.png", "a.png = b.png")


def test_the_line_of_a_study_has_the_accuracy_with_each_picture_counted_once_beside_the_other():
    accuracy = QUIET["accuracy"] | {"once": {"top1": 0.75, "top5": 0.9, "images": 8}}
    attrs = {"model": {"name": "vit"}, "accuracy": accuracy}
    facts = SimpleNamespace(grid=(3, 3), num_layers=2, num_heads=3, image_ids=["a"] * 10)

    def line():
        return header.study_line(SimpleNamespace(**vars(facts), study=SimpleNamespace(attrs=attrs)))

    assert line().endswith(" · 10 images · top-1 80.0\u202f% (75.0\u202f% with each picture counted once)")
    accuracy["once"] = {"top1": None, "top5": None, "images": 0}  # every picture has two labels
    assert line().endswith("top-1 80.0\u202f%")
    del accuracy["once"]
    assert line().endswith("top-1 80.0\u202f%")


def test_what_was_ignored_is_listed_as_far_as_the_study_names_it():
    ignored = {"files": 53, "first": [f"{n}.txt" for n in range(50)]}
    (caveat,) = header.caveats(QUIET | {"images": {"quarantined": [], "ignored": ignored}}, [])
    assert (caveat.label, caveat.said[1], caveat.said[-1]) == ("53 ignored", "0.txt", "… and 3 more")


def test_a_long_list_is_cut_and_says_so():
    broken = [{"image": f"{n}.png", "reason": "cut short"} for n in range(header.MOST_LISTED + 5)]
    (caveat,) = header.caveats(QUIET | {"images": {"quarantined": broken}}, [])
    assert caveat.said[-1].startswith("… and 5 more")


def test_a_study_that_cannot_be_opened_cannot_be_picked():
    entries = [
        SimpleNamespace(
            name="a", problem=None, manifest=SimpleNamespace(study="a", run={}), units_done=0, units_total=0
        ),
        SimpleNamespace(name="b", problem=None, manifest=None, units_done=3, units_total=12),
        SimpleNamespace(name="c", problem="cut short", manifest=None, units_done=0, units_total=0),
    ]
    assert [(pick["label"], pick["disabled"]) for pick in header.options(entries)] == [
        ("a", False),
        ("b (3 of 12 units)", True),
        ("c (damaged)", True),
    ]


# --- words and colours ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(
            (0.0, "0"),
            (0.5346, "0.535"),
            (-0.0253, "−0.0253"),
            (12.345, "12.3"),
            (1.0, "1.00"),
            (0.00099, "9.9e−4"),
        ),
        *((123.456, "123"), (-3e-9, "−3.0e−9"), (NAN, "–"), (float("inf"), "–"), (99999.0, "1.0e5")),
    ],
)
def test_numbers_have_three_figures_and_a_true_minus(value: float, text: str):
    assert number(value) == text


def test_words_are_counted_and_shortened():
    assert (count(1, "image"), count(1200, "image")) == ("1 image", "1,200 images")
    assert short_name("tench, Tinca tinca") == "tench"
    assert percent(0.8324) == "83.2\u202f%"
    assert (share(0.8374), share(NAN)) == ("84\u202f%", "–")


def test_both_themes_have_every_colour():
    for name in PALETTES:
        assert f"[data-bs-theme={name}]" in css()
    assert palette("dark") is DARK
    assert palette(None) is palette("light") is palette(["dark"]) is LIGHT


def test_the_selections_colour_is_used_for_nothing_else():
    for colours in PALETTES.values():
        others = [value for name, value in vars(colours).items() if name != "accent"]
        assert colours.accent not in str(others)


def test_a_ramp_spans_its_scale():
    assert colorscale(("#000000", "#888888", "#ffffff")) == [[0, "#000000"], [0.5, "#888888"], [1, "#ffffff"]]


def test_no_graph_offers_to_upload_its_data():
    for zoom in (False, True):
        config = graphs.graph("x", zoom).config
        assert config["showSendToCloud"] is False
        assert config["plotlyServerURL"] == ""
        assert config["displaylogo"] is False
