"""The numbers of the page and of its Python lines against whole forward passes: a head, and heads pruned together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dashboard.data import Shelf, StudyFacts, facts
from dashboard.pruned import requests_of
from dashboard.selection import Selection, default
from dashboard.views.pruning import Face
from dashboard.views.pruning_export import exports, result_of
from jobs.requests import from_json, steps_of
from jobs.work import Lease
from precompute.weights import open_model
from store.settings import Settings
from store.study import open_published
from tests import reference
from tests.fake_desk import FakeDesk
from tests.pictures import picture_folder
from tests.test_prune_job import FLOAT32, PLAIN, Recorded, compute, loud_checkpoint, mask
from workers import derived as doer

HEADS = ((4, 1), (0, 0), (2, 1))
CUSTOM = 5


class TrueDesk(FakeDesk):
    """A desk that computes what it is asked for at once, as a worker does."""

    def unit_facts(self, job: str, phase: int) -> list[dict[str, Any]]:
        """What the units of a phase left."""
        steps = steps_of(from_json("prune", self.ledger.all[job].request))
        return [{"part": step.name} for step in steps if step.phase == phase]

    def finish(self, job: str) -> None:
        asked = self.ledger.all[job]
        for step in steps_of(from_json("prune", asked.request)):
            lease = Lease(1, job, "prune", asked.key, asked.request, step, {})
            doer.do(lease, Recorded(self.settings, self))
        self.set(job, state="done", place=None)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    base = tmp_path_factory.mktemp("lab")
    settings = Settings(data=base / "data")
    checkpoint = loud_checkpoint(PLAIN, settings.models / f"{PLAIN}.safetensors")
    compute(PLAIN, picture_folder(base / "pictures", each=2, size=64), settings, checkpoint)
    return settings


@pytest.fixture(scope="module")
def desk(settings: Settings) -> FakeDesk:
    return TrueDesk(settings)


@pytest.fixture(scope="module")
def known(settings: Settings) -> StudyFacts:
    return facts(Shelf(settings.studies).open(PLAIN))


@pytest.fixture
def chosen(known: StudyFacts) -> Selection:
    return replace(default(known), image=known.image_ids[3], regions=CUSTOM, layer=2, head=1)


def basket_of(chosen: Selection) -> Selection:
    return replace(chosen, basket=",".join(f"{layer}.{head}" for layer, head in HEADS))


def test_heads_of_a_basket_are_what_a_forward_in_float64_gives_with_all_of_them_zeroed(
    settings: Settings, desk: FakeDesk, known: StudyFacts, chosen: Selection
):
    basket = basket_of(chosen)
    found = Face.of(known, basket, desk, None, pressed=False).found
    pruning = result_of(known, basket, desk)
    assert found["regions"] == pruning.regions == [0, 15, 8, 1, 6, 7, CUSTOM]
    study = open_published(settings.studies / PLAIN)
    vit, _ = open_model(PLAIN, checkpoint=settings.models / f"{PLAIN}.safetensors", image_size=(64, 64))
    vit.model.double()
    pixels = torch.from_numpy(study.read("pixels", [3]))
    target = int(study.read("target")[3])
    plain = reference.forward(vit, pixels)
    p = plain.logits[0].softmax(0)

    def after(heads: Any, regions: int) -> reference.Forward:
        return reference.forward(vit, pixels, dict.fromkeys(heads, mask(vit, regions)))

    def left(heads: Any, regions: int) -> torch.Tensor:
        return after(heads, regions).logits[0].softmax(0)

    for regions in pruning.regions:
        own = float(left(HEADS, regions)[target])
        assert pruning.effect("probability", regions).mean == pytest.approx(own, abs=FLOAT32)
        z = after(HEADS, regions).z[4]  # of the last layer with a pruned head
        apart = 1 - torch.cosine_similarity(plain.z[4], z, dim=-1)
        assert pruning.effect("cls_distance", regions).mean == pytest.approx(float(apart[0, 0]), abs=FLOAT32)
    effects_on = {
        "probability": lambda heads: float((p - left(heads, 15))[target]),
        "jsd": lambda heads: reference.divergence(p, left(heads, 15)),
    }
    for metric, effect in effects_on.items():
        together, one_by_one = effect(HEADS), sum(effect([head]) for head in HEADS)
        assert pruning.together(known, metric) == (
            pytest.approx(together, abs=FLOAT32),
            pytest.approx(one_by_one, abs=3 * FLOAT32),
        )
        assert together != pytest.approx(one_by_one, rel=0.05)  # or this would not tell the two apart


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("metric", ["probability", "cls_distance"])
def test_the_python_lines_give_the_numbers_that_leave_the_page(
    settings: Settings, desk: FakeDesk, known: StudyFacts, chosen: Selection, monkeypatch: pytest.MonkeyPatch,
    several: bool, image: bool, metric: str,
):  # fmt: skip
    each = replace(basket_of(chosen) if several else chosen, metric=metric, image=chosen.image if image else None)
    for request in requests_of(known, each):
        desk.submit(request, "test")
    monkeypatch.setenv("HEADSCOPE_DATA", str(settings.data))
    for export in exports(desk):
        ran: dict[str, Any] = {}
        exec(export.python(known, each), ran)
        expected = export.numbers(known, each)
        assert list(ran["numbers"]) == list(expected)
        for name, column in expected.items():
            if np.asarray(column).dtype.kind == "f":
                np.testing.assert_allclose(ran["numbers"][name], column, atol=1e-6)
            else:
                assert list(ran["numbers"][name]) == list(column)


def test_the_lines_can_be_read(known: StudyFacts, chosen: Selection, desk: FakeDesk):
    for export in exports(desk):
        lines = export.python(known, chosen)
        assert lines.startswith(f"import headscope\nimport numpy as np\n\nstudy = headscope.open_study('{PLAIN}')\n")
        assert str(Path.cwd()) not in lines
