"""A price against what a study really takes; and refused, word for word, what the study would be refused for."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from jobs.requests import PriceRequest, StudyRequest, key_of, steps_of, to_json
from jobs.work import CancelledError, Lease
from precompute import errors
from precompute.weights import open_model
from store.settings import Settings
from tests.pictures import picture_folder
from workers import price as doer
from workers import study as pipeline
from workers.prepare import prepare

MODEL = "test_vit"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return picture_folder(tmp_path_factory.mktemp("lab") / "pictures", each=4)


@pytest.fixture
def settings(tmp_path):
    return Settings(data=tmp_path / "data")


def request_for(folder, **changes):
    defaults = {"model": MODEL, "name": "small", "random_weights": True, "image_size": (64, 64), "device": "cpu"}
    return StudyRequest(images=folder, **(defaults | changes))


def priced(request, settings, check=lambda: None):
    """The result, as it comes out of the ledger."""
    told = []
    work = SimpleNamespace(settings=settings, check=check, progress=lambda *step: told.append(step))
    work.finish = lambda facts=None, result=None: setattr(work, "result", result)
    asked = PriceRequest(request)
    doer.do(Lease(1, "job", "price", key_of(asked), to_json(asked), steps_of(asked)[0], {}), work)
    assert told == [] or told[-1][0] <= told[-1][1]
    return json.loads(json.dumps(work.result, allow_nan=False))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "rebuilt", "skip": frozenset({"patterns"})},
        {"model": "test_vit2", "no_labels": True},
        {"model": "vit_small_patch14_reg4_dinov2", "image_size": (28, 28)},
    ],
)
def test_the_bytes_are_those_that_a_unit_of_the_study_tells(folder, settings, changes):
    request = request_for(folder, **changes)
    found = priced(request, settings)
    true = pipeline.price(prepare(request, settings, lambda *step: None), lambda *step: None, lambda: None)
    assert found["bytes"] == pytest.approx(true.bytes, rel=0.1)
    assert found["attention_bytes"] == pytest.approx(true.attention_bytes, rel=0.1)
    assert found["seconds"] > 0
    for name in ("images", "mapped", "after_seconds", "attention", "unit_images"):
        assert found[name] == getattr(true, name)
    assert (found["study"], found["exists"]) == ("small", False)


def test_a_price_leaves_nothing_behind_and_says_by_which_rule_labels_are_matched(folder, settings):
    found = priced(request_for(folder), settings)
    assert (found["labels"], found["classes"], found["measured"]) == ("class indices", 1000, 4)
    assert not settings.data.exists()


def test_only_as_many_pictures_are_read_as_are_measured_and_they_are_from_all_over_the_set(
    folder, settings, monkeypatch
):
    read = []
    real = doer.scan
    monkeypatch.setattr(doer, "scan", lambda entries: read.extend(entries) or real(entries))
    assert priced(request_for(folder), settings)["images"] == 12
    assert [entry.id for entry in read] == ["0/0.png", "0/3.png", "1/2.png", "2/1.png"]


def test_pictures_that_cannot_be_read_are_passed_over_and_counted(folder, settings, tmp_path):
    mixed = shutil.copytree(folder, tmp_path / "mixed")
    (mixed / "0" / "0.png").write_bytes(b"")
    (mixed / "1" / "2.png").write_text("no picture")
    found = priced(request_for(mixed), settings)
    assert (found["images"], found["measured"], found["quarantined"]) == (10, 4, 2)


def refusals(tmp_path, folder):
    """By field, requests that a study would refuse."""
    (tmp_path / "short.txt").write_text("one\ntwo")
    (tmp_path / "map.csv").write_text("label,class\n0,1\n")
    (tmp_path / "masks").mkdir()
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.jpg").write_text("no picture")
    words = picture_folder(tmp_path / "words", classes=("cat", "dog", "emu"), each=1)
    small = shutil.copytree(folder, tmp_path / "small masks")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(small / "0" / "0.png")
    trained = {"random_weights": False}
    return [
        ("model", request_for(folder, model="vit_bse_patch16_224")),
        ("model", request_for(folder, model="swin_tiny_patch4_window7_224")),
        ("checkpoint", request_for(folder, checkpoint=tmp_path / "nowhere.safetensors", **trained)),
        ("checkpoint", request_for(folder, checkpoint=tmp_path / "short.txt", **trained)),
        ("image_size", request_for(folder, image_size=(60, 64))),
        ("images", request_for(tmp_path / "nowhere")),
        ("images", request_for(tmp_path / "masks")),
        ("images", request_for(bad)),
        ("per_class", request_for(folder, per_class=0)),
        ("label_map", request_for(words)),
        ("label_map", request_for(folder, label_map=tmp_path / "map.csv")),
        ("classes", request_for(folder, classes=tmp_path / "short.txt")),
        ("masks", request_for(folder, masks=tmp_path / "nowhere")),
        ("masks", request_for(folder, masks=tmp_path / "masks")),
        ("masks", request_for(folder, masks=small)),
        ("masks", request_for(folder, masks=folder)),
        ("name", request_for(folder, name="../up")),
        *([] if torch.cuda.is_available() else [("device", request_for(folder, device="cuda"))]),
    ]


def test_what_a_study_would_refuse_is_refused_with_its_words_and_the_field_to_change(folder, settings, tmp_path):
    for field, request in refusals(tmp_path, folder):
        refused = priced(request, settings)["refused"]
        with pytest.raises(ValueError) as error:
            prepare(request, settings, lambda *step: None)
        assert refused == {"field": field, "message": str(error.value)}


def test_a_choice_that_is_none_is_refused(folder, settings):
    for field, changes in (("attention", {"attention": "some"}), ("device", {"device": "tpu"})):
        refused = priced(request_for(folder, **changes), settings)["refused"]
        assert refused["field"] == field
        assert "; give auto, " in refused["message"]
    both = priced(request_for(folder, checkpoint=folder / "w.safetensors"), settings)["refused"]
    assert both["field"] == "checkpoint"


def test_masks_of_pictures_that_are_not_measured_are_enough(folder, settings, tmp_path):
    (tmp_path / "masks" / "2").mkdir(parents=True)
    Image.fromarray(np.full((48, 48), 255, np.uint8)).save(tmp_path / "masks" / "2" / "3.png")
    assert "bytes" in priced(request_for(folder, masks=tmp_path / "masks"), settings)


def test_a_published_study_of_these_settings_is_said_and_of_others_is_refused(folder, settings):
    request = request_for(folder, skip=frozenset({"patterns"}))
    pipeline.run(prepare(request, settings, lambda *step: None), lambda *step: None, lambda price: None, lambda: None)
    assert priced(request, settings)["exists"]
    for changes in (
        {"seed": 1},
        {"no_labels": True},
        {"per_class": 2},
        {"attention": "rebuilt"},
        {"model": "test_vit2"},
    ):
        refused = priced(request_for(folder, **changes), settings)["refused"]
        assert refused["field"] == "name", changes
        assert "study small is published already" in refused["message"]


def test_a_disk_that_is_too_small_is_refused_and_the_way_out_is_the_field(folder, settings, monkeypatch):
    found = priced(request_for(folder), settings)
    for free, field in ((1000, "images"), (found["bytes"] - 1, "attention")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        refused = priced(request_for(folder), settings)["refused"]
        assert refused["field"] == field
        assert "MB free; make room" in refused["message"]


def test_a_model_is_opened_and_proved_once_and_its_file_again_when_it_changed(folder, settings, tmp_path, monkeypatch):
    calls = []
    for name in ("open_model", "certify"):
        real = getattr(doer, name)
        monkeypatch.setattr(doer, name, lambda *a, name=name, real=real, **k: calls.append(name) or real(*a, **k))
    doer._model_cache().clear()
    for _ in range(2):
        priced(request_for(folder), settings)
    assert calls == ["open_model", "certify"]
    file = tmp_path / "weights.safetensors"
    for seed in (1, 2):
        save_file(open_model(MODEL, random_seed=seed)[0].model.state_dict(), file)
        priced(request_for(folder, random_weights=False, checkpoint=file), settings)
    assert calls[2:] == ["open_model", "certify"] * 2


def test_a_model_that_is_not_itself_is_refused(folder, settings, monkeypatch):
    def false(vit, pixels):
        raise errors.CertificateError("test_vit does not reproduce itself")

    doer._model_cache().clear()
    monkeypatch.setattr(doer, "certify", false)
    assert priced(request_for(folder), settings)["refused"]["field"] == "model"


def test_a_price_stops_between_its_steps(folder, settings):
    def cancelled():
        raise CancelledError("cancelled by ada")

    with pytest.raises(CancelledError):
        priced(request_for(folder), settings, check=cancelled)


def test_an_error_that_is_no_mistake_of_a_person_is_no_refusal(folder, settings, monkeypatch):
    def broken(*args):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(doer, "_compressed", broken)
    with pytest.raises(ValueError, match="broadcast"):
        priced(request_for(folder), settings)
