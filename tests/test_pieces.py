"""Analyses that come after all images: cut into pieces that any worker does, joined to the same bits, done once."""

import os
import signal

import numpy as np
import pytest
import torch

from analyses.analysis import Analysis
from analyses.arrays import HEADS, ArraySpec
from analyses.registry import ANALYSES
from jobs.requests import StudyRequest
from precompute.metrics import probabilities
from store import failpoints, schema
from store.errors import DamagedError
from store.manifest import verify
from store.settings import Settings
from store.study import open_published
from tests.pictures import picture_folder
from workers import after as after_module
from workers import pieces as pieces_module
from workers import study as pipeline
from workers.after import after
from workers.pieces import levels, pieces_of
from workers.prepare import prepare

SIZES = {"image": 50_000, "layer": 12, "head": 12, "token": 197}


def quiet(*given):
    pass


def compute(folder, settings, name, **changes):
    request = StudyRequest("test_vit", folder, name, random_weights=True, image_size=(64, 64), device="cpu", **changes)
    prepared = prepare(request, settings, quiet)
    pipeline.run(prepared, quiet, quiet, quiet)
    return open_published(prepared.study)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A data folder with a study that was computed in whole units, and its pictures."""
    base = tmp_path_factory.mktemp("pieces")
    settings = Settings(data=base / "data")
    folder = picture_folder(base / "pictures", each=3)
    return settings, folder, compute(folder, settings, "whole")


@pytest.fixture
def short_units(monkeypatch):
    """Units so short that this small study is cut in all ways."""
    monkeypatch.setattr(pieces_module, "UNIT_SECONDS", 1e-4)


def by_name(name):
    return next(each for each in after() if each.name == name)


def test_pieces_cover_every_layer_of_every_image_once_and_take_no_more_than_a_minute():
    for each in after():
        pieces = pieces_of(each, SIZES)
        assert bool(pieces) == (bool(each.cut) and each.seconds(SIZES) > 60), each.name
        seen = np.zeros((SIZES["image"], SIZES["layer"]), int)
        for piece in pieces:
            seen[piece.images.start : piece.images.stop, piece.layers.start : piece.layers.stop] += 1
            share = len(piece.images) * len(piece.layers) / seen.size
            assert each.seconds(SIZES) * share <= 61, piece.name
        assert not pieces or (seen == 1).all()
        assert len({piece.name for piece in pieces}) == len({piece.key for piece in pieces}) == len(pieces)


def test_a_study_that_is_small_or_an_analysis_that_cannot_be_cut_has_no_pieces():
    assert all(pieces_of(each, SIZES | {"image": 10}) == [] for each in after())
    assert all(pieces_of(each, SIZES) == [] for each in after() if not each.cut)


def test_maps_are_computed_side_by_side_and_each_after_what_it_reads():
    order = levels(after())
    level = {each.name: number for number, several in enumerate(order) for each in several}
    assert level["autoencoder"] < level["latents"] < level["patch-map"] == level["cls-map"] == level["layouts"]
    assert level["patterns"] == level["objects"] == 0


def test_pieces_joined_are_bit_equal_to_the_whole(lab, short_units):
    settings, folder, whole = lab
    assert len(pieces_of(by_name("patterns"), whole.sizes)) > whole.sizes["layer"]
    assert len(pieces_of(by_name("latents"), whole.sizes)) > 1
    cut = compute(folder, settings, "cut")
    assert cut.manifest.run["seconds"]["patterns"] > 0
    for name in whole.arrays:
        if name == "content_relevance":  # sums of float64 in another order
            assert np.abs(cut.read(name) - whole.read(name)).max() <= np.spacing(np.float32(1))
        else:
            assert np.array_equal(cut.read(name), whole.read(name), equal_nan=whole[name].dtype.kind == "f"), name


@pytest.mark.parametrize("point", ["before-piece-write:2", "before-piece-ack:2", "after-piece-ack:2", "half-placed:1"])
def test_killed_in_a_piece_the_next_run_does_what_is_missing_and_no_more(lab, short_units, monkeypatch, point):
    settings, folder, whole = lab
    name = "killed-" + point.replace(":", "-")
    child = os.fork()
    if child == 0:  # a process that dies in the midst of it
        os.environ[failpoints.VARIABLE] = f"{point}:kill"
        compute(folder, settings, name)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (settings.studies / name / "MANIFEST.json").exists()
    computed, real = [], pipeline.compute
    monkeypatch.setattr(pipeline, "compute", lambda each, unit: (computed.append(each.name), real(each, unit))[1])
    study = compute(folder, settings, name)
    expected = len(pieces_of(by_name("patterns"), whole.sizes)) + len(pieces_of(by_name("latents"), whole.sizes))
    done_before = {"before-piece-write:2": 1, "before-piece-ack:2": 1, "after-piece-ack:2": 2}.get(point, 0)
    assert len(computed) == expected - done_before
    assert verify(study.path.parent) == []
    assert np.array_equal(study.read("pattern_score"), whole.read("pattern_score"))


def test_a_piece_that_is_damaged_before_it_is_joined_is_an_error_and_computed_again(lab, short_units, monkeypatch):
    settings, folder, whole = lab
    real = pipeline.join

    def spoilt(each, unit, parts):
        damaged = settings.studies / "damaged" / "attempt-1.work" / "parts" / f"pieces-{each.name}"
        npz = sorted(damaged.glob("*.npz"))[0]
        npz.write_bytes(npz.read_bytes()[:-1] + b"x")
        return real(each, unit, parts)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "join", spoilt)
        with pytest.raises(DamagedError, match="was changed after it was written; run the same command again"):
            compute(folder, settings, "damaged")
    assert np.array_equal(compute(folder, settings, "damaged").read("pattern_name"), whole.read("pattern_name"))


# --- what a unit can have ---

SPEC = ArraySpec(HEADS, "float32", "How much the first class' logit changes with a head's output.", title="Slope")


def slopes(unit):
    """Gradient of the first logit, read out behind each layer, with respect to a factor on each head's output."""
    vit = unit.open_model()
    slope = np.empty((len(unit.images), unit.study.sizes["layer"], unit.heads), np.float32)
    for row, image in enumerate(unit.images):
        resid = vit.embed(torch.from_numpy(unit.study.read("pixels", [image])))
        for number, layer in enumerate(vit.walk(resid)):
            factor = torch.ones(unit.heads, requires_grad=True)
            change = (vit.head_output(number, layer.context) * (factor - 1)[:, None, None]).sum(dim=1)
            logits = vit.read_out(vit.after_attention(number, layer.resid, layer.z + change))
            slope[row, number] = torch.autograd.grad(logits[0, 0], factor)[0].numpy()
    return {"slope": slope}


def confident(unit):
    """Which images the model is sure of; reads the masks and labels that it asked for."""
    assert unit.masks is None
    with pytest.raises(RuntimeError, match="needs="):
        unit.open_model()
    logits = torch.from_numpy(unit.study.read("logits", list(unit.images)))
    assert not torch.is_grad_enabled()
    return {"confident": probabilities(logits).amax(dim=-1).float().numpy()}


@pytest.fixture
def declared(monkeypatch):
    """Two analyses of another version, one of them with gradients."""
    own = Analysis(
        "slopes", "Slopes", {"slope": SPEC}, function="tests.test_pieces:slopes", cut=("image",),
        needs=("gradients", "classifier"), reads=("pixels",), seconds=lambda sizes: 1e-3 * sizes["image"],
    )  # fmt: skip
    plain = Analysis(
        "confident", "Confident", {"confident": ArraySpec(("image",), "float32", "The largest probability.")},
        function="tests.test_pieces:confident", needs=("labels",), reads=("logits",),
    )  # fmt: skip
    for each in (own, plain):
        for name, spec in each.arrays.items():
            monkeypatch.setitem(schema.SCHEMA, name, spec)
    monkeypatch.setattr(after_module, "ANALYSES", ANALYSES | {"slopes": own, "confident": plain})


def test_a_unit_has_gradients_of_the_model_if_its_analysis_asks_for_them(lab, declared, short_units):
    """Against a difference quotient in float64 of the last layer, behind which nothing but the head's output lies."""
    settings, folder, _ = lab
    study = compute(folder, settings, "slopes", skip=frozenset({"patterns"}))
    slope = study.read("slope")
    assert slope.shape == tuple(study.sizes[dim] for dim in HEADS)
    assert np.isfinite(slope).all()
    prepared = prepare(
        StudyRequest("test_vit", folder, "again", random_weights=True, image_size=(64, 64), device="cpu"),
        settings, quiet,
    )  # fmt: skip
    vit = prepared.vit
    vit.model.double()
    with torch.no_grad():
        last = list(vit.walk(vit.embed(torch.from_numpy(study.read("pixels", [4])))))[-1]
        per_head = vit.head_output(vit.num_layers - 1, last.context)

        def logit(head, by):
            return vit.read_out(vit.after_attention(vit.num_layers - 1, last.resid, last.z + by * per_head[:, head]))[
                0, 0
            ]

        for head in range(vit.num_heads):
            by_hand = (logit(head, 1e-5) - logit(head, -1e-5)) / 2e-5
            assert slope[4, -1, head] == pytest.approx(float(by_hand), rel=1e-3, abs=1e-6)


def test_an_analysis_that_came_later_is_added_to_a_published_study_and_says_why_it_is_left_out(lab, declared):
    settings, folder, _ = lab
    first = compute(folder, settings, "added", skip=frozenset({"patterns"}), no_labels=True)
    assert "slope" in first
    assert first.attrs["left_out"]["confident"] == "the class of no image is known; give --classes, or --label-map"
