"""The configuration beside the weights is read as its library means it, and a wrong one says what would be right."""

import json

import numpy as np
import pytest
import timm
from PIL import Image

from precompute.configuration import Configuration, configuration_beside
from precompute.errors import ModelError
from precompute.model import ViT
from precompute.preprocess import seen_by

NAME = "test_vit"
TIMM = {
    "mean": [0.4, 0.5, 0.6],
    "std": [0.1, 0.2, 0.3],
    "interpolation": "bilinear",
    "crop_pct": 0.8,
    "crop_mode": "squash",
}
READ = TIMM | {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)}


def beside(tmp_path, config=None, preprocessor=None, name=NAME):
    for file, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        if content is not None:
            (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    return configuration_beside(tmp_path / "model.safetensors", name)


def test_without_a_file_nothing_is_known(tmp_path):
    assert beside(tmp_path) is None


@pytest.mark.parametrize("form", ["newer", "older"])
def test_timms_own_form_tells_preprocessing_pooling_classes_and_tag(tmp_path, form):
    inner = TIMM | {"input_size": [3, 96, 160], "tag": "mine", "label_names": ["n1", "n2"], "num_classes": 1000}
    inner["label_descriptions"] = {"n1": "ash", "n2": "beech"}
    outer = {"architecture": NAME, "num_classes": 2, "global_pool": "token", "model_args": {"global_pool": "avg"}}
    found = beside(tmp_path, outer | ({"pretrained_cfg": inner} if form == "newer" else {**inner, "num_classes": 2}))
    assert found == Configuration(
        NAME,
        "mine",
        2,
        (96, 160),
        "avg",
        ("ash", "beech"),
        one_class=True,
        preprocessing=READ,
        said_by=dict.fromkeys(READ, "config.json"),
    )


def test_of_another_architecture_nothing_but_its_name_is_taken(tmp_path):
    found = beside(tmp_path, {"architecture": "resnet18.tag", "mean": "nonsense"}, {"image_mean": "nonsense"})
    assert found == Configuration("resnet18")


def test_transformers_name_the_classes_unless_nobody_did(tmp_path):
    assert beside(tmp_path, {"id2label": {"1": "dog", "0": "cat"}, "image_size": 224}) == Configuration(
        input_size=(224, 224), class_names=("cat", "dog"), one_class=True
    )
    assert beside(tmp_path, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}) == Configuration()


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_a_head_of_no_one_class_is_told_by_its_problem_type(tmp_path, problem):
    found = beside(tmp_path, {"id2label": {"0": "a", "1": "b"}, "problem_type": problem})
    assert found.one_class is False
    assert f"problem_type {problem}" in found.not_classes


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (
            {"size": {"height": 64, "width": 64}, "resample": 2},
            {"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bilinear"},
        ),
        ({"size": 64}, {"crop_mode": "squash", "crop_pct": 1.0}),
        (
            {"size": {"height": 80, "width": 80}, "crop_size": {"height": 64, "width": 64}, "do_center_crop": True},
            {"crop_mode": "squash", "crop_pct": 0.8},
        ),
        (
            {"size": {"shortest_edge": 80}, "crop_size": 64, "do_center_crop": True, "resample": 3},
            {"crop_mode": "center", "crop_pct": 0.8, "interpolation": "bicubic"},
        ),
        # One number is the shortest edge to CLIP's processors, and both sides to those of ViT and DeiT.
        (
            {"size": 80, "crop_size": 64, "do_center_crop": True, "feature_extractor_type": "CLIPFeatureExtractor"},
            {"crop_mode": "center", "crop_pct": 0.8},
        ),
        (
            {"size": 80, "crop_size": 64, "do_center_crop": True, "image_processor_type": "DeiTImageProcessor"},
            {"crop_mode": "squash", "crop_pct": 0.8},
        ),
        ({"do_resize": False, "size": 64}, {"crop_mode": "squash", "crop_pct": 1.0}),
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, {"mean": (0.5,) * 3, "std": (0.25,) * 3}),
        ({"image_mean": [0.5] * 3, "do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        # x / 127.5 - 1 is (x / 255 - 0.5) / 0.5, whether 1 is the mean or an offset
        (
            {"do_normalize": False, "rescale_factor": 1 / 127.5, "rescale_offset": True},
            {"mean": (0.5,) * 3, "std": (0.5,) * 3},
        ),
        (
            {"image_mean": [1, 1, 1], "image_std": [1, 1, 1], "rescale_factor": 1 / 127.5},
            {"mean": (0.5,) * 3, "std": (0.5,) * 3},
        ),
        (
            {"image_mean": [127.5] * 3, "image_std": [51] * 3, "do_rescale": False},
            {"mean": (0.5,) * 3, "std": (0.2,) * 3},
        ),
    ],
)  # fmt: skip
def test_transformers_preprocessing_is_put_in_timms_terms(tmp_path, said, read):
    found = beside(tmp_path, preprocessor=said)
    assert found.preprocessing == read
    assert found.said_by == dict.fromkeys(read, "preprocessor_config.json")


def test_what_one_file_leaves_open_the_other_says(tmp_path):
    found = beside(tmp_path, TIMM, {"size": 64, "resample": 3})
    assert found.preprocessing == READ | {"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bicubic"}
    assert (found.said_by["mean"], found.said_by["crop_pct"]) == ("config.json", "preprocessor_config.json")


@pytest.mark.parametrize("side", [161, 177, 182, 191, 256])
@pytest.mark.parametrize("keeps_shape", [True, False])
def test_pictures_are_resized_to_the_very_side_that_is_said_and_cropped_from_its_middle(tmp_path, side, keeps_shape):
    size = {"shortest_edge": side} if keeps_shape else {"height": side, "width": side}
    found = beside(tmp_path, preprocessor={"size": size, "crop_size": 160, "do_center_crop": True, "resample": 3})
    vit = ViT(timm.create_model(NAME).eval(), NAME, preprocessing=found.preprocessing)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8))
    width = int(side * 240 / 200) if keeps_shape else side
    resized = np.asarray(picture.resize((width, side), Image.Resampling.BICUBIC))
    top, left = round((side - 160) / 2), round((width - 160) / 2)
    assert np.array_equal(seen_by(vit)(picture), resized[top : top + 160, left : left + 160])


@pytest.mark.parametrize(
    ("config", "preprocessor", "said"),
    [
        ("{", None, "config.json is not JSON"),
        ("[1]", None, "JSON, but not an object"),
        ("[" * 100_000, None, "config.json is not JSON"),
        ({"mean": [0.5]}, None, "mean is .* right is three numbers"),
        ({"mean": [0.5, 0.5, True]}, None, "mean is"),
        ({"std": [0, 1, 1]}, None, "std is .* right is three numbers over 0"),
        ({"std": [1e400, 1, 1]}, None, "std is"),
        ({"crop_pct": 0}, None, "crop_pct is 0; right is 0.1 to 1"),
        ({"interpolation": "magic"}, None, "interpolation is \"magic\"; right is one of bicubic"),
        ({"global_pool": "sum"}, None, "global_pool is \"sum\"; right is one of token, avg"),
        ({"id2label": {"0": "a", "2": "c"}}, None, "id2label is"),
        ({"label_names": ["a", ""]}, None, "label_names is"),
        ({"num_classes": -1}, None, "num_classes is -1"),
        ({"pretrained_cfg": [1]}, None, "pretrained_cfg is"),
        (None, {"size": {"longest_edge": 64}}, "size is .* right is as"),
        ({"num_classes": "2"}, None, "num_classes is \"2\"; right is a whole number"),
        ({"mean": [123.7, 116.3, 103.5]}, None, "mean comes to .* divide numbers of 0 to 255 by 255"),
        ({"std": [58.4, 57.1, 57.4]}, None, "std comes to"),
        ({"crop_pct": 1e-9}, None, "crop_pct is 1e-09; right is 0.1 to 1"),
        ({"id2label": {"0": "a\nb"}}, None, "id2label is"),
        ({"label_names": ["a\u202eb"]}, None, "label_names is"),
        ({"label_names": ["a"], "label_descriptions": {"a": 5}}, None, "label_descriptions is"),
        (None, {"resample": 9}, "resample is 9"),
        (None, {"resample": True}, "resample is true"),
        (None, {"image_mean": [2, 2, 2]}, "mean comes to 2, 2, 2"),
        (None, {"size": 80, "crop_size": 64, "do_center_crop": True}, "may mean the shortest edge or both sides"),
        (None, {"size": {"shortest_edge": 800}, "crop_size": 8, "do_center_crop": True}, "a share of 0.1 to 1"),
        (None, {"do_resize": False, "do_center_crop": True}, "are cropped and not resized"),
        (
            None,
            {"size": {"height": 80, "width": 80}, "crop_size": {"height": 64, "width": 32}, "do_center_crop": True},
            "are of another shape",
        ),
        (None, {"size": {"shortest_edge": 64}}, "keep their shape and are not cropped"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_it_is_named_with_what_would_be_right(tmp_path, config, preprocessor, said):
    with pytest.raises(ModelError, match=said):
        beside(tmp_path, config, preprocessor)


def test_a_huge_file_is_not_read_to_its_end(tmp_path):
    (tmp_path / "config.json").write_bytes(b" " * ((16 << 20) + 1))
    with pytest.raises(ModelError, match="larger than 16 MB"):
        beside(tmp_path)
