"""What no tensor says of a model is taken from whoever says it, named with its source, and asked about otherwise."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import get_arch_pretrained_cfgs

from precompute.checkpoint import Checkpoint
from precompute.errors import ModelError
from precompute.model import ViT
from precompute.names import supported_names
from precompute.provenance import Choices, OfFile, of_timms_weights
from precompute.weights import open_model

NAME = "test_vit"  # 160 pixels, 10 × 10 patches
IMAGENET = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}


@pytest.fixture(autouse=True)
def read_here(monkeypatch):
    """Weights are read in this process: what they mean is asked here, and not by whom they are read."""
    monkeypatch.setattr(
        "precompute.weights.read_checkpoint", lambda file, _: Checkpoint(load_file(file), None, (), "", ())
    )


def trained(name=NAME, **arguments):
    """A seeded model whose every tensor matters."""
    torch.manual_seed(0)
    model = timm.create_model(name, **({"num_classes": 5} | arguments)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def saved(model, tmp_path, name="w.safetensors"):
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, tmp_path / name)
    return tmp_path / name


def opened(model, tmp_path, name=NAME, image_size=None, **choices):
    """The model from a file; its outputs are those of timm's own model, which made the file."""
    vit, weights = open_model(
        name, checkpoint=saved(model, tmp_path), image_size=image_size, choices=Choices(**choices)
    )
    pixels = torch.randint(
        0, 256, (2, *vit.input_size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    config = vit.preprocessing
    normalised = (pixels / 255 - torch.tensor(config["mean"])) / torch.tensor(config["std"])
    with torch.inference_mode():
        right = model(normalised.permute(0, 3, 1, 2))
        assert torch.allclose(vit.forward(pixels), right, atol=1e-5)
    return vit, weights.provenance


# ---- every supported name


def test_every_name_opens_with_timms_preprocessing_pooling_and_prefix_tokens():
    """Prefix tokens and pooling against what the tensors say, preprocessing by field against the configuration."""
    for name in supported_names():
        with torch.device("meta"):
            model = timm.create_model(name, depth=1).eval()
        vit, state = ViT(model, name), model.state_dict()
        prefix = {key: state[key].shape[1] for key in ("cls_token", "dist_token", "reg_token") if key in state}
        assert vit.num_prefix_tokens == sum(prefix.values()), name
        kinds = ["CLS"] * prefix.get("cls_token", 0) + ["distillation"] * prefix.get("dist_token", 0)
        assert vit.prefix_tokens == kinds + [f"register {i + 1}" for i in range(prefix.get("reg_token", 0))], name
        assert (vit.pool == "map") == any(key.startswith("attn_pool.") for key in state), name
        assert vit.has_cls == ("cls_token" in state and vit.pool == "token"), name
        cfg = timm.get_pretrained_cfg(name)
        for field in ("mean", "std", "interpolation", "crop_pct", "crop_mode"):
            assert vit.preprocessing[field] == getattr(cfg, field), (name, field)
        assert vit.input_size == cfg.input_size[1:], name


def test_every_tag_makes_as_many_outputs_as_its_configuration_says():
    for name in supported_names("*"):
        default = timm.get_pretrained_cfg(name).num_classes
        others = {cfg.num_classes: tagged for tagged, cfg in get_arch_pretrained_cfgs(name).items()}
        for count, tagged in others.items():
            if count != default:
                with torch.device("meta"):
                    assert timm.create_model(tagged, depth=1).num_classes == count, tagged


# ---- preprocessing


def test_the_configuration_beside_the_weights_is_used_and_named(tmp_path):
    config = {"architecture": NAME, "num_classes": 5, "pretrained_cfg": {**IMAGENET, "label_names": list("abcde")}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    vit, known = opened(trained(), tmp_path)
    assert vit.preprocessing["mean"] == IMAGENET["mean"] and known.class_names == tuple("abcde")
    assert known.sources["preprocessing"].startswith("mean, std from config.json beside the weights; interpolation")
    assert known.sources["classes"] == "the names in config.json beside the weights"
    assert known.questions == ()
    vit, known = opened(trained(), tmp_path, mean=(0.1, 0.2, 0.3), crop_pct=0.7)  # what a person says goes before it
    assert (vit.preprocessing["mean"], vit.preprocessing["crop_pct"]) == ((0.1, 0.2, 0.3), 0.7)
    assert known.sources["preprocessing"].startswith("mean, crop_pct as given; std from config.json")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architecture": "vit_tiny_patch16_224", "mean": [0, 0, 0]}, "is of vit_tiny_patch16_224, not of test_vit"),
        ({"num_classes": 7, "mean": [0, 0, 0]}, "is of 7 outputs and the head has 5"),
        ({"id2label": {"0": "a", "1": "b"}, "mean": [0, 0, 0]}, "is of 2 outputs and the head has 5"),
    ],
)
def test_a_configuration_of_another_model_is_not_used_and_said(tmp_path, config, said):
    (tmp_path / "config.json").write_text(json.dumps(config))
    vit, known = opened(trained(), tmp_path)
    assert vit.preprocessing["mean"] == (0.5, 0.5, 0.5)
    assert [said in question for question in known.questions] == [True]


def test_weights_whose_like_were_trained_with_other_pixels_are_asked_about_unless_somebody_says(tmp_path):
    def known(name, **choices):
        with torch.device("meta"):
            model = timm.create_model(name, depth=1, num_classes=5)
        state = model.state_dict() | {"head.bias": torch.zeros(5)}
        return OfFile(name, state, tmp_path / "w.safetensors", Choices(**choices)).provenance(model)[1]

    (question,) = known("vit_tiny_patch16_224").questions
    assert "mean 0.5, 0.5, 0.5" in question and "mean 0.485, 0.456, 0.406" in question
    assert "deit_tiny_patch16_224.fb_in1k" in question and "Give mean, std" in question
    assert "assumed of this file" in known("vit_tiny_patch16_224").sources["preprocessing"]
    assert known("vit_tiny_patch16_224.augreg_in21k_ft_in1k").questions == ()
    all_said = IMAGENET | {"interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
    assert known("vit_tiny_patch16_224", **all_said).questions == ()


def test_gelu_over_weights_that_may_be_of_quick_gelu_is_asked_about():
    name = "vit_base_patch32_clip_224"
    with torch.device("meta"):
        model = timm.create_model(name, depth=1)

    def questions(name, trained):
        return of_timms_weights(name, model, Choices(), trained=trained)[1].questions

    (question,) = questions(f"{name}.openai", trained=True)
    assert "openai was trained with QuickGELU" in question and "vit_base_patch32_clip_quickgelu_224" in question
    assert questions(f"{name}.laion2b", trained=True) == questions(f"{name}.openai", trained=False) == ()


def test_weights_without_a_classifier_say_which_have_one():
    name = "vit_base_patch16_224.dino"
    with torch.device("meta"):
        model = timm.create_model(name, depth=1)
    said = of_timms_weights(name, model, Choices(), trained=True)[1].sources["outputs"]
    assert said.startswith("the trained weights vit_base_patch16_224.dino have no classifier; with one: vit_base")
    drawn = of_timms_weights(name, model, Choices(), trained=False)[1]
    assert drawn.sources["outputs"] == f"{name} has no classifier"


# ---- pooling


def test_pooling_is_said_by_a_person_or_by_the_configuration_with_the_norm_where_the_file_has_it(tmp_path):
    before = trained(global_pool="avg", fc_norm=False)
    vit, known = opened(before, tmp_path, pool="avg")
    assert (vit.pool, known.sources["pool"]) == ("avg", "--pool")
    (tmp_path / "config.json").write_text(json.dumps({"global_pool": "avg"}))
    vit, known = opened(before, tmp_path)
    assert (vit.pool, known.sources["pool"]) == ("avg", "config.json beside the weights")


def test_a_norm_after_the_average_says_that_tokens_are_averaged(tmp_path):
    """As MAE's fine-tuned files have it: fc_norm, and no norm."""
    vit, known = opened(trained(global_pool="avg"), tmp_path)
    assert vit.pool == "avg" and "fc_norm" in known.sources["pool"]
    vit, known = opened(trained(global_pool="map"), tmp_path)
    assert vit.pool == "map" and "attn_pool" in known.sources["pool"]
    assert "assumed of this file" in opened(trained(), tmp_path)[1].sources["pool"]


@pytest.mark.parametrize(
    ("name", "pool", "said"),
    [
        (NAME, "map", "has no attn_pool, which map needs"),
        ("deit_tiny_distilled_patch16_224", "avg", "class and distillation tokens"),
        ("vit_base_patch16_siglip_gap_224", "token", "has no class token"),
        (NAME, "sum", "is none of token, avg"),
    ],
)
def test_a_pooling_that_the_weights_cannot_have_is_refused(tmp_path, name, pool, said):
    with torch.device("meta"):
        state = timm.create_model(name, depth=12).state_dict() if name != NAME else {}
    file = saved(trained(), tmp_path) if name == NAME else tmp_path / "w.safetensors"
    if state:
        save_file({key: torch.zeros(1) for key in ("head.bias",)}, file)
    with pytest.raises(ModelError, match=said):
        open_model(name, checkpoint=file, choices=Choices(pool=pool))
    with pytest.raises(ModelError, match="--pool"):
        open_model(name, random_seed=0, choices=Choices(pool=pool))


def test_random_weights_are_pooled_as_asked_and_keep_their_tensors():
    vit, weights = open_model(NAME, random_seed=0, choices=Choices(pool="avg"))
    assert vit.pool == "avg" and not vit.has_cls
    assert weights == open_model(NAME, random_seed=0)[1]


def test_two_classifiers_of_different_sizes_are_not_averaged(tmp_path):
    state = trained("deit_tiny_distilled_patch16_224", depth=1).state_dict()
    state |= {"head_dist.weight": torch.zeros(9, 192), "head_dist.bias": torch.zeros(9)}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="head has 5 outputs and head_dist 9"):
        open_model("deit_tiny_distilled_patch16_224", checkpoint=tmp_path / "w.safetensors")


# ---- image size


def test_weights_of_another_grid_with_as_many_patches_are_taken_as_they_are_and_asked_about(tmp_path):
    vit, known = opened(trained(img_size=(80, 320)), tmp_path, image_size=(80, 320))
    assert vit.grid == (5, 20)
    (question,) = known.questions
    assert "taken for 5×20 patches" in question and "10×10 are as many" in question


def test_a_grid_that_somebody_says_is_taken_without_a_question(tmp_path):
    wide = trained(img_size=(80, 320))
    (tmp_path / "config.json").write_text(json.dumps({"input_size": [3, 80, 320]}))
    for asked in (None, (80, 320)):
        vit, known = opened(wide, tmp_path, image_size=asked)
        assert (vit.grid, known.questions) == ((5, 20), ())
    for size in ([3, 192, 192], [3, 10**9, 10**9], [3, 165, 165]):  # of which the file is not
        (tmp_path / "config.json").write_text(json.dumps({"input_size": size}))
        vit, known = opened(trained(), tmp_path)
        assert vit.grid == (10, 10) and f"config.json says {size[1]}×{size[2]} pixels" in known.questions[0]


@pytest.mark.parametrize("who", ["tag", "configuration", "study"])
def test_weights_that_are_known_to_be_of_the_names_own_size_are_resampled_to_a_grid_of_as_many_patches(tmp_path, who):
    model, tag = trained(), next(iter(get_arch_pretrained_cfgs(NAME)))
    if who == "configuration":
        (tmp_path / "config.json").write_text(json.dumps({"input_size": [3, 160, 160]}))
    choices = Choices(positions="resampled" if who == "study" else None)
    vit, weights = open_model(
        tag if who == "tag" else NAME, checkpoint=saved(model, tmp_path), image_size=(80, 320), choices=choices
    )
    model.set_input_size(img_size=(80, 320))
    assert torch.equal(vit.model.pos_embed, model.pos_embed)
    assert weights.provenance.questions == ()


def test_a_study_is_opened_again_without_what_lies_beside_its_weights(tmp_path):
    file = saved(trained(), tmp_path)
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(ModelError, match="is not JSON"):
        open_model(NAME, checkpoint=file)
    assert open_model(NAME, checkpoint=file, choices=Choices(beside=False))[0].num_classes == 5


@pytest.mark.parametrize("size", [(224, 224), (256, 128)])
def test_weights_trained_at_another_size_load_at_it_and_say_which_if_it_is_not_given(tmp_path, size):
    model = trained(img_size=size)
    _, known = opened(model, tmp_path, image_size=size)
    assert known.sources["positions"] == f"as they are in the file, for {size[0]}×{size[1]} pixels"
    side = "give --image-size 224" if size == (224, 224) else "128 patches of 16×16 pixels: give it with --image-size"
    for asked in (None, (64, 64)):
        with pytest.raises(ModelError, match=side):
            open_model(NAME, checkpoint=saved(model, tmp_path), image_size=asked)
    (tmp_path / "config.json").write_text(json.dumps({"input_size": [3, *size]}))
    assert opened(model, tmp_path)[0].input_size == size


def test_square_weights_are_resampled_once_to_a_wide_size(tmp_path):
    model = trained()
    vit, weights = open_model(NAME, checkpoint=saved(model, tmp_path), image_size=(160, 224))
    model.set_input_size(img_size=(160, 224))
    assert torch.equal(vit.model.pos_embed, model.pos_embed)
    assert weights.provenance.sources["positions"] == "resampled from 10×10 patches to 10×14"


# ---- classes


def test_a_thousand_outputs_have_imagenets_names_only_if_somebody_says_that_they_are_imagenets(tmp_path):
    model = trained(num_classes=1000)
    _, known = opened(model, tmp_path)
    assert known.class_names == () and known.wnids is None
    assert known.sources["classes"] == "not known, so class 0 to class 999"
    assert "give imagenet-1k as class names" in known.questions[0]
    tag = next(iter(get_arch_pretrained_cfgs(NAME))).partition(".")[2]
    _, known = opened(model, tmp_path, f"{NAME}.{tag}")
    assert known.class_names[0].startswith("tench") and known.wnids[0] == "n01440764"
    (tmp_path / "config.json").write_text(json.dumps({"architecture": NAME, "pretrained_cfg": {"tag": tag}}))
    assert opened(model, tmp_path)[1].class_names[0].startswith("tench")
    assert opened(trained(), tmp_path, f"{NAME}.{tag}")[1].class_names == ()  # 5 outputs are not that tag's


def test_class_names_and_embeddings_decide_each_other(tmp_path):
    model = trained(num_classes=512)
    assert opened(model, tmp_path)[0].num_classes == 512
    assert opened(model, tmp_path, outputs="other")[0].num_classes == 0
    with pytest.raises(ModelError, match="--classes names 5 classes; test_vit here has 512"):
        open_model(NAME, checkpoint=saved(model, tmp_path), choices=Choices(names=5))


def test_names_over_a_configuration_that_says_otherwise_are_asked_about(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"problem_type": "multi_label_classification"}))
    assert opened(trained(), tmp_path)[0].num_classes == 0
    vit, known = opened(trained(), tmp_path, names=5)
    assert vit.num_classes == 5 and "yet config.json says problem_type multi_label" in known.questions[0]


def test_one_logit_of_two_names_is_the_sigmoid_of_the_second(tmp_path):
    model = trained(num_classes=1)
    file = saved(model, tmp_path)
    vit, _ = open_model(NAME, checkpoint=file, choices=Choices(names=2))
    pixels = torch.randint(0, 256, (3, 160, 160, 3), dtype=torch.uint8)
    with torch.inference_mode():
        right = model(vit.normalised(pixels)).sigmoid()[:, 0]
        assert np.allclose(vit.forward(pixels).softmax(1)[:, 1], right, atol=1e-6)
    assert open_model(NAME, checkpoint=file)[0].num_classes == 0
