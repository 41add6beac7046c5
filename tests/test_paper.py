"""What is said to stand in the paper stands there."""

import re
from pathlib import Path

from store.schema import SCHEMA
from tests.paper import EQUATIONS, FIGURES, SECTIONS, SOURCES

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "headscope.py")),
    *(
        page
        for folder in ("docs", "precompute", "store", "workers", "dashboard")
        for page in (ROOT / folder).rglob("*.*")
    ),
]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES if page.suffix in (".md", ".py", ".js")}


def references(kind, text):
    """Each number of `Sec. 5.1, 6.1` or `Eq. 3 to 6`; of figures without their letters."""
    found = re.findall(rf"\b{kind}\. ((?:[0-9][0-9.]*(?:, | and | to |–)?)+)", text)
    return [number.strip(".") for each in found for number in re.findall(r"[0-9][0-9.]*", each)]


def test_each_array_names_the_place_of_the_paper_that_it_comes_from():
    where = {name: source for source, names in SOURCES.items() for name in names}
    assert {name: spec.equation for name, spec in SCHEMA.items() if spec.equation} == where


def test_every_section_equation_and_figure_that_is_named_exists():
    for page, text in TEXTS.items():
        assert {*references("Sec", text)} <= {*SECTIONS}, page
        assert {*references("Eq", text)} <= {*map(str, EQUATIONS)}, page
        assert {*references("Fig", text)} <= {*map(str, FIGURES)}, page


def test_references_are_seen_as_they_are_written():
    text = "(Sec. 5.1, 6.1): Eq. 3 to 6. Fig. 12 C–J and Fig. 1B1; Sec. 6.3.1."
    assert references("Sec", text) == ["5.1", "6.1", "6.3.1"]
    assert references("Eq", text) == ["3", "6"]
    assert references("Fig", text) == ["12", "1"]
    seen = sum(len(references(kind, text)) for text in TEXTS.values() for kind in ("Sec", "Eq", "Fig"))
    assert seen > 90
