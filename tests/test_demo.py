"""The demo's pictures and masks, the weights committed for them, and the script that made those."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from precompute.demo import train
from precompute.demo.model import WEIGHTS
from precompute.demo.pictures import CLASSES, MARKER, SEED, SIZE, draw, picture, scene, write_picture_set

FRESH = 77  # a seed that neither training, nor its held-out pictures, nor the set of the demo uses


def pictures_in(folder):
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in folder.rglob("*.png")}


@pytest.fixture(scope="module")
def picture_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    write_picture_set(folder, per_class=3)
    return folder


@pytest.fixture(scope="module")
def model():
    return timm.create_model("headscope_demo", pretrained=True).eval()


# --- the set ---


def test_a_set_is_bit_equal_for_one_seed_and_differs_for_another(picture_set, tmp_path):
    write_picture_set(tmp_path / "same", per_class=3)
    write_picture_set(tmp_path / "other", per_class=3, seed=SEED + 1)
    first, same, other = (pictures_in(each) for each in (picture_set, tmp_path / "same", tmp_path / "other"))
    assert first.keys() == same.keys() == other.keys()
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_a_set_has_an_image_and_a_mask_of_every_picture(picture_set):
    names = {f"{name}/{index:03}.png" for name in CLASSES for index in range(3)}
    assert pictures_in(picture_set / "images").keys() == pictures_in(picture_set / "masks").keys() == names


def test_files_are_the_pictures_drawn(picture_set):
    pixels, mask = picture(SEED, class_index=4, index=2)
    files = pictures_in(picture_set)
    assert np.array_equal(files[f"images/{CLASSES[4]}/002.png"], pixels)
    assert np.array_equal(files[f"masks/{CLASSES[4]}/002.png"], mask * np.uint8(255))


def test_a_complete_set_is_reused_as_it_is(picture_set):
    before = {path: path.stat().st_mtime_ns for path in picture_set.rglob("*")}
    assert write_picture_set(picture_set, per_class=3) == picture_set / "images"
    assert {path: path.stat().st_mtime_ns for path in picture_set.rglob("*")} == before


def test_an_interrupted_set_is_drawn_again(tmp_path):
    write_picture_set(tmp_path, per_class=1)
    whole = pictures_in(tmp_path)
    (tmp_path / MARKER).unlink()
    (tmp_path / "images" / "ring" / "000.png").write_bytes(b"half a picture")
    (tmp_path / "masks" / "disc" / "000.png").unlink()
    write_picture_set(tmp_path, per_class=1)
    again = pictures_in(tmp_path)
    assert again.keys() == whole.keys()
    assert all(np.array_equal(again[name], whole[name]) for name in whole)


def test_another_set_is_not_written_over(picture_set):
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_picture_set(picture_set, per_class=2)


def test_pictures_of_somebody_else_are_not_mixed_in(tmp_path):
    (tmp_path / "images" / "cats").mkdir(parents=True)
    (tmp_path / "images" / "cats" / "tom.png").write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"tom\.png"):
        write_picture_set(tmp_path)


def test_a_set_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        write_picture_set(tmp_path, per_class=0)


def test_drawing_needs_no_torch():
    check = "import precompute.demo.pictures, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# --- a picture ---


@pytest.mark.parametrize("class_index", range(len(CLASSES)), ids=CLASSES)
def test_the_mask_covers_the_object(class_index):
    for index in range(20):
        layers = scene(class_index, np.random.default_rng((FRESH, class_index, index)))
        pixels, mask = picture(FRESH, class_index, index)
        assert pixels.shape == (SIZE, SIZE, 3) and pixels.dtype == np.uint8
        assert mask.shape == (SIZE, SIZE) and mask.dtype == np.bool_
        assert 0.01 < mask.mean() < 0.6
        assert layers.cover[mask].min() >= 0.5
        # What the object changed lies inside the mask; outside, only grain and a few small shapes over it.
        change = np.sqrt(((pixels - layers.ground) ** 2).sum(-1))
        assert change[mask].mean() > 1.5 * change[layers.cover == 0].mean()


def test_a_class_that_the_demo_does_not_have_is_named():
    with pytest.raises(ValueError, match="class 12 is not in the demo, which has classes 0 to 11"):
        draw(12, np.random.default_rng(0))


# --- the model ---


def test_the_committed_weights_fit_strictly_and_are_what_pretrained_loads(model):
    weights = load_file(WEIGHTS)
    timm.create_model("headscope_demo").load_state_dict(weights, strict=True)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_the_committed_weights_are_at_most_6_mb():
    assert WEIGHTS.stat().st_size <= 6e6


def test_timm_prepares_a_picture_as_training_did(model):
    pixels, _ = train.pictures(FRESH, first=3, count=1)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    drawn, _ = picture(FRESH, class_index=3, index=0)
    torch.testing.assert_close(prepare(Image.fromarray(drawn)), pixels[0])


def test_nine_in_ten_fresh_pictures_are_right_and_some_are_wrong(model):
    assert 0.9 <= train.accuracy(train.confusion(model, seed=FRESH, count=600)) < 1


def test_the_demo_set_has_mistakes_to_look_at(model):
    """144 pictures, as `write_picture_set` draws them unless told otherwise."""
    table = train.confusion(model, seed=SEED, count=12 * len(CLASSES))
    assert 4 <= table.sum() - table.diagonal().sum() <= 12
    assert len(train.mistakes(table)) >= 3


# --- training ---


def test_training_is_bit_equal_for_one_seed_and_leaves_torch_as_it_was(tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    for name in ("first", "second"):
        out = tmp_path / name / "weights.safetensors"
        train.main(["--steps", "1", "--batch", "12", "--held-out", "12", "--out", str(out)])
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("first", "second"))
    assert first.keys() == load_file(WEIGHTS).keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_page_of_the_demo_tells_what_training_logged():
    log = json.loads(WEIGHTS.with_suffix(".json").read_text())
    page = (Path(__file__).parents[1] / "docs" / "demo.md").read_text()
    assert f"{log['held_out_accuracy']:.1%} of {log['held_out_pictures']:,}".replace("%", " %") in page
    for line in log["epochs"]:
        cells = (f"{line['step']:,}", f"{line['pictures']:,}", f"{line['loss']:.3f}")
        assert f"| {' | '.join(cells)} | {line['held_out_accuracy']:.3f} | {line['seconds']:,} |" in page
    for true, taken, times in log["mistakes"]:
        if times > 1:
            assert f"| `{true}` | `{taken}` | {times} |" in page


def test_training_changes_every_weight(tmp_path):
    with train.reproducible(seed=0, threads=1):
        model = timm.create_model("headscope_demo")
        before = {name: tensor.clone() for name, tensor in model.named_parameters()}
        [(step, loss)] = train.train(model, steps=1, batch=12)
    assert step == 1 and 0 < loss < 10
    assert [name for name, tensor in model.named_parameters() if torch.equal(tensor, before[name])] == []


def test_training_draws_each_picture_once():
    first, labels = train.pictures(seed=1, first=0, count=24)
    second, _ = train.pictures(seed=1, first=12, count=12)
    assert labels.tolist() == [*range(12)] * 2
    assert torch.equal(first[12:], second)
    assert not torch.equal(first[:12], second)


def test_the_rate_rises_and_then_falls_to_nothing():
    shares = [train.rate_share(step, steps=1000) for step in range(1000)]
    assert shares.index(1.0) == 99
    assert shares[:100] == sorted(shares[:100]) and shares[100:] == sorted(shares[100:], reverse=True)
    assert shares[-1] < 1e-5


def test_a_confusion_table_counts_every_picture_and_lists_its_mistakes():
    class AlwaysRing(torch.nn.Module):
        def forward(self, pixels):
            return torch.eye(len(CLASSES))[[CLASSES.index("ring")] * len(pixels)]

    table = train.confusion(AlwaysRing(), seed=FRESH, count=24)
    assert table.sum() == 24
    assert train.accuracy(table) == pytest.approx(1 / 12)
    assert ("disc", "ring", 2) in train.mistakes(table) and len(train.mistakes(table)) == 11
