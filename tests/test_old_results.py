"""Prunings that an older Headscope left in the ledger come into the store, once, or are said to be of studies gone."""

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.ledger import Ledger
from jobs.old_results import move
from jobs.work import Step
from store import derived, failpoints
from store.settings import Settings
from store.study import open_published
from tests.studies import write_tiny_study

ROOT = Path(__file__).parents[1]
MODES = [0, 15, 8, 1, 6, 7]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name, changes in (("tiny", {}), ("no-cls", {"has_cls": False, "prefix": 0, "classes": 0, "labelled": 0})):
        write_tiny_study(tmp_path / "studies" / name, **changes)
    return Settings(data=tmp_path)


def old_result(study: Any, images: list[int], heads: list[list[int]], **changes: Any) -> dict[str, Any]:
    """A result as version 0.2 kept it: `workers.prune._Found.plain`."""
    count, layers = len(images), sorted({layer for layer, _ in heads})
    rng = np.random.default_rng(0)

    def rows() -> list[list[Any]]:
        return rng.uniform(size=(len(MODES), count)).tolist()

    found = {
        "study": study.name,
        "content": study.manifest.content,
        "images": [study.image_ids[index] for index in images],
        "heads": heads,
        "regions": MODES,
        "layers": layers,
        "target": [0] * count,
        "label": [None] * count,
        **{name: rows() for name in ("probability", "pruned_probability", "jsd")},
        **{name: {str(layer): rows() for layer in layers} for name in ("cls_distance", "patch_distance")},
        "top_before": [[[0, 0.9], [1, 0.1]]] * count,
        "top_after": [[[[1, 0.1 + 0.8 * rng.uniform()], [0, 0.05]] for _ in images] for _ in MODES],
        "undefined": {},
        "left_out": {},
        "seconds": 0.0123,
    }
    return found | changes


def keep(settings: Settings, key: str, result: dict[str, Any]) -> None:
    """Put a result into the ledger, as a job of the older version did when it ended."""
    ledger = Ledger(settings.ledger_url)
    ledger.submit("prune", "interactive", {}, key, "L0·H1", "ann", [Step(0, 0, "images 0 to 0")], answered_once=True)
    lease = ledger.take("interactive", "worker", "bell")
    assert lease is not None
    ledger.finish(lease, result=result)


def left(settings: Settings) -> list[str]:
    return Ledger(settings.ledger_url).numbers_of("prune")


def test_results_are_moved_to_their_studies_number_by_number(settings: Settings, caplog: pytest.LogCaptureFixture):
    study = open_published(settings.studies / "tiny")
    old = old_result(study, [2, 4], [[0, 1], [1, 0]])
    old["jsd"][1][0] = old["top_after"][2][1] = None  # no number
    bare = open_published(settings.studies / "no-cls")
    nobody = [[None] * 1] * 6
    names = ("probability", "pruned_probability", "jsd", "top_after")
    lacking = dict.fromkeys(names, nobody) | {"target": [None], "top_before": [None], "cls_distance": None}
    why = {"1": "no CLS", "6": "no CLS", "7": "no CLS"}
    without = old_result(bare, [0], [[1, 1]], **lacking, undefined=why, left_out={"probability": "no classifier"})
    gone = old_result(study, [0], [[0, 0]]) | {"study": "gone"}
    anew = old_result(study, [0], [[0, 0]], content="0" * 64)
    for key, result in enumerate((old, without, gone, anew)):
        keep(settings, f"key {key}", result)
    with caplog.at_level(logging.WARNING):
        assert move(settings, Ledger(settings.ledger_url)) == (2, 2)
    assert "moved 2 prunings of an older version" in caplog.text
    assert "2 were of studies that are gone or were computed anew" in caplog.text
    found = study.derived("prune", {"images": old["images"], "heads": old["heads"], "regions": MODES})
    for before, name in (("probability", "probability_drop"), ("pruned_probability",) * 2, ("jsd",) * 2):
        np.testing.assert_array_equal(found.read(name), np.array(old[before], float))
    for name in ("cls_distance", "patch_distance"):
        for at, layer in enumerate((0, 1)):
            np.testing.assert_array_equal(found.read(name)[:, at], np.array(old[name][str(layer)], float))
    assert found.read("top_class")[2].tolist() == [[1, 0], [-1, -1]]
    assert np.isnan(found.read("top_probability")[2, 1]).all()
    assert found.read("top_probability")[1, 1].tolist() == [p for _, p in old["top_after"][1][1]]
    assert derived.is_whole(found.path)
    other = bare.derived("prune", {"images": without["images"], "heads": [(1, 1)], "regions": MODES})
    assert {"jsd", "top_class", "cls_distance"}.isdisjoint(other.arrays)
    assert other.attrs["undefined"] == why
    assert other.attrs["left_out"] == {"probability_drop": "no classifier"}
    assert left(settings) == []
    assert move(settings, Ledger(settings.ledger_url)) == (0, 0)


def test_two_at_once_move_each_result_once(settings: Settings):
    study = open_published(settings.studies / "tiny")
    for head in range(2):
        for layer in range(2):
            keep(settings, f"key {layer} {head}", old_result(study, [0, 1], [[layer, head]]))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: move(settings, Ledger(settings.ledger_url)), range(4)))
    assert left(settings) == []
    results = list(derived.every(study.folder))
    assert len(results) == 4
    assert all(map(derived.is_whole, results))
    assert len(list((study.folder / "derived" / "prune").iterdir())) == 4


@pytest.mark.parametrize("point", ["before-result-publish", "after-result-publish", "before-ledger-commit"])
def test_killed_half_way_the_next_worker_moves_the_rest(settings: Settings, point: str):
    study = open_published(settings.studies / "tiny")
    for head in range(2):
        keep(settings, f"key {head}", old_result(study, [0], [[0, head]]))
    code = (
        "import sys\nfrom jobs.ledger import Ledger\nfrom jobs.old_results import move\n"
        "from store.settings import Settings\nfrom pathlib import Path\n"
        "settings = Settings(data=Path(sys.argv[1]))\nmove(settings, Ledger(settings.ledger_url))"
    )
    environment = os.environ | {failpoints.VARIABLE: f"{point}:kill"}
    killed = subprocess.run([sys.executable, "-c", code, str(settings.data)], cwd=ROOT, env=environment, check=False)
    assert killed.returncode == -9
    assert len(left(settings)) == 2
    assert move(settings, Ledger(settings.ledger_url)) == (2, 0)
    assert left(settings) == []
    derived.remove_remains(settings.studies, list)
    results = list(derived.every(study.folder))
    assert len(results) == len(list((study.folder / "derived" / "prune").iterdir())) == 2
    assert all(map(derived.is_whole, results))


def test_what_cannot_be_written_now_stays_for_the_next_time(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    study = open_published(settings.studies / "tiny")
    keep(settings, "key", old_result(study, [0], [[0, 1]]))
    monkeypatch.setenv(failpoints.VARIABLE, "before-result-publish:enospc")
    assert move(settings, Ledger(settings.ledger_url)) == (0, 0)
    assert len(left(settings)) == 1
    monkeypatch.delenv(failpoints.VARIABLE)
    assert move(settings, Ledger(settings.ledger_url)) == (1, 0)
