"""What is picked: every gesture gives the next selection, and every selection is an address."""

import json
import re
import string
from dataclasses import replace

import pytest
from dash import html

from dashboard.app import ASSETS
from dashboard.image_sets import Ids, conditions_of
from dashboard.selection import (
    MOST_IN_BASKET,
    Facts,
    Selection,
    after_key,
    asked_for,
    default,
    find_image,
    fits,
    head_label,
    resolve,
    to_search,
    with_basket,
    with_choice,
    with_class_toggled,
    with_entropy,
    with_head,
    with_image,
    with_large,
    with_lasso,
    with_point,
    with_prediction,
    with_probability,
    with_rank,
    with_study,
    with_token,
    with_top,
)
from dashboard.views.header import help_window

# Names as people give them: spaces, signs that mean something in an address, other scripts, markup.
ODD_IDS = [
    "a b/ü.png",
    "50%&x=1#?.jpg",
    "écran/ 日本/'quote\".png",
    "<b>bold</b>.png",
    "a+b.png",
    "study=x",
    "%2e%2e/",
    "0",
]


def facts(**changes: object) -> Facts:
    given = {
        "name": "demo",
        "num_layers": 3,
        "num_heads": 4,
        "num_tokens": 10,
        "has_cls": True,
        "image_ids": ODD_IDS,
        "metrics": ("probability", "jsd"),
        "colours": ("class", "prediction"),
        "maps": ("patch", "cls"),
        "vectors": ("pruned_probability", "jsd"),
        "num_classes": 5,
        "has_labels": True,
        "interesting": (2, 1, ODD_IDS[3]),
    }
    return Facts(**(given | changes))


FACTS = facts()
START = default(FACTS)


# Every field other than it is at first.
OTHER = Selection(
    study="demo",
    images="class:1,3;prediction:wrong;p:0.1..0.9;id:%3Bdog%3A;lasso:jsd:0,0,1,0,1,-2.5;entropy:2.3:0.1..0.25",
    image=ODD_IDS[0],
    layer=1,
    head=3,
    metric="jsd",
    colour="prediction",
    curve="grid",
    sort="importance",
    regions=6,
    basket="0.1,2.3",
    map="cls",
    map_as="density",
    map_colour="pattern",
    token=9,
    direction="to",
    top=12.5,
    large="pruning",
    tab="strength",
    theme="dark",
)


def test_nothing_asked_for_is_the_interesting_head_and_image():
    assert (START.study, START.layer, START.head, START.image) == ("demo", 2, 1, ODD_IDS[3])
    assert (START.images, START.basket, START.token, START.top, START.regions) == ("", "", None, 1.0, 15)
    assert resolve({}, FACTS) == (START, [])


def test_the_other_selection_of_these_tests_differs_in_every_field():
    same = [name for name, value in START.data().items() if OTHER.data()[name] == value]
    assert same == ["study"]


@pytest.mark.parametrize("image", [*ODD_IDS, None])
@pytest.mark.parametrize("chosen", [START, OTHER])
def test_every_selection_is_an_address(chosen: Selection, image: str | None):
    chosen = replace(chosen, image=image)
    search = to_search(chosen, FACTS)
    assert resolve(asked_for(search), FACTS) == (chosen, [])
    assert search.isascii()
    assert not set(search) & set(" \"<>'#")


@pytest.mark.parametrize("field", [name for name in OTHER.data() if name != "study"])
def test_each_field_alone_survives_the_address(field: str):
    chosen = replace(START, **{field: getattr(OTHER, field)})
    assert resolve(asked_for(to_search(chosen, FACTS)), FACTS) == (chosen, [])


def test_what_is_as_it_would_be_anyway_is_not_in_the_address():
    assert to_search(replace(START, image="0"), FACTS) == "?study=demo&image=0&layer=2&head=1&theme=light"


@pytest.mark.parametrize(
    "search",
    [
        None,
        3,
        "",
        "?",
        "?study",
        "?&&&",
        "?=&=",
        "?layer=",
        "?%",
        "?%ff=%fe",
        "?x=" + "y" * 10_000,
        "?image=\x00",
        "?🙂=🙂",
    ],
)
def test_an_odd_address_asks_for_nothing_it_does_not_name(search: object):
    asked = asked_for(search)
    chosen, _ = resolve(asked, FACTS)
    assert fits(chosen, FACTS)


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("?layer=3", "layer '3' is not in demo, which has layers 0 to 2"),
        ("?layer=-1", "layer '-1' is not in demo, which has layers 0 to 2"),
        ("?layer=²", "layer '²' is not in demo, which has layers 0 to 2"),
        (
            "?layer=99999999999999999999999",
            "layer '99999999999999999999999' is not in demo, which has layers 0 to 2",
        ),
        ("?head=1.0", "head '1.0' is not in demo, which has heads 0 to 3"),
        ("?token=10", "token '10' is not in demo, which has tokens 0 to 9"),
        ("?metric=speed", "metric 'speed' is not in demo, which has probability, jsd"),
        ("?colour=red", "colour 'red' is not in demo, which has class, prediction"),
        ("?map=pooled", "map 'pooled' is not in demo, which has patch, cls"),
        ("?map_colour=red", "map_colour 'red' is not in demo, which has layer, pattern, importance"),
        ("?top=0", "top '0.0' is not in demo, which has 0.001 to 100 per cent"),
        ("?top=nan", "top 'nan' is not in demo, which has 0.001 to 100 per cent"),
        ("?top=much", "top 'much' is not in demo, which has 0.001 to 100 per cent"),
        ("?regions=16", f"regions '16' is not in demo, which has {', '.join(map(str, range(16)))}"),
        ("?basket=0.1,0.1", "basket '0.1,0.1' is not in demo, which has L0·H0 to L2·H3"),
        ("?basket=0.1,7.0", "basket '0.1,7.0' is not in demo, which has L0·H0 to L2·H3"),
        ("?basket=all", "basket 'all' is not in demo, which has L0·H0 to L2·H3"),
        ("?images=class:9", "classes end at 4"),
        ("?images=lasso:speed:0,0,1,1,2,0", "'speed' is no layout of demo, which has pruned_probability, jsd"),
        ("?images=entropy:3.0:0..1", "L3·H0 is not in demo"),
        (
            "?images=nice",
            "images 'nice': 'nice' is no condition; there are class, prediction, p, id, lasso, entropy, "
            "each with : after it",
        ),
        ("?image=nobody.png", "image 'nobody.png' is not in demo, which has 8 images"),
    ],
)
def test_what_the_study_has_not_is_said_and_the_default_taken(search: str, said: str):
    chosen, problems = resolve(asked_for(search), FACTS)
    assert problems == [said]
    assert chosen == (replace(START, image=None) if "image=" in search else START)


def test_an_empty_image_is_no_image_and_a_missing_one_the_default():
    assert resolve(asked_for("?image="), FACTS)[0].image is None
    assert resolve(asked_for("?layer=0"), FACTS)[0].image == START.image


def test_the_browser_gets_back_what_it_sent():
    assert Selection.from_data(START.data()) == START


@pytest.mark.parametrize(
    "data",
    [
        *(None, [], "x", 3, {}),
        *({**START.data(), "layer": bad} for bad in ("1", 1.5, None, True, [])),
        *({**START.data(), "image": bad} for bad in (1, [], {})),
        *({**START.data(), "top": bad} for bad in ("1", None, True)),
        {**START.data(), "images": None},
        {**START.data(), "more": 1},
        {name: value for name, value in START.data().items() if name != "token"},
    ],
)
def test_what_is_no_selection_is_refused(data: object):
    with pytest.raises(ValueError, match="reload the page"):
        Selection.from_data(data)


def test_a_click_on_an_image_selects_it_and_the_next_one_releases_it():
    once = with_image(START, FACTS, 5)
    assert once.image == ODD_IDS[5]
    assert with_image(once, FACTS, 5).image is None


def test_a_place_of_the_curve_is_a_head_counted_through_the_layers():
    assert [(c.layer, c.head) for c in (with_rank(START, FACTS, rank) for rank in range(12))] == [
        (layer, head) for layer in range(3) for head in range(4)
    ]


@pytest.mark.parametrize("odd", [-1, 12, 1.5, "3", None, True, [], {}, float("nan"), float("inf"), 10**30])
def test_a_click_that_makes_no_sense_changes_nothing(odd: object):
    assert with_rank(START, FACTS, odd) == START
    assert with_image(START, FACTS, odd) == START
    assert with_head(START, FACTS, odd, 0) == START
    assert with_head(START, FACTS, 0, odd) == START
    if odd != 12:  # heads of all images: a hundred
        assert with_point(START, FACTS, odd) == START


def test_a_point_of_the_map_is_a_head_on_an_image_and_again_releases_the_image():
    place = 5 * 12 + 7
    once = with_point(START, FACTS, place)
    assert once == replace(START, image=ODD_IDS[5], layer=1, head=3)
    assert with_point(once, FACTS, place) == replace(once, image=None)
    assert with_point(once, FACTS, place + 1) == replace(once, layer=2, head=0)
    assert with_point(once, FACTS, 2 * 12 + 7) == replace(once, image=ODD_IDS[2])
    assert with_point(once, FACTS, len(ODD_IDS) * 12) == once


def test_a_map_that_the_study_lacks_is_not_chosen():
    assert with_choice(START, FACTS, "map", "cls").map == "cls"
    assert with_choice(START, FACTS, "map", "pooled") == START
    assert with_choice(START, facts(maps=("patch",)), "map", "cls") == START
    assert with_choice(START, FACTS, "map_colour", "pattern").map_colour == "pattern"
    assert with_choice(START, FACTS, "map_as", "density").map_as == "density"


def test_regions_are_told_as_a_number_or_as_the_text_of_a_button():
    assert with_choice(START, FACTS, "regions", "6").regions == 6
    assert with_choice(START, FACTS, "regions", 9).regions == 9
    assert with_choice(START, FACTS, "regions", 16) == with_choice(START, FACTS, "regions", "x") == START
    assert with_choice(START, facts(has_cls=False), "regions", 6) == START


def test_heads_are_put_in_the_basket_and_taken_out():
    one = with_basket(START, FACTS, 0, 3)
    two = with_basket(one, FACTS, 2, 1)
    assert two.basket_heads == two.heads_pruned == ((0, 3), (2, 1))
    assert START.heads_pruned == ((2, 1),)
    assert with_basket(two, FACTS, 0, 3).basket_heads == ((2, 1),)
    assert with_basket(with_basket(two, FACTS, 0, 3), FACTS, 2, 1).basket == ""
    assert with_basket(START, FACTS, 3, 0) == START


def test_a_full_basket_takes_no_more():
    many = facts(num_layers=10, num_heads=10)
    chosen = START
    for head in range(40):
        chosen = with_basket(chosen, many, *divmod(head, 10))
    assert len(chosen.basket_heads) == MOST_IN_BASKET
    assert fits(chosen, many)


def test_the_threshold_is_a_share_of_the_values():
    assert with_top(START, 0.123456).top == 0.1235
    for odd in (0, -1, 101, None, "1", True, float("nan")):
        assert with_top(START, odd) == START


def test_a_panel_fills_the_screen_and_goes_back():
    large = with_large(START, FACTS, "pruning")
    assert large.large == "pruning"
    assert with_large(large, FACTS, "pruning").large == ""
    assert with_large(large, FACTS, "head-card").large == "head-card"
    assert with_large(START, FACTS, "everything") == START


def test_a_token_is_pinned_released_and_never_pinned_where_it_is_shown_anyway():
    pinned = with_token(START, FACTS, 5)
    assert (pinned.token, pinned.direction) == (5, "both")
    assert with_token(pinned, FACTS, 5) == START
    assert with_token(pinned, FACTS, 5, "from") == replace(pinned, direction="from")
    assert with_token(replace(pinned, direction="from"), FACTS, 5, "from") == START
    assert with_token(pinned, FACTS, 0) == START
    assert with_token(pinned, FACTS, 0, "to") == replace(START, direction="to")
    assert with_token(pinned, FACTS, 6, "sideways") == pinned
    without_cls = facts(has_cls=False)
    assert with_token(START, without_cls, 0).token == 0
    assert with_token(pinned, without_cls, None).token is None


def test_arrows_walk_through_all_heads_and_stop_at_the_ends():
    chosen = replace(START, layer=0, head=0)
    walked = [chosen]
    for _ in range(20):
        chosen = after_key(chosen, FACTS, "ArrowRight")
        walked.append(chosen)
    assert [(c.layer, c.head) for c in walked[:6]] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert (chosen.layer, chosen.head) == (2, 3)
    assert after_key(chosen, FACTS, "ArrowLeft").head == 2
    assert after_key(chosen, FACTS, "ArrowUp").layer == 1
    assert after_key(chosen, FACTS, "ArrowDown") == chosen


def test_brackets_walk_through_the_images_in_a_ring():
    first = after_key(replace(START, image=None), FACTS, "]")
    assert first.image == ODD_IDS[0]
    assert after_key(first, FACTS, "]").image == ODD_IDS[1]
    assert after_key(first, FACTS, "[").image == ODD_IDS[-1]
    assert after_key(replace(START, image=None), FACTS, "[").image == ODD_IDS[-1]


def test_brackets_walk_through_the_image_set():
    among = [2, 5, 7]
    chosen = replace(START, image=None)
    walked = [chosen := after_key(chosen, FACTS, "]", among) for _ in range(4)]
    assert [each.image for each in walked] == [ODD_IDS[index] for index in (2, 5, 7, 2)]
    outside = replace(START, image=ODD_IDS[3])
    assert after_key(outside, FACTS, "]", among).image == ODD_IDS[5]
    assert after_key(outside, FACTS, "[", among).image == ODD_IDS[2]
    assert after_key(replace(START, image=ODD_IDS[2]), FACTS, "[", among).image == ODD_IDS[7]
    assert after_key(outside, FACTS, "]", []) == outside


def test_escape_takes_one_thing_back_after_the_other_and_other_keys_do_nothing():
    chosen = replace(START, large="pruning", token=3, images="class:1")
    for field, value in (("large", ""), ("token", None), ("image", None), ("images", "")):
        chosen = after_key(chosen, FACTS, "Escape")
        assert getattr(chosen, field) == value
    assert chosen == replace(START, image=None) == after_key(chosen, FACTS, "Escape")
    for key in ("x", "Enter", "", None, 3, []):
        assert after_key(START, FACTS, key) == START


def test_the_page_sends_the_keys_that_move_the_selection_and_no_others():
    sent = json.loads(re.search(r"const MOVES = (\[.*?\]);", (ASSETS / "keys.js").read_text())[1])
    chosen = replace(START, layer=1, images="class:1")
    moves = [key for key in {*sent, *string.printable, "Enter", "Tab"} if after_key(chosen, FACTS, key) != chosen]
    assert sorted(moves) == sorted(sent)


def test_the_help_and_the_docs_list_the_keys_of_the_page():
    script = (ASSETS / "keys.js").read_text()
    keys = json.loads(re.search(r"const MOVES = (\[.*?\]);", script)[1]) + re.findall(r'event\.key === "(.)"', script)
    shown = {"ArrowLeft": "←", "ArrowRight": "→", "ArrowUp": "↑", "ArrowDown": "↓", "Escape": "Esc"}
    body = help_window().children[1].children
    table = next(part for part in body if isinstance(part, html.Table))
    helped = [row.children[0].children.children for row in table.children.children]
    docs = (ASSETS.parents[1] / "docs" / "using.md").read_text().partition("## Keys")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| (.+?) \|", docs, re.MULTILINE)[1:]
    assert helped == documented
    assert sorted(" ".join(helped).split()) == sorted(shown.get(key, key) for key in keys)


def test_a_key_puts_the_head_in_the_basket_and_one_takes_the_last_condition_back():
    assert after_key(START, FACTS, "b").basket_heads == ((2, 1),)
    chosen = replace(START, images="class:1;prediction:wrong")
    assert after_key(chosen, FACTS, "u").images == "class:1"
    assert after_key(START, FACTS, "u") == START


def test_a_metric_that_the_study_lacks_is_not_chosen():
    assert with_choice(START, FACTS, "metric", "jsd").metric == "jsd"
    assert with_choice(START, FACTS, "metric", "cls_distance") == START
    assert with_choice(START, FACTS, "colour", "prediction").colour == "prediction"


def test_another_study_keeps_what_is_chosen_by_a_button_and_drops_what_is_of_the_study():
    other = facts(name="other", colours=("plain",), interesting=(0, 2, None))
    kept = replace(OTHER, study="other", images="", image=None, layer=0, head=2, colour="plain", basket="", token=None)
    assert with_study(OTHER, other) == kept
    assert with_study(OTHER, facts(name="other", maps=("patch",))).map == "patch"
    assert with_study(OTHER, FACTS) == OTHER


def test_an_image_is_found_by_its_id_and_several_by_a_part_of_theirs():
    assert find_image(START, FACTS, "a+b.png")[0].image == "a+b.png"
    assert find_image(START, FACTS, " BOLD ")[0].image == "<b>bold</b>.png"
    assert find_image(START, FACTS, "") == (START, "")
    assert find_image(START, FACTS, "goldfish") == (START, "no image of demo has 'goldfish' in its id")
    several, said = find_image(START, FACTS, ".png")
    assert (conditions_of(several.images), said) == ((Ids(".png"),), "")


def test_classes_are_toggled():
    one = with_class_toggled(START, FACTS, 3)
    assert with_class_toggled(one, FACTS, 1).images == "class:3,1"
    assert with_class_toggled(one, FACTS, 3) == START
    assert with_class_toggled(START, FACTS, 5) == START


def test_predictions_and_ranges_make_a_set_and_their_whole_range_unmakes_it():
    wrong = with_prediction(START, FACTS, "wrong")
    assert wrong.images == "prediction:wrong"
    assert with_prediction(wrong, FACTS, "right").images == "prediction:right"
    assert with_prediction(wrong, FACTS, "wrong") == START
    low = with_probability(wrong, FACTS, [0.5, 0.25])
    assert low.images == "prediction:wrong;p:0.25..0.5"
    assert with_probability(low, FACTS, [0, 1]) == wrong
    brushed = with_entropy(START, FACTS, [0.91234567, 0.2])
    assert brushed.images == "entropy:2.1:0.2..0.9123"
    assert with_entropy(brushed, FACTS, None) == START
    assert (
        with_entropy(replace(brushed, head=0), FACTS, [0, 0.5]).images == "entropy:2.1:0.2..0.9123;entropy:2.0:0..0.5"
    )


def test_a_lasso_is_of_the_layout_that_it_was_drawn_on_and_the_next_takes_its_place():
    corners = [(0.0, 0.0), (1.23456, 0.0), (1.0, 2.0)]
    once = with_lasso(START, FACTS, "jsd", corners)
    assert once.images == "lasso:jsd:0,0,1.235,0,1,2"
    assert with_lasso(once, FACTS, "jsd", corners[::-1]).images == "lasso:jsd:1,2,1.235,0,0,0"
    assert with_lasso(START, FACTS, "jsd", corners[:2]) == with_lasso(START, FACTS, "speed", corners) == START


def test_a_study_without_labels_has_no_set_of_them():
    unlabelled = facts(has_labels=False)
    for move in (with_class_toggled(START, unlabelled, 1), with_prediction(START, unlabelled, "wrong")):
        assert move == START


def test_a_head_is_named_by_layer_and_head():
    assert head_label(10, 0) == "L10·H0"
