"""Only the right weights are loaded, and what is wrong with the others is said."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from precompute import weights
from precompute.checkpoint import read_checkpoint
from precompute.errors import ModelError, UnsupportedModelError
from precompute.model import ViT
from precompute.names import check_name, missing_classifier, supported_names
from precompute.weights import open_model

NAME = "test_vit"  # timm's smallest: 160 pixels, 64 channels


@pytest.fixture
def state():
    torch.manual_seed(0)
    return timm.create_model(NAME).state_dict()


def saved(state, tmp_path, name="weights.safetensors"):
    save_file(state, tmp_path / name)
    return tmp_path / name


def test_a_checkpoint_is_loaded_whole_and_known_by_its_tensors(state, tmp_path):
    vit, found = open_model(NAME, checkpoint=saved(state, tmp_path))
    assert all(torch.equal(state[name], tensor) for name, tensor in vit.model.state_dict().items())
    assert (found.kind, found.file) == ("checkpoint", "weights.safetensors")
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "same.pth")
    assert open_model(NAME, checkpoint=tmp_path / "same.pth")[1].sha256 == found.sha256
    state["head.bias"][0] += 1
    assert open_model(NAME, checkpoint=saved(state, tmp_path))[1].sha256 != found.sha256


def test_the_checkpoints_classifier_decides_the_number_of_classes(state, tmp_path):
    state |= {"head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)}
    assert open_model(NAME, checkpoint=saved(state, tmp_path))[0].num_classes == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("blocks.0.norm1.weight"), "1 missing: blocks.0.norm1.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 extra: extra"),
        (lambda s: s.update({"pos_embed": torch.zeros(1, 3, 64)}), "3 position embeddings; of test_vit, at its own"),
        (lambda s: s["head.bias"].fill_(torch.nan), "'head.bias' has NaN or Inf"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_naming_the_tensors(state, tmp_path, change, said):
    change(state)
    with pytest.raises(ModelError, match=said):
        open_model(NAME, checkpoint=saved(state, tmp_path))


def test_missing_and_unknown_files_say_what_to_give(tmp_path):
    with pytest.raises(ModelError, match=r"give a \.safetensors or \.pth file"):
        read_checkpoint(tmp_path / "nowhere.safetensors")
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(ModelError, match="convert it to safetensors"):
        read_checkpoint(tmp_path / "w.h5")


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(ModelError, match="did you mean vit_base_patch16_224"):
        open_model("vit_bse_patch16_224")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "test_vit.my_finetune",
            "test_vit has no weights tagged 'my_finetune'; its tags: r160_in1k. "
            "For weights of your own, give the name without a tag, test_vit, and --checkpoint FILE",
        ),
        ("test_vit4.mine", "timm has no trained weights of it"),
        ("vit_base_patch16_clip_224.mine", "its tags: laion2b_ft_in12k_in1k, .* and 8 more"),  # timm's default first
        ("headscope_demo.mine", "has no weights tagged 'mine'"),
    ],
)
def test_a_tag_that_a_model_has_not_is_answered_with_those_it_has(state, tmp_path, name, said):
    file = saved(state, tmp_path)
    for given in ({}, {"checkpoint": file}, {"random_seed": 0}):
        with pytest.raises(ModelError, match=said):
            open_model(name, **given)


@pytest.mark.parametrize(
    ("former", "said"),
    [
        ("vit_base_patch16_224_dino", "is a former timm name of vit_base_patch16_224.dino; give that"),
        ("deit3_small_patch16_224_in21ft1k", "of deit3_small_patch16_224.fb_in22k_ft_in1k; give that"),
        # timm itself maps this one to a tag that is gone
        ("vit_base_patch32_224_sam", "former timm name; vit_base_patch32_224 has no weights tagged 'sam'; its tags: "),
    ],
)
def test_a_former_name_is_answered_with_the_present_one(former, said):
    with pytest.raises(ModelError, match=said):
        check_name(former)


def test_every_tag_and_every_plain_name_is_taken():
    for name in (*supported_names(), *(each for each in timm.list_pretrained("deit*") if "18x2" not in each)):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_base_patch16_224", None),
        ("vit_base_patch16_224.augreg_in1k", None),
        ("test_vit4", None),  # has no trained weights at all
        (
            "vit_base_patch16_224.dino",
            "the trained weights vit_base_patch16_224.dino have no classifier; with one: "
            "vit_base_patch16_224.augreg2_in21k_ft_in1k, ",
        ),
        (
            "vit_small_patch8_224",
            "the trained weights vit_small_patch8_224.dino, which timm takes for vit_small_patch8_224, have no "
            "classifier; timm has no weights of vit_small_patch8_224 with one",
        ),
    ],
)
def test_weights_without_a_classifier_are_known_by_their_name(name, said):
    found = missing_classifier(name)
    assert found is said is None or found.startswith(said)


NO_NAMES = (
    "hf-hub:evil/model",
    "hf_hub:evil/model",
    "hf-hub:timm/vit_tiny_patch16_224",
    "local-dir:/etc",
    "timm/vit_tiny_patch16_224",
    "http://169.254.169.254/latest/meta-data",
    "https://127.0.0.1/vit_tiny_patch16_224",
    "file:///etc/passwd",
    "../model",
    "/etc/passwd",
    "vit_tiny_patch16_224/../../model",
    "vit_tiny_patch16_224.hf-hub:evil/model",
    "vit_tiny_patch16_224.augreg_in21k.augreg_in21k",
    "vit_tiny_patch16_224@main",
    "VIT_TINY_PATCH16_224",
    "vit_tiny_patch16_224\n",
    "vit_tiny_patch16_224\0",
    "vit_tiny_pàtch16_224",
    "no_such_model",
    "resnet18",
    "",
    "v" * 100_000,
)

WATCHED = """
    import json, os, sys
    from precompute import weights
    from precompute.errors import ModelError

    def asked(name):
        try:
            weights.open_model(name)
        except ModelError as error:
            return str(error)

    asked("no_such_model")  # what is imported once
    asked("resnet18")
    seen = []
    own = tuple(map(os.path.realpath, (sys.prefix, sys.base_prefix, os.getcwd())))

    def hook(event, args):
        if event == "open" and not str(os.path.realpath(str(args[0]))).startswith(own):
            seen.append([event, str(args[0])])
        elif event.split(".")[0] in ("socket", "urllib", "http", "subprocess") or event in ("os.system", "os.exec"):
            seen.append([event])

    sys.addaudithook(hook)
    said = [asked(name) for name in json.loads(sys.stdin.read())]
    refused = list(seen)
    import socket
    socket.socket().connect_ex(("127.0.0.1", 9))
    open("/dev/null").close()
    print(json.dumps([said, refused, seen]))
"""


def test_what_is_no_name_of_the_list_is_refused_and_neither_the_network_nor_a_file_is_asked():
    """Watched from inside: timm itself would follow `hf-hub:` and `local-dir:`."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WATCHED)],
        input=json.dumps(NO_NAMES),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    said, refused, seen = json.loads(done.stdout or done.stderr)
    for name, each in zip(NO_NAMES, said, strict=True):
        assert each and len(each) < 1000, name
        assert "not a timm model name" in each or name == "resnet18"
    assert refused == []
    assert [event for event, *_ in seen] == ["socket.__new__", "socket.connect", "open"]  # the watch would have seen it


def test_another_architecture_is_refused_before_any_weights_are_made():
    with pytest.raises(UnsupportedModelError, match="SwinTransformer"):
        open_model("swin_tiny_patch4_window7_224")
    with pytest.raises(UnsupportedModelError, match="before W_O"):
        open_model("beit3_base_patch16_224")


def test_without_the_hub_the_way_out_is_said(monkeypatch):
    monkeypatch.setattr(weights.hub, "ENDPOINT", "http://localhost:9")
    monkeypatch.setattr(weights.hub, "HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(ModelError, match=r"could not be fetched from the hub .* give --checkpoint FILE"):
        open_model("vit_tiny_patch16_224")
    assert not weights.hub.HF_HUB_OFFLINE
    with pytest.raises(ModelError, match="timm has no trained weights for test_vit4"):
        open_model("test_vit4")


def test_random_weights_are_those_of_their_seed_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = open_model(NAME, random_seed=1)[1]
    assert torch.equal(torch.rand(3), expected)
    assert first.kind == "random"
    assert open_model(NAME, random_seed=1)[1] == first
    assert open_model(NAME, random_seed=2)[1] != first


def test_another_image_size_moves_the_grid_and_must_fit_the_patches():
    vit, _ = open_model(NAME, random_seed=0, image_size=(64, 96))
    assert (vit.input_size, vit.grid, vit.num_tokens) == ((64, 96), (4, 6), 25)
    assert vit.preprocessing["input_size"] == (3, 64, 96)
    with pytest.raises(ModelError, match="not a multiple"):
        open_model(NAME, random_seed=0, image_size=(60, 96))


def test_every_name_that_is_listed_is_a_model_that_opens_and_no_other_plain_vit_is_left_out():
    names = set(supported_names())
    for module in ("vision_transformer", "deit"):
        for name in timm.list_models(module=module):
            with torch.device("meta"):
                model = timm.create_model(name, depth=1).eval()  # all blocks of a model are alike
            if name in names:
                assert ViT(model, name).num_layers
                assert ViT(model, name).qk_norm is None, "docs/methods.md says that no name has it"
            else:
                with pytest.raises(UnsupportedModelError):
                    ViT(model, name)


def test_names_are_found_by_part_and_by_pattern():
    assert "deit_tiny_patch16_224" in supported_names("tiny")
    assert supported_names("deit_*_distilled_*384") == ["deit_base_distilled_patch16_384"]
    assert supported_names("resnet") == []
