"""A unit of a pruning against forward passes in float64, and against what the study has; and when there is no model."""

import json
import math
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analyses import registry
from analyses.pruning import ANALYSIS, PruneRequest
from analyses.request import result_key
from analyses.vocabulary import METRICS, Regions
from benchmarks.studies import DEIT_TINY, VARIABLE, photo_study, real_folder, real_photos
from jobs.requests import StudyRequest, key_of, steps_of, to_json
from jobs.work import CancelledError, Lease
from precompute import pruning
from precompute.base import base_pass
from precompute.demo.model import WEIGHTS
from precompute.pruning import prune
from precompute.weights import open_model
from store import derived
from store.settings import Settings
from store.study import open_published
from tests import reference
from tests.pictures import picture_folder
from workers import derived as doer
from workers import study as pipeline
from workers import study_model
from workers.cache import memory_cache
from workers.prepare import prepare
from workers.runner import MistakeError

SIZE = (64, 64)
PLAIN, AVERAGED, DISTILLED = "test_vit", "test_vit2", "deit_tiny_distilled_patch16_224"
POOLED, REGISTERS = "test_vit3", "vit_small_patch14_reg4_dinov2"  # by attention; with CLS, without a classifier
SIZES = {REGISTERS: (28, 28)}
SUBSETS = tuple(range(16))
CC, CP, PC, PP = 1, 2, 4, 8
# float32 against float64, as of importance (tests/test_real.py).
FLOAT32 = 5e-6


def loud_checkpoint(name, file):
    """Seeded weights, large enough that pruning a head changes what the model says."""
    state = open_model(name, random_seed=0)[0].model.state_dict()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in state.items():
        if key.endswith("bias"):
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
        elif "blocks" in key and tensor.dim() == 2:
            tensor *= 4
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)
    return file


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A data folder with a study of each model, named as its model."""
    base = tmp_path_factory.mktemp("lab")
    settings = Settings(data=base / "data")
    folder = picture_folder(base / "pictures", each=2, size=64)
    for name in (PLAIN, AVERAGED, DISTILLED, POOLED, REGISTERS):
        compute(name, folder, settings, loud_checkpoint(name, settings.models / "of a lab" / f"{name}.safetensors"))
    return settings


def compute(model, folder, settings, checkpoint=None, **changes):
    defaults = {"name": model, "image_size": SIZES.get(model, SIZE), "device": "cpu", "skip": frozenset({"patterns"})}
    request = StudyRequest(model, folder, checkpoint=checkpoint, **(defaults | changes))
    pipeline.run(prepare(request, settings, lambda *step: None), lambda *step: None, lambda price: None, lambda: None)
    return open_published(settings.studies / request.study)


@pytest.fixture(autouse=True)
def _nothing_kept():
    for cache in (study_model.model_cache(), doer.base_cache(), doer._studies):
        cache.clear()


@pytest.fixture(autouse=True)
def _all_pictures_are_one_unit(monkeypatch):
    cut_into(monkeypatch, 16)


def cut_into(monkeypatch, images):
    """Have units of so many images."""
    monkeypatch.setitem(registry.ANALYSES, "prune", replace(ANALYSIS, unit_images=images))


class Recorded:
    """A unit's side of the ledger that remembers what it was told."""

    def __init__(self, settings, ledger=None, check=lambda: None):
        self.settings = settings
        self.ledger = ledger
        self.check = check
        self.told = []
        self.facts = self.result = None

    def progress(self, done, total, counted=""):
        self.told.append((done, total, counted))

    def hold(self):
        self.check()

    def finish(self, facts=None, result=None):
        self.facts, self.result = facts, result


class Units:
    """A ledger that knows the facts of one job's units."""

    def __init__(self, facts):
        self.facts = facts

    def unit_facts(self, job, phase):
        return self.facts


def request_for(settings, name, heads, regions=SUBSETS, images=None):
    study = open_published(settings.studies / name)
    chosen = study.image_ids if images is None else [study.image_ids[index] for index in images]
    content = study.content_of(ANALYSIS.reads)
    return PruneRequest(study=name, content=content, images=chosen, heads=heads, regions=regions)


def lease_of(request, step=None):
    return Lease(1, "job", "prune", key_of(request), to_json(request), step or steps_of(request)[0], {})


def found(settings, *args, **kwargs):
    """The result of a pruning that is one unit, computed now and read from the store."""
    request, work = request_for(settings, *args, **kwargs), Recorded(settings)
    derived.remove(derived.path_of(settings.studies, "prune", request))
    doer.do(lease_of(request), work)
    assert set(work.result) == {"study", "analysis", "key"}, "the ledger has no numbers"
    return as_read(settings, request)


def work_key(request):
    return result_key("prune", request)


def as_read(settings, request):
    """Numbers of a result of the store by name, of distances by layer; and what the study has beside them."""
    study = open_published(settings.studies / request.study)
    result = study.derived("prune", request)
    where = [study.image_index(image) for image in request.images]
    read = {name: result.read(name) for name in result.arrays}
    by_layer = {
        name: {str(layer): result.read(name)[:, at] for at, layer in enumerate(read["layer"])}
        for name in ("cls_distance", "patch_distance")
        if name in read
    }
    return {
        "images": [str(image) for image in read["image"]],
        "layers": read["layer"].tolist(),
        "target": study.read("target", where).tolist() if "target" in study else None,
        "before": study.read("probability", where) if "probability" in study else None,
        "undefined": result.attrs["undefined"],
        "left_out": result.attrs["left_out"],
        **dict.fromkeys(("cls_distance", "probability_drop", "jsd")),
        **read,
        **by_layer,
    }


def mask(vit, bits):
    """Where attention is switched off, token by token, bool (query, key)."""
    kinds = ["CLS"] * vit.has_cls + ["other"] * (vit.num_prefix_tokens - vit.has_cls) + ["patch"] * vit.num_patches
    region = {("CLS", "CLS"): CC, ("CLS", "patch"): CP, ("patch", "CLS"): PC, ("patch", "patch"): PP}
    return torch.tensor([[bits == 15 or bool(region.get((a, b), 0) & bits) for b in kinds] for a in kinds])


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        (PLAIN, [(2, 1)]),
        (PLAIN, [(0, 0), (0, 1), (4, 1)]),
        (DISTILLED, [(11, 0)]),
        (DISTILLED, [(3, 2), (10, 1)]),
        (REGISTERS, [(0, 1), (11, 5)]),
        (AVERAGED, [(6, 1)]),
        (POOLED, [(1, 0), (8, 2)]),
    ],
)
def test_every_subset_of_regions_is_what_a_forward_in_float64_gives_with_it_zeroed(settings, name, heads):
    result = found(settings, name, heads, images=[0, 3, 5])
    study = open_published(settings.studies / name)
    vit, _ = open_model(
        name, checkpoint=settings.models / "of a lab" / f"{name}.safetensors", image_size=SIZES.get(name, SIZE)
    )
    vit.model.double()
    pixels = torch.from_numpy(study.read("pixels", [0, 3, 5]))
    plain = reference.forward(vit, pixels)
    assert result["layers"] == sorted({layer for layer, _ in heads})
    for row, bits in enumerate(SUBSETS):
        if not vit.has_cls and bits not in (0, PP, 15):
            assert result["undefined"][str(bits)] == study.attrs["left_out"]["cls_distance"]
            assert np.isnan(result["patch_distance"][str(heads[0][0])][row]).all()
            continue
        slow = reference.forward(vit, pixels, dict.fromkeys(heads, mask(vit, bits)))
        for layer in result["layers"]:
            apart = 1 - torch.cosine_similarity(plain.z[layer], slow.z[layer], dim=-1)  # (image, token)
            patch = apart[:, vit.num_prefix_tokens :].mean(dim=1)
            assert result["patch_distance"][str(layer)][row] == pytest.approx(patch.tolist(), abs=FLOAT32)
            if vit.has_cls:
                assert result["cls_distance"][str(layer)][row] == pytest.approx(apart[:, 0].tolist(), abs=FLOAT32)
        for image in range(3 if vit.num_classes else 0):
            p, p_pruned = (each.logits[image].softmax(0) for each in (plain, slow))
            target = result["target"][image]
            drop, after = (p - p_pruned)[target].item(), p_pruned[target].item()
            assert result["probability_drop"][row][image] == pytest.approx(drop, abs=FLOAT32)
            assert result["pruned_probability"][row][image] == pytest.approx(after, abs=FLOAT32)
            assert result["jsd"][row][image] == pytest.approx(reference.divergence(p, p_pruned), abs=FLOAT32)
            top, top_p = result["top_class"][row, image], result["top_probability"][row, image].tolist()
            assert top_p == pytest.approx(p_pruned.topk(5).values.tolist(), abs=FLOAT32)
            assert [p_pruned[each].item() for each in top] == pytest.approx(top_p, abs=FLOAT32)


@pytest.mark.parametrize("name", [PLAIN, AVERAGED, DISTILLED, POOLED, REGISTERS])
def test_a_single_head_pruned_whole_has_the_importance_that_the_study_has_and_the_model_computes(settings, name):
    study = open_published(settings.studies / name)
    vit = study_model.open_model_of(study, settings, "cpu")
    base = base_pass(vit, torch.from_numpy(study.read("pixels")))
    for layer, head in product((0, vit.num_layers - 1), (0, vit.num_heads - 1)):
        result = found(settings, name, [(layer, head)], regions=(15,))
        computed = prune(vit, base, [(layer, head)], [Regions.ALL])
        distance = computed.distance[layer]
        p, p_pruned = (each.double().softmax(-1) for each in (base.logits, computed.logits[0]))
        again = {"jsd": computed.jsd, "cls_distance": distance.cls, "patch_distance": distance.patch}
        if vit.num_classes:
            target = torch.tensor(result["target"])[:, None]
            again["probability"] = (p - p_pruned).gather(1, target).T
        for metric in METRICS:
            array = pruning.OF_CLASS.get(metric, metric)
            rows = result[array]
            if metric not in study.metrics:
                assert array in result["left_out"]
                assert rows is None
                continue
            rows = rows[str(layer)] if "distance" in metric else rows
            known = study.read("importance", study.metric_index(metric), slice(None), layer, head)
            assert rows[0].astype(np.float32).tolist() == known.tolist()
            assert rows[0] == pytest.approx(again[metric][0].numpy(), abs=1e-6)


@pytest.mark.parametrize("name", [PLAIN, AVERAGED, DISTILLED, POOLED, REGISTERS])
def test_no_region_changes_nothing_exactly_whatever_the_heads(settings, name):
    result = found(settings, name, [(0, 0), (1, 1), (5, 0)], regions=(0, 15))
    for layers in filter(None, (result["cls_distance"], result["patch_distance"])):
        assert all(set(rows[0]) == {0} and set(rows[1]) != {0} for rows in layers.values())
    if name != REGISTERS:
        assert set(result["probability_drop"][0]) == set(result["jsd"][0]) == {0}
        assert result["top_probability"][0].tolist() == (-np.sort(-result["before"], axis=1)[:, :5]).tolist()
        for row, target, top, left in zip(
            result["before"], result["target"], result["top_class"][0], result["pruned_probability"][0], strict=True
        ):
            assert left == row[target]
            assert row[top].tolist() == sorted(row[top].tolist(), reverse=True)
    vit = study_model.open_model_of(open_published(settings.studies / name), settings, "cpu")
    base = base_pass(vit, torch.from_numpy(open_published(settings.studies / name).read("pixels")))
    pruned = prune(vit, base, [(0, 0), (1, 1), (5, 0)], [Regions.NONE, Regions.ALL])
    assert torch.equal(pruned.logits[0], base.logits)
    assert all((distance.patch[0] == 0).all() for distance in pruned.distance.values())


def test_what_a_model_does_not_have_is_not_there_and_the_reason_is_said(settings):
    result = found(settings, REGISTERS, [(2, 3)])
    assert not {"probability_drop", "pruned_probability", "jsd", "top_class", "top_probability"} & {
        name for name, array in result.items() if array is not None
    }
    assert "no classifier" in result["left_out"]["jsd"]
    averaged = found(settings, AVERAGED, [(2, 1)])
    assert averaged["cls_distance"] is None
    assert sorted(map(int, averaged["undefined"])) == [bits for bits in SUBSETS if bits not in (0, PP, 15)]
    assert "no CLS" in averaged["undefined"]["1"]


def test_the_target_is_the_studys_with_and_without_labels(settings, tmp_path):
    study = open_published(settings.studies / PLAIN)
    result = found(settings, PLAIN, [(2, 1)], images=[5, 0])
    assert result["images"] == [study.image_ids[5], study.image_ids[0]]
    assert result["target"] == study.read("label", [5, 0]).tolist()
    for row, target in enumerate(result["target"]):
        drop = result["before"][row, target] - result["pruned_probability"][:, row]
        assert result["probability_drop"][:, row] == pytest.approx(drop, abs=1e-6, nan_ok=True)
    folder = picture_folder(tmp_path / "pictures", each=1, size=64)
    unlabelled = compute(PLAIN, folder, settings, name="unlabelled", random_weights=True, no_labels=True)
    result = found(settings, "unlabelled", [(2, 1)])
    assert result["target"] == unlabelled.read("logits").argmax(axis=1).tolist()


def test_many_images_are_done_unit_by_unit_and_joined_to_the_same(settings, monkeypatch):
    heads = [(0, 1), (3, 0)]
    whole = found(settings, AVERAGED, heads)
    request = request_for(settings, AVERAGED, heads)
    derived.remove(derived.path_of(settings.studies, "prune", request))
    cut_into(monkeypatch, 4)
    *units, last = steps_of(request)
    cut_into(monkeypatch, 5)  # the worker's version cuts otherwise
    facts = []
    for step in units:
        work = Recorded(settings)
        doer.do(lease_of(request, step), work)
        assert work.told[-1] == (step.images, step.images, "images")
        assert work.result is None
        facts.append(json.loads(json.dumps(work.facts)))
    assert open_published(settings.studies / AVERAGED).derived_keys("prune").count(work_key(request)) == 0
    work = Recorded(settings, Units(facts))
    doer.do(lease_of(request, last), work)
    assert len(facts) == 2
    assert work.result == {"study": AVERAGED, "analysis": "prune", "key": work_key(request)}
    joined = as_read(settings, request)
    assert joined["images"] == whole["images"]
    for name in ("probability_drop", "jsd", "pruned_probability"):
        assert joined[name] == pytest.approx(whole[name], abs=1e-6, nan_ok=True)
    assert joined["patch_distance"]["3"] == pytest.approx(whole["patch_distance"]["3"], abs=1e-6, nan_ok=True)
    assert joined.keys() == whole.keys()
    assert list(derived.path_of(settings.studies, "prune", request).parent.glob("*.work")) == []


def test_another_head_of_the_same_image_costs_only_the_pruned_pass(settings, monkeypatch):
    calls = []
    for module, name in ((doer, "base_pass"), (study_model, "open_model"), (doer, "open_published")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, real=real, **k: calls.append(name) or real(*a, **k))
    first = found(settings, PLAIN, [(2, 1)], images=[1])
    assert sorted(calls) == ["base_pass", "open_model", "open_published"]
    again = found(settings, PLAIN, [(4, 0)], images=[1])
    assert len(calls) == 3
    found(settings, PLAIN, [(4, 0)], images=[1, 2])
    assert calls[3:] == ["base_pass"], "of the other image alone"
    assert again["jsd"].tolist() != first["jsd"].tolist()


def test_what_is_kept_is_bounded_and_what_was_asked_for_longest_ago_goes_first(settings, monkeypatch):
    content = open_published(settings.studies / PLAIN).manifest.content
    found(settings, PLAIN, [(2, 1)], images=[0])
    one = doer.base_bytes(doer.base_cache()[content, 0, torch.device("cpu")])
    for most, images, cached in ((2, (0, 1, 0, 2), {0, 2}), (0.5, (0, 1), {1})):  # the newest whatever its size
        monkeypatch.setattr(doer, "base_cache", lambda cache=memory_cache(doer.base_bytes, int(most * one), 1): cache)
        for image in images:
            found(settings, PLAIN, [(2, 1)], images=[image])
        assert {image for _, image, _ in doer.base_cache()} == cached


def test_when_memory_runs_out_less_is_done_at_a_time_and_the_result_is_the_same(settings, monkeypatch):
    whole = found(settings, PLAIN, [(1, 0), (2, 1)])
    real, sizes = pruning.prune, []

    def small(vit, base, heads, regions):
        sizes.append(base.num_images * len(regions))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError
        return real(vit, base, heads, regions)

    monkeypatch.setattr(pruning, "prune", small)
    part = found(settings, PLAIN, [(1, 0), (2, 1)])
    assert sizes[0] > 2 >= sizes[-1]
    assert part["jsd"] == pytest.approx(whole["jsd"], abs=1e-6)
    monkeypatch.setattr(pruning, "prune", lambda *args: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError, match="use a device with more memory"):
        found(settings, PLAIN, [(1, 0), (2, 1)])


def test_a_pruning_stops_between_batches_and_then_has_no_result(settings):
    def cancelled():
        raise CancelledError("cancelled by ada")

    work, request = Recorded(settings, check=cancelled), request_for(settings, PLAIN, [(2, 1)])
    derived.remove(derived.path_of(settings.studies, "prune", request))
    with pytest.raises(CancelledError):
        doer.do(lease_of(request), work)
    assert work.result is None
    assert not derived.is_published(derived.path_of(settings.studies, "prune", request))


def test_what_is_no_number_is_no_number_in_the_store(settings, monkeypatch):
    real = pruning.prune

    def spoilt(*args):
        with torch.inference_mode():
            pruned = real(*args)
            pruned.jsd[0, 0] = math.nan
            pruned.distance[2].patch[0, 0] = math.inf
            pruned.logits[0, 0] = math.nan
        return pruned

    monkeypatch.setattr(pruning, "prune", spoilt)
    result = found(settings, PLAIN, [(2, 1)], regions=(PP, CC), images=[0, 1])
    assert np.isnan([result["jsd"][0, 0], *result["top_probability"][0, 0]]).all()
    assert math.isinf(result["patch_distance"]["2"][0, 0])
    assert np.isfinite([*result["jsd"][1], result["jsd"][0, 1], *result["top_probability"][0, 1]]).all()


def test_a_study_that_was_computed_anew_is_asked_for_anew(settings):
    request = request_for(settings, PLAIN, [(2, 1)]).model_copy(update={"content": "0" * 64})
    with pytest.raises(MistakeError, match="study test_vit was computed anew; open it again, and ask again"):
        doer.do(lease_of(request), Recorded(settings))
    gone = request.model_copy(update={"study": "gone"})
    with pytest.raises(MistakeError, match="study gone is gone"):
        doer.do(lease_of(gone), Recorded(settings))


def test_images_and_heads_that_are_not_there_are_a_mistake(settings):
    request = request_for(settings, PLAIN, [(2, 1)])
    with pytest.raises(MistakeError, match=r"image 0/0\.jpg is not in study test_vit; did you mean 0/0\.png"):
        doer.do(lease_of(request.model_copy(update={"images": ("0/0.jpg",)})), Recorded(settings))
    with pytest.raises(
        MistakeError, match=r"head \(6, 0\) is not in test_vit, which has layers 0 to 5 and heads 0 to 1"
    ):
        doer.do(lease_of(request.model_copy(update={"heads": ((6, 0),)})), Recorded(settings))


def test_with_all_heads_of_a_layer_off_the_output_bias_is_left_and_no_rounding():
    vit, _ = open_model(PLAIN, random_seed=0, image_size=SIZE)  # its biases are 0: a zero vector is at 1 from any other
    base = base_pass(vit, torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
    pruned = prune(vit, base, [(1, 0), (1, 1), (3, 0), (3, 1)], [Regions.ALL, Regions.CROSSING, Regions.NONE])
    for distance in pruned.distance.values():
        assert (distance.cls[0] == 1).all()
        assert (distance.patch[0] == 1).all()
        assert (distance.cls[2] == 0).all()
        assert 0 < distance.cls[1, 0] < 2


# --- the model ---


@pytest.fixture
def copied(settings, tmp_path):
    """The plain model's study in a data folder of its own, without its checkpoint."""
    shutil.copytree(settings.studies / PLAIN, tmp_path / "data" / "studies" / PLAIN)
    return Settings(data=tmp_path / "data")


@pytest.fixture
def alone(copied, monkeypatch):
    """The same, on another machine than the one that made it."""
    monkeypatch.setattr(study_model, "_lay", lambda study: [])
    return copied


def opened(settings):
    return study_model.open_model_of(open_published(settings.studies / PLAIN), settings, "cpu")


def test_missing_weights_are_missed_by_name_and_place_and_no_number_is_made_up(alone):
    request = request_for(alone, PLAIN, [(2, 1)])
    derived.remove_all(alone.studies / PLAIN)
    work = Recorded(alone)
    with pytest.raises(MistakeError, match=r"weights not here: .* test_vit\.safetensors \(sha256 .* put the test_vit"):
        doer.do(lease_of(request), work)
    with pytest.raises(study_model.StudyModelError, match=str(alone.models)):
        opened(alone)
    assert work.result is None


def test_a_checkpoint_of_that_name_with_other_weights_is_refused_and_the_right_one_beside_it_is_taken(alone, settings):
    loud_checkpoint(PLAIN, alone.models / "a" / f"{PLAIN}.safetensors")
    other = open_model(PLAIN, random_seed=5)[0].model.state_dict()
    save_file(other, alone.models / "a" / f"{PLAIN}.safetensors")
    with pytest.raises(study_model.StudyModelError, match=r"weights differ: .* but here is .*/a/test_vit\.safetensors"):
        opened(alone)
    (alone.models / "b").mkdir()
    shutil.copy(settings.models / "of a lab" / f"{PLAIN}.safetensors", alone.models / "b")
    assert opened(alone).num_layers == 6
    (alone.models / "b" / f"{PLAIN}.safetensors").write_bytes(b"cut short")
    (alone.models / "a" / f"{PLAIN}.safetensors").unlink()
    with pytest.raises(study_model.StudyModelError, match=r"weights not here: .* is not a sound safetensors file"):
        opened(alone)


def test_a_link_that_leads_out_of_the_folder_of_models_is_not_followed(alone, settings):
    alone.models.mkdir()
    (alone.models / f"{PLAIN}.safetensors").symlink_to(settings.models / "of a lab" / f"{PLAIN}.safetensors")
    (alone.models / "linked").symlink_to(settings.models, target_is_directory=True)
    with pytest.raises(study_model.StudyModelError, match="weights not here"):
        opened(alone)


def test_the_checkpoint_is_found_where_it_lay_when_the_study_was_made(copied, settings):
    lay = open_published(copied.studies / PLAIN).manifest.run["checkpoint"]
    assert lay == str((settings.models / "of a lab" / f"{PLAIN}.safetensors").resolve())
    assert opened(copied).num_layers == 6


def test_the_demos_weights_random_ones_and_cached_ones_need_no_file_of_a_person(tmp_path, monkeypatch):
    settings = Settings(data=tmp_path / "data")
    folder = picture_folder(tmp_path / "pictures", each=1, size=64)
    demo = compute("headscope_demo", folder, settings, WEIGHTS, no_labels=True)
    assert demo.attrs["weights"]["kind"] == "checkpoint"
    assert study_model.open_model_of(demo, settings, "cpu").num_classes == 12
    trained = compute("headscope_demo", folder, settings, name="trained", no_labels=True)
    assert trained.attrs["weights"]["kind"] == "pretrained"
    assert study_model.open_model_of(trained, settings, "cpu").num_classes == 12
    drawn = compute(PLAIN, folder, settings, random_weights=True, no_labels=True, seed=3)
    assert study_model.open_model_of(drawn, settings, "cpu").num_layers == 6
    monkeypatch.setitem(drawn.attrs["settings"], "seed", 4)
    with pytest.raises(study_model.StudyModelError, match=r"weights differ: .* what torch draws from seed 4"):
        study_model.open_model_of(drawn, settings, "cpu")
    monkeypatch.setitem(drawn.attrs["weights"], "kind", "pretrained")
    monkeypatch.setattr("precompute.weights.hub.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("socket.create_connection", lambda *args, **kwargs: pytest.fail("asked the network"))
    with pytest.raises(
        study_model.StudyModelError, match=rf"weights not here: .* not in timm's test_vit in {tmp_path}"
    ):
        study_model.open_model_of(drawn, settings, "cpu")


def test_equal_weights_that_give_other_logits_than_the_study_are_refused(settings, monkeypatch):
    real = doer.base_pass

    def other(vit, pixels):
        base = real(vit, pixels)
        return replace(base, logits=base.logits * 1.01)

    monkeypatch.setattr(doer, "base_pass", other)
    with pytest.raises(MistakeError, match=r"no longer gives what study test_vit has: a logit differs by 1\.0e-02"):
        found(settings, PLAIN, [(2, 1)])


@pytest.mark.skipif(real_folder() is None, reason=f"{VARIABLE} names no folder with weights/{DEIT_TINY}.safetensors")
def test_on_a_trained_model_the_whole_head_is_its_importance_and_regions_are_those_of_float64(tmp_path):
    study = photo_study(real_folder(), real_photos(real_folder(), 2), "rebuilt", tmp_path)
    settings = Settings(data=tmp_path)
    settings.models.mkdir()
    shutil.copy(real_folder() / "weights" / f"{DEIT_TINY}.safetensors", settings.models)
    double, _ = open_model(DEIT_TINY, checkpoint=settings.models / f"{DEIT_TINY}.safetensors")
    double.model.double()
    pixels = torch.from_numpy(study.read("pixels"))
    plain = reference.forward(double, pixels)
    for layer, head in ((0, 2), (10, 1)):
        result = found(settings, "rebuilt", [(layer, head)])
        for metric in METRICS:
            rows = result[metric][str(layer)] if "distance" in metric else result[pruning.OF_CLASS[metric]]
            known = study.read("importance", study.metric_index(metric), slice(None), layer, head)
            assert rows[15] == pytest.approx(known, abs=1e-6)
        for bits in (PP, CP | PC, 15):
            slow = reference.forward(double, pixels, {(layer, head): mask(double, bits)})
            drop = (plain.logits.softmax(1) - slow.logits.softmax(1))[torch.arange(2), torch.tensor(result["target"])]
            assert result["probability_drop"][bits] == pytest.approx(drop.tolist(), abs=FLOAT32)
            apart = 1 - torch.cosine_similarity(plain.z[layer][:, 0], slow.z[layer][:, 0], dim=-1)
            assert result["cls_distance"][str(layer)][bits] == pytest.approx(apart.tolist(), abs=FLOAT32)
