"""A package adds a number of heads: it is computed, stored, told, shown, picked and exported without an edit of ours.

The package is the sample that docs/extending.md builds. It is installed for real, in a folder that only the processes
started here have on their path.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from precompute.demo.model import WEIGHTS
from tests.pictures import picture_folder

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "examples" / "headscope-sharpness"
NUMBER = "acme:sharpness"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of processes that have the sample installed."""
    source, site = tmp_path_factory.mktemp("source") / "sample", tmp_path_factory.mktemp("site")
    shutil.copytree(SAMPLE, source)  # building it leaves folders beside it
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", *install, str(source)], check=True, timeout=300)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]), "OMP_NUM_THREADS": "1"}


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A data folder with a study that was computed where the package is installed."""
    folder = tmp_path_factory.mktemp("data")
    pictures = picture_folder(folder / "pictures", each=2)
    options = ["--checkpoint", str(WEIGHTS), "--name", "sharp", "--no-labels", "--skip", "patterns"]
    run(environment, "headscope.py", "precompute", "headscope_demo", str(pictures), *options, "--data", str(folder))
    return folder


@pytest.fixture(scope="module")
def page(environment: dict[str, str], data: Path) -> dict[str, Any]:
    return json.loads(run(environment, "-m", "tests.plugin_page", str(data), "sharp", NUMBER))


def test_the_array_is_in_the_study_with_what_its_row_says(page: dict[str, Any]):
    assert page["dims"] == ["image", "layer", "head"]
    assert page["attributes"]["title"] == "Sharpness"
    assert page["attributes"]["computed_by"] == "headscope_sharpness:sharpness"
    assert page["attributes"]["unit"] == "1/tokens to 1"
    assert page["apart"] < 1e-3  # of attention in float16


def test_the_command_line_tells_of_it(environment: dict[str, str], data: Path):
    told = json.loads(run(environment, "headscope.py", "info", "sharp", "--json", "--data", str(data)))
    [number] = [each for each in told["numbers"] if each["name"] == NUMBER]
    assert (number["title"], number["dims"], number["installed"]) == ("Sharpness", ["image", "layer", "head"], True)
    assert told["packages_left_out"] == {}
    assert "Sharpness, by image, layer, head" in run(environment, "headscope.py", "info", "sharp", "--data", str(data))


def test_where_the_package_is_not_installed_the_study_still_has_it(environment: dict[str, str], data: Path):
    without = environment | {"PYTHONPATH": str(ROOT)}
    told = json.loads(run(without, "headscope.py", "info", "sharp", "--json", "--data", str(data)))
    [number] = [each for each in told["numbers"] if each["name"] == NUMBER]
    assert number["installed"] is False
    page = json.loads(run(without, "-c", NOT_INSTALLED, str(data), NUMBER))
    assert page == {"rows": 1, "picked": False}


NOT_INSTALLED = """
import json, sys
from pathlib import Path
from dashboard.data import Shelf, facts
from dashboard.selection import default
from dashboard.views import head_card
known = facts(Shelf(Path(sys.argv[1]) / "studies").open("sharp"))
rows = [row for row in head_card.rows(known, default(known)) if row.name == sys.argv[2] and not row.why]
print(json.dumps({"rows": len(rows), "picked": sys.argv[2] in known.choices["metric"]}))
"""


def test_the_head_card_its_csv_and_the_curve_have_it(page: dict[str, Any]):
    [row] = page["row"]
    assert row["label"] == "Sharpness"
    assert row["why"] == ""
    assert row["here_place"] >= 1
    assert row["mean_place"] >= 1
    assert '"Sharpness"' in page["card"]
    assert page["curve"][0].startswith('"layer","head","mean"')
    assert page["mean"] == pytest.approx(page["expected"], rel=1e-5)
    assert {name: status for name, status in page["exports"].items() if status != 200} in ({}, {"pattern-map": 404})


def test_it_can_be_picked_and_its_text_is_its_rows(page: dict[str, Any]):
    assert page["buttons"] == ["Sharpness"]
    for text in page["about"].values():
        assert "**Sharpness.** Largest attention that each token pays to one token" in text
        assert "Computed by `headscope_sharpness:sharpness` · array `acme:sharpness`" in text


def test_what_the_page_of_extending_builds_is_the_sample():
    text = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"^```(?:python|toml)\n(.*?)^```$", text, re.M | re.S)
    for file in ("pyproject.toml", "headscope_sharpness.py"):
        assert (SAMPLE / file).read_text() in blocks, file
    assert len((SAMPLE / "headscope_sharpness.py").read_text().splitlines()) <= 40


def test_it_is_seen_on_screen_and_drawn_when_it_is_picked(
    environment: dict[str, str], data: Path, served: str, context: "BrowserContext"
):
    from tests.browsing import opened, playwright, settled, sound_page

    with sound_page(context) as page:
        opened(page, f"{served}/?study=sharp")
        line = page.locator("#head-card-table tr", has_text="Sharpness")
        playwright.expect(line).to_be_visible()
        page.locator(".head-importance [data-gesture=choice]", has_text="Sharpness").click()
        settled(page)
        page.wait_for_function("headscope.selection.metric === 'acme:sharpness'")
        playwright.expect(page.locator("#head-importance-reading")).to_contain_text("Largest attention")
        playwright.expect(page.locator("#head-card-reading")).to_contain_text("Sharpness: ")
        page.click("[data-about=head-importance]")
        playwright.expect(page.locator("#about-card")).to_contain_text("headscope_sharpness:sharpness")
        page.keyboard.press("Escape")


@pytest.fixture(scope="module")
def served(environment: dict[str, str], data: Path) -> Iterator[str]:
    """The address of the page, in a process that has the package."""
    command = [sys.executable, "-m", "tests.plugin_page", str(data), "serve"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()
