"""What is picked: every gesture gives the next selection, and every selection is an address."""

from dataclasses import replace

import pytest

from dashboard.selection import (
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
    with_choice,
    with_head,
    with_image,
    with_point,
    with_rank,
    with_study,
    with_token,
)

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
        "interesting": (2, 1, ODD_IDS[3]),
    }
    return Facts(**(given | changes))


FACTS = facts()
START = default(FACTS)


def test_nothing_asked_for_is_the_interesting_head_and_image():
    assert (
        Selection("demo", ODD_IDS[3], 2, 1, "probability", "class", "patch", "layer", "numbers", "all", None) == START
    )
    assert resolve({}, FACTS) == (START, [])


@pytest.mark.parametrize("image", [*ODD_IDS, None])
@pytest.mark.parametrize("token", [None, 0, 9])
def test_every_selection_is_an_address(image: str | None, token: int | None):
    chosen = Selection("demo", image, 1, 3, "jsd", "prediction", "cls", "density", "pruning", "crossing", token)
    search = to_search(chosen)
    assert resolve(asked_for(search), FACTS) == (chosen, [])
    assert search.isascii()
    assert not set(search) & set(" \"<>'#")


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
        ("?map_colour=red", "map_colour 'red' is not in demo, which has layer, pattern, density"),
        ("?image=nobody.png", "image 'nobody.png' is not in demo, which has 8 images"),
    ],
)
def test_what_the_study_has_not_is_said_and_the_default_taken(search: str, said: str):
    chosen, problems = resolve(asked_for(search), FACTS)
    assert problems == [said]
    assert chosen == (replace(START, image=None) if "image" in search else START)


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


def test_a_token_is_pinned_released_and_never_pinned_where_it_is_shown_anyway():
    pinned = with_token(START, FACTS, 5)
    assert pinned.token == 5
    assert with_token(pinned, FACTS, 5).token is None
    assert with_token(pinned, FACTS, 0).token is None
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


def test_escape_releases_the_image_and_other_keys_do_nothing():
    assert after_key(START, FACTS, "Escape") == replace(START, image=None)
    for key in ("x", "Enter", "", None, 3, []):
        assert after_key(START, FACTS, key) == START


def test_a_metric_that_the_study_lacks_is_not_chosen():
    assert with_choice(START, FACTS, "metric", "jsd").metric == "jsd"
    assert with_choice(START, FACTS, "metric", "cls_distance") == START
    assert with_choice(START, FACTS, "colour", "prediction").colour == "prediction"


def test_another_study_keeps_the_metric_where_it_has_it():
    chosen = replace(START, metric="jsd", colour="prediction", layer=0, map="cls", map_colour="density")
    other = facts(name="other", colours=("plain",), interesting=(0, 2, None))
    assert with_study(chosen, other) == Selection(
        "other", None, 0, 2, "jsd", "plain", "cls", "density", "numbers", "all", None
    )
    assert with_study(chosen, facts(name="other", maps=("patch",))).map == "patch"
    assert with_study(chosen, FACTS) == chosen


def test_an_image_is_found_by_its_id_or_a_part_that_no_other_has():
    assert find_image(START, FACTS, "a+b.png")[0].image == "a+b.png"
    assert find_image(START, FACTS, " BOLD ")[0].image == "<b>bold</b>.png"
    assert find_image(START, FACTS, "") == (START, "")
    assert find_image(START, FACTS, "goldfish") == (START, "no image of demo has 'goldfish' in its id")
    assert find_image(START, FACTS, ".png")[1].startswith("4 images have '.png' in their id, as ")


def test_a_head_is_named_by_layer_and_head():
    assert head_label(10, 0) == "L10·H0"
