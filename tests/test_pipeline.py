"""From a model and a folder to a published study; killed, stopped, out of room, and with bad pictures among good."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import xarray
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from precompute import analysis
from precompute.base import base_pass
from precompute.weights import open_model
from store.attempt import Attempt
from store.errors import DiskFullError
from store.manifest import verify
from store.settings import Settings
from store.study import open_published
from tests import reference
from tests.pictures import picture_folder
from workers import direct, terminal
from workers import prepare as preparation
from workers import study as pipeline
from workers.images import ImageSourceError
from workers.jobs import StudyRequest
from workers.labels import LabelError
from workers.prepare import prepare, unit_size
from workers.refusals import field_of
from workers.stages import STAGES
from workers.study_model import open_model_of

MODEL = "test_vit"
NOTHING = frozenset()

# The command line in a process of its own, with units of two images.
COMMAND = """
import workers.prepare
workers.prepare.MOST_UNIT_IMAGES = 2
import headscope
headscope.main()
"""


def quiet(stage, done, of, counted):
    pass


def request_for(folder, **changes):
    """Without names and maps, but where a test asks for them with `skip=NOTHING`: they take seconds."""
    defaults = {"name": "small", "random_weights": True, "image_size": (64, 64), "device": "cpu"}
    return StudyRequest(MODEL, folder, **(defaults | {"skip": frozenset({"patterns"})} | changes))


def compute(request, settings, check=lambda: None):
    prepared = prepare(request, settings, quiet)
    prices = []
    manifest = pipeline.run(prepared, quiet, prices.append, check)
    return open_published(prepared.study), manifest, prices


@pytest.fixture
def settings(tmp_path):
    return Settings(data=tmp_path / "data")


@pytest.fixture
def folder(tmp_path):
    return picture_folder(tmp_path / "pictures")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One published study, for the tests that only read it."""
    base = tmp_path_factory.mktemp("study")
    folder = picture_folder(base / "pictures", each=5)
    return compute(request_for(folder, skip=NOTHING), Settings(data=base / "data"))


def test_a_published_study_holds_what_a_plain_forward_of_the_model_gives(study):
    opened, _, _ = study
    vit, _ = open_model(MODEL, random_seed=0, image_size=(64, 64))
    pixels = torch.from_numpy(opened.read("pixels"))
    truth = reference.forward(vit, pixels)
    assert np.allclose(opened.read("logits"), truth.logits, atol=1e-4)
    label = opened.read("label")
    assert label.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    layer, head = 2, 1
    pruned = reference.forward(vit, pixels, {(layer, head): reference.everything(vit)})
    drop = (truth.logits.softmax(1) - pruned.logits.softmax(1))[torch.arange(15), torch.from_numpy(label).long()]
    assert np.allclose(opened.read("importance", 0, slice(None), layer, head), drop, atol=1e-6)
    for image in (0, 14):
        assert np.allclose(opened.attention(image, layer, head), truth.attn[layer][image, head], atol=1e-3)
    by_hand = reference.strength(truth.attn[layer][3, head][1:, 1:].double(), vit.grid)
    assert np.allclose(opened.read("strength", 3, layer, head), by_hand, atol=1e-6)


def test_the_mask_of_the_strongest_attention_is_that_of_the_unrounded_matrix(study):
    opened, _, _ = study
    vit, _ = open_model(MODEL, random_seed=0, image_size=(64, 64))
    seen = []
    base_pass(vit, torch.from_numpy(opened.read("pixels", slice(0, 4))), lambda layer: seen.append(layer.attn))
    attn = seen[1][2, 0, 1:, 1:].numpy().ravel()
    bits = np.unpackbits(opened.read("patch_mask", 2, 1, 0))[: attn.size]
    top = np.argsort(-attn, kind="stable")[: int(np.ceil(0.01 * attn.size))]
    assert sorted(np.flatnonzero(bits)) == sorted(top)


def test_xarray_shows_the_study_as_a_labelled_dataset(study):
    opened, _, _ = study
    dataset = xarray.open_zarr(opened)
    chosen = dataset.importance.sel(metric="jsd", image="1/3.png")
    assert chosen.dims == ("layer", "head")
    assert dataset.sizes["image"] == 15
    assert dataset.pixels.dims == ("image", "y", "x", "rgb")


def test_what_was_asked_measured_and_proved_is_in_the_study(study):
    opened, manifest, prices = study
    assert opened.attrs["weights"]["kind"] == "random"
    assert opened.attrs["certificate"]["pruning"] < 1e-4
    assert opened.attrs["accuracy"]["images"] == 15
    assert opened.attrs["settings"]["labels"] == "class indices"
    assert manifest.packages["torch"]
    assert manifest.run["images_per_second"] > 0
    assert verify(opened.path.parent) == []
    (price,) = prices
    assert price.images == 15
    written = sum(size for size, _ in manifest.objects.values())
    assert price.bytes == pytest.approx(written, rel=0.2)


def test_the_same_command_again_finds_it_published_and_another_one_is_refused(study):
    opened, manifest, _ = study
    settings = Settings(data=opened.path.parents[2])
    folder = opened.path.parents[3] / "pictures"
    again = prepare(request_for(folder), settings, quiet)
    assert pipeline.published(again).content == manifest.content
    other = prepare(request_for(folder, seed=1), settings, quiet)
    with pytest.raises(pipeline.StudyExistsError, match="--name OTHER"):
        pipeline.published(other)


def test_bad_pictures_are_left_out_one_by_one_and_the_rest_is_bit_equal(tmp_path, folder, settings):
    good, manifest, _ = compute(request_for(folder), settings)
    (folder / "0" / "text.jpg").write_text("<html>not a picture</html>")
    (folder / "1" / "empty.png").write_bytes(b"")
    whole = (folder / "2" / "0.png").read_bytes()
    (folder / "2" / "00_cut.png").write_bytes(whole[: len(whole) // 2])
    some, mixed, _ = compute(request_for(folder, name="mixed"), settings)
    reasons = {q["image"]: q["reason"] for q in some.attrs["images"]["quarantined"]}
    assert set(reasons) == {"0/text.jpg", "1/empty.png", "2/00_cut.png"}
    assert "zero bytes" in reasons["1/empty.png"]
    assert some.image_ids == good.image_ids
    data = [key for key in manifest.objects if "/c" in key]
    assert all(mixed.objects[key] == manifest.objects[key] for key in data)


def test_pictures_that_are_there_twice_are_said_and_counted_once_beside_the_accuracy(folder, settings, capsys):
    for name in ("0/copy.png", "1/copy.png"):  # of one picture of class 0: a copy, and a contradiction
        shutil.copy(folder / "0" / "0.png", folder / name)
    shutil.copy(folder / "2" / "0.png", folder / "2" / "copy.png")
    (folder / "notes.txt").write_text("")
    prepared = prepare(request_for(folder), settings, quiet)
    assert not {"ignored", "copies"} & prepared.plan["images"].keys()
    terminal.say_what_is_odd(prepared)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "copies: 5 images are copies, byte for byte, of 2 pictures; of 1 of them, copies have different labels; "
        "for example 0/0.png = 0/copy.png = 1/copy.png" in said
    )
    study, _, _ = compute(request_for(folder), settings)
    assert study.attrs["images"]["copies"] == {
        "files": 2,
        "images": 5,
        "contradicting": 1,
        "examples": [["0/0.png", "0/copy.png", "1/copy.png"], ["2/0.png", "2/copy.png"]],
    }
    counted = [image not in ("0/0.png", "0/copy.png", "1/copy.png", "2/copy.png") for image in study.image_ids]
    logits, label = study.read("logits"), study.read("label")
    right = (logits.argmax(axis=1) == label)[counted]
    once = study.attrs["accuracy"]["once"]
    assert (once["images"], once["top1"]) == (8, right.mean())
    assert study.attrs["accuracy"]["images"] == 12
    terminal.print_info(study)
    shown = " ".join(capsys.readouterr().out.split())
    assert "each picture counted once: top-1" in shown
    assert "ignored 1, by name: notes.txt copies 5 images are copies" in shown
    assert terminal.facts(study)["images"]["ignored"] == {"files": 1, "first": ["notes.txt"]}  # as `info --json`


def test_what_is_ignored_is_listed_and_makes_no_other_study_of_it(folder, settings, capsys):
    before, manifest, _ = compute(request_for(folder), settings)
    assert not {"ignored", "copies"} & before.attrs["images"].keys()
    for number in range(60):
        (folder / f"notes-{number:02}.txt").write_text("")
    (folder / "1" / "camera.DNG").write_bytes(b"II*\0" + bytes(99))
    refused = prepare(request_for(folder, name="another"), settings, quiet).attrs["images"]["quarantined"]
    assert refused == [
        {"image": "1/camera.DNG", "reason": "DNG, a camera's raw file, which is not read; save it as PNG or JPEG"}
    ]
    (folder / "1" / "camera.DNG").unlink()
    again = prepare(request_for(folder), settings, quiet)
    assert pipeline.published(again).content == manifest.content
    ignored = again.attrs["images"]["ignored"]
    assert (ignored["files"], len(ignored["first"]), ignored["first"][0]) == (60, 50, "notes-00.txt")
    terminal.say_what_is_odd(again)
    assert "ignored, as no pictures by their names: 60 (notes-00.txt, notes-01.txt, " in capsys.readouterr().err
    assert terminal.ignored_line(again.attrs["images"]).endswith("notes-49.txt … and 10 more")


def test_hints_are_said_before_anything_is_computed(tmp_path, settings, capsys):
    folder = picture_folder(tmp_path / "pictures", classes=[str(number) for number in range(11)], each=1)
    prepared = prepare(request_for(folder), settings, quiet)
    terminal.say_what_is_odd(prepared)
    assert "please check: the folders are taken as class numbers. torchvision's" in capsys.readouterr().err
    assert prepared.attrs["made"]["questions"][0].startswith("the folders are taken as class numbers")


def test_labels_without_names_to_match_lead_to_the_set_of_classes_that_has_them(tmp_path, settings):
    folder = picture_folder(tmp_path / "pictures", classes=["n01440764", "n01494475"], each=1)
    file = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_vit", num_classes=1000).state_dict(), file)
    request = request_for(folder, random_weights=False, checkpoint=file, image_size=None)
    with pytest.raises(LabelError, match="--classes imagenet-1k names them, if these weights") as refused:
        prepare(request, settings, quiet)
    assert field_of(refused.value, request) == "classes"
    named = prepare(replace(request, classes=Path("imagenet-1k")), settings, quiet)
    assert (named.attrs["settings"]["labels"], named.label.tolist()) == ("wnids", [0, 4])
    assert named.attrs["made"]["classes"] == "the names of imagenet-1k, as --classes says"
    tagged = prepare(replace(request, model="test_vit.r160_in1k", name="tagged"), settings, quiet)
    assert tagged.label.tolist() == [0, 4]
    own = picture_folder(tmp_path / "own", classes=["ash", "beech"], each=1)
    with pytest.raises(LabelError) as of_names:
        prepare(replace(request, images=own, classes=Path("imagenet-1k")), settings, quiet)
    assert "names them" not in str(of_names.value)


def test_what_a_study_was_made_with_is_found_again_when_nothing_beside_the_weights_says_it_any_more(tmp_path, settings):
    """Pooling, normalisation and one logit of two classes, which no tensor tells, are those of the study."""
    folder = picture_folder(tmp_path / "pictures", classes=["no", "yes"], each=1)
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=1, global_pool="avg", fc_norm=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    settings.models.mkdir(parents=True)
    save_file(model.state_dict(), settings.models / "w.safetensors")
    config = {
        "architecture": "test_vit",
        "global_pool": "avg",
        "mean": [0.1, 0.2, 0.3],
        "id2label": {"0": "no", "1": "yes"},
    }
    (settings.models / "config.json").write_text(json.dumps(config))
    request = request_for(folder, random_weights=False, checkpoint=settings.models / "w.safetensors", image_size=None)
    study, _, _ = compute(request, settings)
    (settings.models / "config.json").unlink()
    again = open_model_of(study, settings, "cpu")
    pixels = torch.from_numpy(study.read("pixels"))
    assert np.allclose(again.forward(pixels), study.read("logits"), atol=1e-5)
    normalised = (pixels / 255 - torch.tensor(config["mean"])) / torch.tensor(again.preprocessing["std"])
    with torch.inference_mode():
        by_hand = model(normalised.permute(0, 3, 1, 2)).sigmoid()[:, 0].numpy()
    assert np.allclose(study.read("probability")[:, 1], by_hand, atol=1e-6)
    assert study.class_names == ["no", "yes"] and study.read("label").tolist() == [0, 1]


def test_a_set_of_bad_pictures_only_is_refused_with_the_first_reason(tmp_path, settings):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"none of the 1 pictures .* a\.jpg"):
        prepare(request_for(tmp_path / "bad"), settings, quiet)


def test_without_labels_the_predicted_class_is_followed_and_accuracy_is_left_out(folder, settings):
    opened, _, _ = compute(request_for(folder, no_labels=True), settings)
    assert (opened.read("label") == -1).all()
    assert opened.attrs["accuracy"] is None
    assert (opened.read("target") == opened.read("logits").argmax(axis=1)).all()


def test_attention_is_rebuilt_where_it_is_not_stored_and_agrees_with_the_stored(folder, settings):
    stored, _, _ = compute(request_for(folder), settings)
    rebuilt, _, _ = compute(request_for(folder, name="rebuilt", attention="rebuilt"), settings)
    assert (stored.attention_source, rebuilt.attention_source) == ("stored", "rebuilt")
    assert np.allclose(stored.attention(4, 3, 1), rebuilt.attention(4, 3, 1), atol=2e-3)
    limited, _, _ = compute(
        request_for(folder, name="limited"), settings.model_copy(update={"attention_limit_gb": 1e-6})
    )
    assert limited.attention_source == "rebuilt"


def test_weights_with_a_nan_direction_are_quarantined_counted_and_the_rest_is_computed(folder, settings, monkeypatch):
    real = analysis.of_batch

    def spoilt(vit, pixels, label, chunk, *, keep_attention):
        arrays = real(vit, pixels, label, chunk, keep_attention=keep_attention)
        arrays["importance"] = arrays["importance"].copy()
        arrays["importance"][1, 0, 2, 1] = np.nan
        return arrays

    monkeypatch.setattr(analysis, "of_batch", spoilt)
    opened, _, _ = compute(request_for(folder), settings)
    assert opened.attrs["nonfinite"] == {"images": [0, 4, 8], "values": {"importance": 3}}
    layout = opened.read("image_layout", opened.vectors.index("jsd"))
    assert np.isnan(layout[[0, 4, 8]]).all()
    assert np.isfinite(layout[[1, 2, 3]]).all()


def test_stopping_between_batches_keeps_what_is_finished_and_the_next_run_goes_on(folder, settings, monkeypatch):
    monkeypatch.setattr(preparation, "MOST_UNIT_IMAGES", 2)
    calls = []

    def stop_at_the_fourth():
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(request_for(folder), settings, stop_at_the_fourth)
    units, write_unit = [], Attempt.write_unit
    monkeypatch.setattr(
        Attempt, "write_unit", lambda self, unit, *rest: (units.append(unit), write_unit(self, unit, *rest))
    )
    manifest = compute(request_for(folder), settings)[1]
    assert units == [1, 2, 3, 4]
    undisturbed = compute(request_for(folder, name="undisturbed"), settings)[1]
    assert manifest.content == undisturbed.content


def test_killed_anywhere_the_same_command_goes_on_and_the_result_is_bit_equal(tmp_path, folder):
    """Each child of one process is killed a step later: in a unit, while gathering, in every stage, before the end."""
    code = """
import os, sys
import headscope, workers.prepare, workers.study
workers.prepare.MOST_UNIT_IMAGES = 2

def child(data, failpoint=None):
    number = os.fork()
    if number == 0:
        os.environ |= {"HEADSCOPE_FAILPOINT": failpoint} if failpoint else {}
        sys.argv = ["headscope", "precompute", *sys.argv[2:], "--data", f"{sys.argv[1]}/{data}", "--name", "s"]
        try:
            headscope.main()
        finally:
            sys.stdout.flush()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])

stages = len(workers.study.STAGES) - 1  # no masks are given
kills = ["after-unit-write:2:kill", "before-gather:kill", "before-stage-ack:kill", "before-stage-write:2:kill"]
kills += ["before-stage-ack:2:kill"] * (stages - 2) + ["after-stage-ack:kill", "before-manifest:kill"]
print([child("killed", failpoint) for failpoint in kills], flush=True)
child("killed"), child("undisturbed")
"""
    command = [sys.executable, "-c", code, tmp_path, MODEL, folder, "--random-weights", "--image-size", "64", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    ends = json.loads(done.stdout.splitlines()[0])
    assert set(ends) == {-signal.SIGKILL}, done.stderr
    killed, undisturbed = (open_published(tmp_path / data / "studies" / "s") for data in ("killed", "undisturbed"))
    assert killed.manifest.content == undisturbed.manifest.content
    assert killed.manifest.attempt == "attempt-1"


def test_a_data_folder_that_is_made_for_a_study_is_its_owners_alone(tmp_path):
    made = Settings(data=tmp_path / "made")
    with pytest.raises(ImageSourceError):
        direct.compute(request_for(tmp_path / "none"), made, dry_run=True, as_json=True)
    assert made.data.stat().st_mode & 0o777 == 0o700


def test_one_ctrl_c_stops_after_the_batch_with_a_line_and_no_traceback(tmp_path, folder, hears_ctrl_c):
    environment = os.environ | {"HEADSCOPE_DATA": str(tmp_path), "HEADSCOPE_FAILPOINT": "after-unit-ack:1:sleep=4"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "precompute", MODEL, str(folder), "--random-weights", "--image-size", "64"],
        env=environment | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("studies/*/attempt-1.work/parts/unit-00000.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert "stopping after this batch" in said
    assert "the same command goes on from here" in said
    assert "Traceback" not in said


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(folder, settings, monkeypatch):
    prepared = prepare(request_for(folder), settings, quiet)
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DiskFullError, match=r"needs at least .* MB and .* free; make room"):
        pipeline.run(prepared, quiet, lambda price: None, lambda: None)
    assert not prepared.study.exists()


def test_a_dry_run_measures_the_price_and_leaves_nothing(folder, settings):
    prepared = prepare(request_for(folder), settings, quiet)
    price = pipeline.price(prepared, quiet, lambda: None)
    assert price.images == 9
    assert price.bytes > 0 < price.seconds
    assert list(settings.studies.iterdir()) == []


def test_the_demo_stage_order_puts_readers_behind_writers():
    order = [stage.name for stage in STAGES]
    assert order.index("autoencoder") < order.index("latents") < order.index("patch-map")


def test_stages_skipped_are_added_to_the_published_study_and_the_whole_is_as_if_never_skipped(folder, settings):
    whole, manifest, _ = compute(request_for(folder, skip=NOTHING), settings)
    bare, first, _ = compute(request_for(folder, name="later"), settings)
    assert "patch_layout" not in bare
    assert "--skip patterns; the same command without it adds it" in bare.attrs["left_out"]["patch_layout"]
    prepared = prepare(request_for(folder, name="later", skip=NOTHING), settings, quiet)
    assert pipeline.published(prepared).content == first.content
    assert "patch-map" in pipeline.missing(prepared)
    later, second, _ = compute(request_for(folder, name="later", skip=NOTHING), settings)
    assert (first.attempt, second.attempt) == ("attempt-1", "attempt-2")
    assert second.content == manifest.content
    assert second.run["images_per_second"] == first.run["images_per_second"]
    assert second.run["seconds"]["patch-map"] > 0
    assert pipeline.missing(prepared) == []
    assert np.array_equal(bare.read("logits"), later.read("logits"))
    assert verify(later.path.parent) == []
    assert whole.attrs == later.attrs


def test_a_study_has_names_and_both_maps_with_what_they_are_worth(study):
    opened, manifest, _ = study
    heads = (15, 6, 2)
    for name in ("cls_layout", "patch_layout", "pooled_layout"):
        xy = opened.read(name)
        assert xy.shape == (*heads, 2)
        assert np.isfinite(xy).all()
        assert xy.std() > 0
    for name in ("cls", "patch", "pooled"):
        told = opened.attrs["maps"][name]
        assert 0.5 < told["trustworthiness"] <= 1
        assert 0 <= told["neighbours_kept"] <= 1
        assert 0 <= told["seed_agreement"] <= 1
        assert len(told["purity"]["layer"]) == 6
        assert told["seed"] == 0
    loss = opened.attrs["autoencoder"]["loss"]
    assert loss["train"][-1] < loss["train"][0]
    assert opened.read("pattern_score").shape == (*heads, 13)
    best = opened.read("pattern_score").argmax(axis=-1)
    named = opened.read("pattern_name") >= 0
    assert np.array_equal(opened.read("pattern_name")[named], best[named])
    relevance = opened.read("content_relevance")
    assert ((relevance >= 0) & (relevance < 1.2)).all()
    assert set(manifest.run["peak_mb"]) >= {"heads", "patterns", "cls-map", "autoencoder", "latents", "patch-map"}


def test_content_relevance_is_one_minus_the_mean_correlation_of_all_pairs_of_images(study):
    opened, _, _ = study
    layer, head = 3, 1
    matrices = [opened.attention(image, layer, head)[1:, 1:].ravel().astype(float) for image in range(15)]
    pairs = np.corrcoef(matrices)[np.triu_indices(15, 1)]
    assert opened.read("content_relevance", layer, head) == pytest.approx(1 - pairs.mean(), abs=1e-6)


def test_masks_say_how_far_attention_follows_the_object_and_may_be_given_later(folder, settings, tmp_path):
    masks = tmp_path / "masks"
    for picture in sorted(folder.rglob("*.png"))[:4]:
        path = masks / picture.relative_to(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(picture) as opened:
            mask = np.zeros((opened.height, opened.width), np.uint8)
        mask[: len(mask) // 2] = 255
        Image.fromarray(mask).save(path)
    bare, _, _ = compute(request_for(folder, skip=NOTHING), settings)
    assert "--masks adds it" in bare.attrs["left_out"]["object_auc"]
    masked, manifest, _ = compute(request_for(folder, skip=NOTHING, masks=masks), settings)
    assert manifest.attempt == "attempt-2"
    share = masked.read("object")
    assert np.isnan(share[4:]).all()
    assert np.allclose(share[0].reshape(4, 4)[[0, 3]], [[1] * 4, [0] * 4])

    def auc(image, mass):
        weights = np.concatenate([share[image], 1 - share[image]])
        return roc_auc_score([1] * 16 + [0] * 16, np.tile(mass, 2), sample_weight=weights)

    attn = masked.attention(0, 2, 1)
    assert masked.read("object_auc", 0, 2, 1) == pytest.approx(auc(0, attn[1:, 1:].mean(axis=0)), abs=1e-3)
    assert masked.read("cls_object_auc", 0, 2, 1) == pytest.approx(auc(0, attn[0, 1:]), abs=1e-3)
    nearness = [-np.hypot(y - 1.5, x - 1.5) for y in range(4) for x in range(4)]
    told = masked.attrs["masks"]
    assert (told["found"], told["missing"]) == (4, 5)
    assert told["centre_auc"] == pytest.approx(np.mean([auc(image, nearness) for image in range(4)]))
    assert np.isnan(masked.read("object_auc", 4)).all()
    first = next(masks.rglob("*.png"))
    Image.fromarray(255 - np.asarray(Image.open(first))).save(first)
    with pytest.raises(pipeline.StudyExistsError, match="with other masks"):
        pipeline.published(prepare(request_for(folder, skip=NOTHING, masks=masks), settings, quiet))


def test_a_model_without_cls_has_no_cls_map_and_says_why(folder, settings):
    request = replace(request_for(folder, skip=NOTHING), model="vit_wee_patch16_reg1_gap_256")
    opened, _, _ = compute(request, settings)
    assert "cls_layout" not in opened
    assert "no CLS token is read" in opened.attrs["left_out"]["cls_layout"]
    assert set(opened.attrs["maps"]) == {"patch", "pooled"}
    assert opened.read("patch_layout").shape == (9, opened.sizes["layer"], opened.sizes["head"], 2)


def test_units_hold_whole_batches_and_no_more_than_a_minute_of_a_slow_machine():
    small, _ = open_model("vit_tiny_patch16_224", random_seed=0)
    large, _ = open_model("vit_base_patch16_224", random_seed=0)
    batch = analysis.Batch(images=4, chunk=12)
    assert unit_size(small, batch) == 48
    assert unit_size(large, batch) == 1
