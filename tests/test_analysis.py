"""All arrays of a batch: as the schema has them, the same whatever the batch, and honest about what is not a number."""

import numpy as np
import pytest
import torch

from precompute import analysis as module
from precompute.analysis import Batch, batch_for, left_out, metrics_of, of_images
from store.schema import SCHEMA
from tests.models import ARCHITECTURES, small_vit, some_pixels

UNLABELLED = np.full(5, -1, dtype=np.int32)


def run(vit, pixels, label=UNLABELLED, batch=Batch(2, 4)):
    return of_images(vit, pixels.numpy(), label, batch, SCHEMA)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_array_of_the_schema_is_there_in_its_type_or_left_out_with_a_reason(architecture):
    vit = small_vit(architecture, torch.float32)
    arrays, _ = run(vit, some_pixels(vit, 5))
    computed = {n for n, spec in SCHEMA.items() if spec.written in ("unit", "gathered")}
    assert set(arrays) == computed - set(left_out(vit))
    for name, array in arrays.items():
        assert array.dtype == SCHEMA[name].dtype, name
        assert array.ndim == len(SCHEMA[name].dims), name
    assert arrays["importance"].shape == (len(metrics_of(vit)), 5, vit.num_layers, vit.num_heads)


def test_a_model_without_cls_or_classifier_says_what_it_lacks():
    assert metrics_of(small_vit("map_pooled_no_classifier")) == ("patch_distance",)
    assert metrics_of(small_vit("average_pooled")) == ("probability", "jsd", "patch_distance")
    assert "no CLS token is read" in left_out(small_vit("average_pooled"))["cls_distance"]
    assert "no classifier" in left_out(small_vit("map_pooled_no_classifier"))["jsd"]


def test_an_unlabelled_image_is_followed_by_its_predicted_class_and_a_labelled_one_by_its_label():
    vit = small_vit("plain", torch.float32)
    pixels = some_pixels(vit, 5)
    arrays, _ = run(vit, pixels, np.array([3, -1, 0, -1, 6], dtype=np.int32))
    predicted = arrays["logits"].argmax(axis=1)
    assert arrays["target"].tolist() == [3, predicted[1], 0, predicted[3], 6]
    rows = np.arange(5)
    base = arrays["probability"][rows, arrays["target"]]
    drop = arrays["importance"][0]
    assert np.allclose(base[:, None, None] - drop, arrays["pruned_probability"], atol=1e-6)


def test_the_batch_changes_results_by_rounding_at_most():
    vit = small_vit("plain", torch.float32)
    pixels = some_pixels(vit, 5)
    whole, _ = run(vit, pixels, batch=Batch(5, 100))
    for batch in (Batch(1, 1), Batch(2, 3), Batch(4, 6)):
        parts, _ = run(vit, pixels, batch=batch)
        assert np.abs(parts["importance"] - whole["importance"]).max() < 2e-6
        assert (parts["patch_mask"] == whole["patch_mask"]).mean() > 0.99


def test_out_of_memory_halves_the_batch_down_to_one_and_then_says_so(monkeypatch):
    vit = small_vit("plain", torch.float32)
    real, tried = module.of_batch, []

    def small_device(most):
        def of_batch(vit, pixels, label, chunk, wanted):
            tried.append((len(pixels), chunk))
            if len(pixels) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(vit, pixels, label, chunk, wanted)

        return of_batch

    monkeypatch.setattr(module, "of_batch", small_device(most=1))
    arrays, fitted = run(vit, some_pixels(vit, 5), batch=Batch(4, 8))
    assert tried[:3] == [(4, 8), (2, 4), (1, 2)]
    assert fitted == Batch(1, 2)
    assert len(arrays["logits"]) == 5
    monkeypatch.setattr(module, "of_batch", small_device(most=0))
    with pytest.raises(MemoryError, match="smaller --image-size"):
        run(vit, some_pixels(vit, 5), batch=Batch(4, 8))


def test_an_error_that_is_not_about_memory_is_not_taken_for_one(monkeypatch):
    vit = small_vit("plain", torch.float32)

    def broken(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(module, "of_batch", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(vit, some_pixels(vit, 5))


def test_nan_in_one_image_stays_in_that_image(monkeypatch):
    vit = small_vit("plain", torch.float32)
    embed = vit.embed

    def spoilt(pixels):
        resid = embed(pixels)
        resid[pixels[:, 0, 0, 0] == 7] = torch.nan
        return resid

    monkeypatch.setattr(vit, "embed", spoilt)
    pixels = some_pixels(vit, 4)
    pixels[:, 0, 0, 0] = torch.tensor([0, 7, 0, 0], dtype=torch.uint8)
    with torch.inference_mode():
        arrays, _ = of_images(vit, pixels.numpy(), UNLABELLED[:4], Batch(4, 8), SCHEMA)
    for name in ("importance", "strength", "entropy", "logits"):
        by_image = np.moveaxis(arrays[name], SCHEMA[name].image_axis, 0)
        assert np.isnan(by_image[1]).all(), name
        assert np.isfinite(by_image[[0, 2, 3]]).all(), name


def test_flags_of_torch_are_as_they_were_after_exact_float32():
    torch.backends.cudnn.allow_tf32 = True
    with pytest.raises(KeyError), module.exact_float32():
        assert not torch.backends.cudnn.allow_tf32
        raise KeyError
    assert torch.backends.cudnn.allow_tf32


def test_the_batch_is_the_same_every_time():
    vit = small_vit("plain", torch.float32)
    assert batch_for(vit) == batch_for(vit)
    assert batch_for(vit).images >= 1 <= batch_for(vit).chunk
