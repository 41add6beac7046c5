"""Only the right weights are loaded, and what is wrong with the others is said."""

import json
import struct

import pytest
import timm
import torch
from safetensors.torch import save_file

from precompute import weights
from precompute.errors import ModelError, UnsupportedModelError
from precompute.model import ViT
from precompute.weights import open_model, read_checkpoint, supported_names

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
        (lambda s: s.update({"pos_embed": torch.zeros(1, 3, 64)}), r"1 misshapen: pos_embed is \(1, 3, 64\), not"),
        (lambda s: s["head.bias"].fill_(torch.nan), "'head.bias' has NaN or Inf"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_naming_the_tensors(state, tmp_path, change, said):
    change(state)
    with pytest.raises(ModelError, match=said):
        open_model(NAME, checkpoint=saved(state, tmp_path))


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="cannot be opened safely"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "canary").exists()


def test_tensors_that_are_not_plain_numbers_are_refused(tmp_path):
    torch.save({"w": torch.eye(3).to_sparse_csr()}, tmp_path / "sparse.pth")
    with pytest.raises(ModelError, match="'w' is not dense"):
        read_checkpoint(tmp_path / "sparse.pth")
    torch.save({"w": torch.zeros(1).expand(10**10)}, tmp_path / "claims_40_gb.pth")
    with pytest.raises(ModelError, match="'w' is not dense"):
        read_checkpoint(tmp_path / "claims_40_gb.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="no state dict"):
        read_checkpoint(tmp_path / "list.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "header says 0 bytes"),
        (struct.pack("<Q", 1 << 40), "header says 1099511627776 bytes"),
        (struct.pack("<Q", 5) + b"{oops", "no JSON"),
        (struct.pack("<Q", 2) + b"{}" + b"rest", "not a sound safetensors file"),
    ],
)
def test_a_false_safetensors_file_is_refused_with_the_reason(tmp_path, content, said):
    (tmp_path / "false.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=said):
        read_checkpoint(tmp_path / "false.safetensors")


def test_a_header_of_too_many_tensors_is_refused_before_they_are_made(tmp_path):
    empty = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10_001)}
    header = json.dumps(empty).encode()
    (tmp_path / "many.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelError, match="10001 tensors"):
        read_checkpoint(tmp_path / "many.safetensors")


def test_missing_and_unknown_files_say_what_to_give(tmp_path):
    with pytest.raises(ModelError, match=r"give a \.safetensors or \.pth file"):
        read_checkpoint(tmp_path / "nowhere.safetensors")
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(ModelError, match="convert it to safetensors"):
        read_checkpoint(tmp_path / "w.h5")


def test_an_unknown_name_is_answered_with_near_ones_and_paths_and_urls_are_no_names():
    with pytest.raises(ModelError, match="did you mean vit_base_patch16_224"):
        open_model("vit_bse_patch16_224")
    for name in ("hf-hub:someone/model", "local-dir:/etc", "http://169.254.169.254", "../model", "vit\nbase"):
        with pytest.raises(ModelError, match="not a timm model name"):
            open_model(name)


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
    with pytest.raises(ModelError, match="has no trained weights"):
        open_model("vit_small_patch16_18x2_224".replace("_18x2", "").replace("16_224", "8_224") + ".nosuchtag")


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
                model = timm.create_model(name).eval()
            if name in names:
                assert ViT(model, name).num_layers
            else:
                with pytest.raises(UnsupportedModelError):
                    ViT(model, name)


def test_names_are_found_by_part_and_by_pattern():
    assert "deit_tiny_patch16_224" in supported_names("tiny")
    assert supported_names("deit_*_distilled_*384") == ["deit_base_distilled_patch16_384"]
    assert supported_names("resnet") == []
