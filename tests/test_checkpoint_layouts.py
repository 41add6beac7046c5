"""Checkpoints as training scripts leave them: the weights are found wherever they lie, whatever lies beside them.

The matrix is asked of the reader's functions in this process; the files of whole scripts go the whole way.
"""

import argparse
import collections
import datetime as dt
import enum
import functools
import io
import pathlib
import random
import sys
import types
from collections import OrderedDict
from itertools import product

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from precompute import checkpoint_child as child
from precompute.checkpoint import Checkpoint, kind_of_weights, read_checkpoint
from precompute.errors import ModelError
from precompute.provenance import Choices
from precompute.state_dict import load_state
from precompute.weights import open_model
from store.settings import Settings
from workers.study_model import open_model_of

NAME = "test_vit"  # timm's smallest: 160 pixels, 64 channels
VIT = {"cls_token": torch.zeros(1, 1, 2), "patch_embed.proj.weight": torch.ones(2, 3, 1, 1)} | {
    f"blocks.{at}.norm1.weight": torch.full((2,), float(at)) for at in range(2)
}
OTHER = {name: tensor + 5 for name, tensor in VIT.items()}


def contents(saved, weights="auto"):
    """What the reader finds in what torch.save writes of this."""
    file = io.BytesIO()
    torch.save(saved, file)
    size = file.tell()
    file.seek(0)
    return child.contents_of(file, size, ".pth", weights)


def assert_holds(found, wanted):
    assert list(found.tensors) == list(wanted)
    for name, tensor in wanted.items():
        assert np.array_equal(found.tensors[name].values(), tensor.numpy()), name


# ---- prefixes x containers x what lies beside

PREFIXES = (
    *("", "module.", "model.", "_orig_mod.", "backbone.", "timm_model.", "visual.trunk.", "encoder."),
    *("module.backbone.", "_orig_mod.module.", "model.net._orig_mod.", "module.model.visual.trunk."),
)
CONTAINERS = {
    None: lambda state, beside: state,
    **{
        key: (lambda state, beside, key=key: beside | {key: state})
        for key in ("state_dict", "model", "model_state_dict", "net", "weights", "state_dict_ema", "teacher", "my_vit")
    },
    "model.state_dict": lambda state, beside: beside | {"model": {"state_dict": state, "name": "test_vit"}},
    "ema.shadow": lambda state, beside: beside | {"ema": {"decay": 0.99, "shadow": state}},
}


class Config(dict):
    """A dict of its own class, with attributes, as EasyDict, yacs and Lightning's AttributeDict are."""

    def __init__(self, **settings):
        super().__init__(settings)
        self.frozen = True


class Layout(enum.Enum):
    ROWS = "rows"


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)
        self.layout = Layout.ROWS


def extras():
    linear = torch.nn.Linear(2, 2)
    adam = torch.optim.AdamW(linear.parameters())
    linear(torch.ones(2)).sum().backward()
    adam.step()
    deep = types.SimpleNamespace(path=pathlib.Path("/data"), nested=argparse.Namespace(lr=0.1))
    return {
        "nothing": {},
        "argparse": {"args": argparse.Namespace(lr=0.001, data=pathlib.Path("/data"), model_ema=False, deep=deep)},
        "numpy": {"best": np.float64(0.8), "n": np.int64(3), "curve": np.arange(6.0).reshape(2, 3), "s": np.array("a")},
        "optimizer": {
            "optimizer": adam.state_dict(),
            "lr_scheduler": vars(torch.optim.lr_scheduler.StepLR(adam, 3)),
            "scaler": {},
        },
        "an optimizer by names": {"optimizer_state": {"exp_avg": dict(OTHER)}},
        "settings": {"config": Config(lr=0.1, sub=Config(x=1)), "model": {"name": NAME, "drop": 0.1}},
        "data": {
            "when": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
            "took": dt.timedelta(3),
            "some": {1, 2},
            "fixed": frozenset({3}),
            "last": collections.deque([1.0], maxlen=5),
            "by": collections.defaultdict(list, a=[1]),
            "part": functools.partial(torch.optim.SGD, lr=1),
            "cut": slice(1, 2),
            "raw": b"\xff\x00",
            "type": torch.float16,
            "device": torch.device("cpu"),
            "size": torch.Size([1, 2]),
            "function": torch.nn.functional.relu,
        },
        "random": {
            "rng": [torch.get_rng_state(), random.getstate(), np.random.get_state()],
            "generator": np.random.default_rng(0),
        },
        "a whole model": {"hyper_parameters": {"loss": torch.nn.CrossEntropyLoss(), "net": Module()}},
        "classes as keys": {"callbacks": {argparse.ArgumentParser: {"best": torch.tensor(0.5)}, Module: {}}},
        "other tensors": {"dino_loss": {"center": torch.zeros(1, 4)}, "epoch": 3, "metric": torch.tensor(0.9)},
    }


EXTRAS = extras()


@pytest.mark.parametrize("beside", EXTRAS)
def test_weights_are_found_by_every_prefix_in_every_container(beside):
    for prefix, (part, put) in product(PREFIXES, CONTAINERS.items()):
        if part and part.split(".")[0] in EXTRAS[beside]:
            continue
        state = OrderedDict((prefix + name, tensor) for name, tensor in VIT.items())
        found = contents(put(state, EXTRAS[beside] | {"epoch": 3, "version": 2, "arch": NAME, "metric": 81.2}))
        assert_holds(found, VIT)
        assert (found.part, found.parts, found.prefix) == (part, (part,) if part else (), prefix)
        assert found.beside == ()


def test_configuration_under_model_leaves_the_weights_under_state_dict():
    found = contents({"model": {"name": NAME, "drop": 0.1}, "state_dict": VIT})
    assert_holds(found, VIT)
    assert found.parts == ("state_dict",)


@pytest.mark.parametrize(
    "container", [dict, OrderedDict, collections.Counter, lambda s: collections.defaultdict(list, s)]
)
def test_tensors_in_any_table_in_half_precision_and_as_parameters_are_read(container):
    state = {
        "patch_embed.proj.weight": torch.nn.Parameter(torch.ones(2, 3, 1, 1)),
        "blocks.0.norm1.weight": torch.ones(2).half(),
        "blocks.0.norm1.bias": torch.ones(2, dtype=torch.bfloat16),
    }
    found = contents({"model": container(state)})
    assert {name: each.dtype for name, each in found.tensors.items()} == dict(
        zip(state, ("F32", "F16", "BF16"), strict=True)
    )


def test_attributes_of_a_state_dict_and_what_is_no_tensor_in_it_are_passed_over():
    model = timm.create_model(NAME)
    state = model.state_dict()
    assert state._metadata  # an attribute of the OrderedDict, which torch saves
    state["_extra_state"] = None
    assert list(contents(state).tensors) == list(model.state_dict())


def test_a_pickle_cannot_change_how_its_tables_are_read():
    class Sly:
        def __reduce__(self):
            attributes = dict.fromkeys(("items", "keys", "values", "get"), torch.Size)
            return OrderedDict, (), attributes, None, iter(VIT.items())

    assert_holds(contents({"state_dict": Sly()}), VIT)


def test_names_beside_the_prefix_are_left_out_and_named():
    state = {f"module.backbone.{name}": tensor for name, tensor in VIT.items()}
    heads = {"module.head.mlp.0.weight": torch.zeros(1), "module.head.last_layer.weight_v": torch.full((1,), torch.nan)}
    found = contents({"student": heads | state})
    assert_holds(found, VIT)
    assert (found.prefix, found.beside) == ("module.backbone.", tuple(heads))


# ---- which of several

BOTH = (
    ({"state_dict": VIT, "state_dict_ema": OTHER}, "state_dict", "state_dict_ema"),
    ({"model_ema": OTHER, "model": VIT}, "model", "model_ema"),
    ({"student": VIT, "teacher": OTHER}, "student", "teacher"),
    ({"state_dict": VIT, "ema": {"module": OTHER}}, "state_dict", "ema.module"),
)


@pytest.mark.parametrize(("saved", "plain", "ema"), BOTH)
def test_averaged_weights_are_taken_unless_the_plain_ones_are_asked_for(saved, plain, ema):
    """As timm's load_checkpoint with use_ema."""
    for weights, part, wanted in (("auto", ema, OTHER), ("ema", ema, OTHER), ("plain", plain, VIT)):
        found = contents(saved, weights)
        assert_holds(found, wanted)
        assert found.part == part and set(found.parts) == {plain, ema}
        assert_holds(contents(saved, kind_of_weights(found.part, found.prefix)), wanted)


def test_a_target_of_training_is_taken_only_when_asked_for():
    saved = {"encoder": VIT, "predictor": {"w": torch.zeros(1)}, "target_encoder": OTHER}  # I-JEPA
    assert (contents(saved).part, contents(saved, "ema").part) == ("encoder", "target_encoder")
    moco = {f"module.base_encoder.{k}": v for k, v in VIT.items()} | {
        f"module.momentum_encoder.{k}": v for k, v in OTHER.items()
    }
    assert_holds(contents({"state_dict": moco}), VIT)
    assert_holds(contents({"state_dict": moco}, "ema"), OTHER)


def test_the_order_of_several_is_that_of_timm_and_not_of_the_file():
    saved = {"my_vit": VIT, "model": VIT, "state_dict": VIT, "model_ema": VIT, "state_dict_ema": VIT}
    taken = []
    while saved:
        taken.append(contents(saved).part)
        del saved[taken[-1]]
    assert taken == ["state_dict_ema", "model_ema", "state_dict", "model", "my_vit"]


def test_weights_that_are_not_there_are_refused_naming_those_that_are():
    there = (
        r"its weights lie under 'state_dict', with 'module\.' before each name; give --weights plain, or leave it out"
    )
    with pytest.raises(child.RefusedError, match=f"has no EMA weights; {there}"):
        contents({"state_dict": {f"module.{name}": tensor for name, tensor in VIT.items()}}, "ema")
    with pytest.raises(child.RefusedError, match="has no EMA weights; its weights lie as the file itself"):
        contents(VIT, "ema")
    with pytest.raises(
        child.RefusedError, match="has no plain weights; its weights lie under 'teacher'; give --weights e"
    ):
        contents({"teacher": VIT}, "plain")
    with pytest.raises(ModelError, match="weights is 'best'; give auto, ema, plain"):
        read_checkpoint(pathlib.Path("w.pth"), "best")


def test_two_towers_that_nothing_tells_apart_are_refused_by_their_prefixes():
    towers = {f"{tower}.{name}": tensor for tower in ("rgb", "depth") for name, tensor in VIT.items()}
    with pytest.raises(
        child.RefusedError, match=r"2 sets of weights side by side, whose names begin with 'rgb\.', 'depth\.'"
    ):
        contents({"state_dict": towers})


def test_of_two_towers_the_one_that_is_a_vit_of_timms_is_taken():
    other = {"swin.patch_embed.proj.weight": torch.zeros(2, 3, 1, 1), "swin.layers.0.w": torch.zeros(1)}
    found = contents(other | {f"vit.{name}": tensor for name, tensor in VIT.items()})
    assert_holds(found, VIT)
    assert found.beside == tuple(other)


def test_a_tower_inside_another_is_left_out():
    inner = {f"momentum.{name}": tensor for name, tensor in OTHER.items()}
    found = contents(VIT | inner)
    assert_holds(found, VIT)
    assert found.beside == tuple(inner)


# ---- no weights


def test_a_file_without_weights_is_refused_by_the_keys_that_it_has():
    with pytest.raises(
        child.RefusedError,
        match=r"holds no state dict \(tensors by name\); its keys are 'epoch' \(a number\), 'net' \(an object of class "
        r"'tests.test_checkpoint_layouts.Module'\), 'log' \(a list\), "
        r"'kind' \(the class 'argparse.Namespace'\); save model",
    ):
        contents({"epoch": 3, "net": Module(), "log": [], "kind": argparse.Namespace})


# ---- the whole way


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model(NAME, num_classes=5)


@pytest.fixture
def known(monkeypatch):
    """Makes a class that can be pickled by this name."""

    def make(full: str, base: type = object) -> type:
        module, _, name = full.rpartition(".")
        parts = module.split(".")
        for at in range(len(parts)):
            path = ".".join(parts[: at + 1])
            if path not in sys.modules:
                monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
        made = type(name, (base,), {"__module__": module})
        setattr(sys.modules[module], name, made)
        return made

    return make


def lightning(model, known):
    attributes = known("lightning.fabric.utilities.data.AttributeDict", dict)
    early = known("pytorch_lightning.callbacks.early_stopping.EarlyStopping")
    config = known("omegaconf.dictconfig.DictConfig")()
    vars(config).update(_content={"lr": 0.1}, _metadata=known("omegaconf.base.ContainerMetadata")())
    return {
        "epoch": 9,
        "global_step": 1000,
        "pytorch-lightning_version": "2.5.1",
        "state_dict": OrderedDict((f"net.{name}", tensor) for name, tensor in model.state_dict().items())
        | {"criterion.weight": torch.ones(5), "train_acc.tp": torch.zeros(5, dtype=torch.int64)},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 9}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val/acc', 'mode': 'max'}": {
                "best_model_score": torch.tensor(0.9),
                "best_k_models": {"/runs/epoch=9.ckpt": torch.tensor(0.9)},
                "dirpath": "/runs",
            },
            early: {"wait_count": 0, "best_score": torch.tensor(0.9)},
        },
        "optimizer_states": [torch.optim.SGD(model.parameters(), 0.1).state_dict()],
        "lr_schedulers": [{"last_epoch": 9, "_last_lr": [np.float64(0.1)]}],
        "hparams_name": "kwargs",
        "hyper_parameters": attributes(lr=0.1, net=Module(), optimizer=functools.partial(torch.optim.SGD), cfg=config),
    }, "state_dict", "net."  # fmt: skip


def timm_with_ema(model, known):
    return {
        "epoch": 299,
        "arch": NAME,
        "state_dict": OrderedDict((name, tensor + 1) for name, tensor in model.state_dict().items()),
        "optimizer": {"state": {}, "param_groups": []},
        "version": 2,
        "args": argparse.Namespace(model=NAME, opt="adamw", model_ema=True, mean=None, workers=8),
        "amp_scaler": {"scale": 65536.0},
        "state_dict_ema": model.state_dict(),
        "metric": np.float64(81.2),
    }, "state_dict_ema", ""  # fmt: skip


def deit(model, known):
    return {
        "model": {name: tensor + 1 for name, tensor in model.state_dict().items()},
        "optimizer": {"state": {}, "param_groups": []},
        "lr_scheduler": {"t_in_epochs": True},
        "epoch": 299,
        "model_ema": model.state_dict(),
        "scaler": {},
        "args": argparse.Namespace(batch_size=64, output_dir=pathlib.Path("out"), device="cuda"),
    }, "model_ema", ""  # fmt: skip


def mae_fine_tuned(model, known):
    return {
        "model": model.state_dict(),
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 50,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "args": argparse.Namespace(nb_classes=5, global_pool=True, resume=""),
    }, "model", ""  # fmt: skip


def dino(model, known):
    head = {"head.mlp.0.weight": torch.zeros(4, 4), "head.last_layer.weight_g": torch.ones(4, 1)}
    state = model.state_dict()
    student = {f"module.backbone.{name}": tensor + 1 for name, tensor in state.items()}
    return {
        "student": student | {f"module.{name}": tensor for name, tensor in head.items()},
        "teacher": {f"backbone.{name}": tensor for name, tensor in state.items()} | head,
        "optimizer": {},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
        "dino_loss": OrderedDict(center=torch.zeros(1, 4)),
    }, "teacher", "backbone."  # fmt: skip


@pytest.mark.parametrize("made_by", [lightning, timm_with_ema, deit, mae_fine_tuned, dino])
def test_a_checkpoint_of_a_known_training_script_opens_with_its_weights(made_by, model, known, tmp_path):
    saved, part, prefix = made_by(model, known)
    torch.save(saved, tmp_path / "checkpoint.pth.tar")
    vit, found = open_model(NAME, checkpoint=tmp_path / "checkpoint.pth.tar")
    for name, tensor in model.state_dict().items():
        assert torch.equal(vit.model.state_dict()[name], tensor), name
    assert (found.part, found.prefix) == (part, prefix)


def test_a_saved_model_says_what_was_dropped_and_passed_over_and_is_the_same_model(model, tmp_path):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "plain.safetensors")
    wrapped = {f"visual.trunk.{name}": tensor for name, tensor in state.items()}
    beside = {"text.weight": torch.zeros(1), "visual.trunk.mask_token": torch.zeros(1, 64)}
    save_file(wrapped | beside, tmp_path / "wrapped.safetensors")
    _, plain = open_model(NAME, checkpoint=tmp_path / "plain.safetensors")
    _, found = open_model(NAME, checkpoint=tmp_path / "wrapped.safetensors")
    assert found.sha256 == plain.sha256
    assert (plain.prefix, plain.passed_over) == ("", ())
    assert (found.prefix, found.passed_over) == ("visual.trunk.", ("text.weight", "mask_token"))


@pytest.mark.parametrize("weights", ["ema", "plain"])
def test_a_study_finds_those_weights_again_that_it_was_made_with(weights, model, tmp_path):
    settings = Settings(data=tmp_path)
    settings.models.mkdir(parents=True)
    saved, _, _ = timm_with_ema(model, None)
    torch.save(saved, settings.models / "w.pth")
    vit, found = open_model(NAME, checkpoint=settings.models / "w.pth", choices=Choices(weights=weights))
    again = {"choices": {"weights": kind_of_weights(found.part, found.prefix)}}
    attrs = {"model": {"name": NAME, "input_size": vit.input_size}, "weights": found.identity(), "made": again}
    study = types.SimpleNamespace(name="s", attrs=attrs, manifest=types.SimpleNamespace(run={}))
    wanted = saved["state_dict_ema" if weights == "ema" else "state_dict"]
    assert torch.equal(open_model_of(study, settings, "cpu").model.state_dict()["pos_embed"], wanted["pos_embed"])


# ---- tensors that are not the model's


def refusal(model, state, name=NAME, part=None, prefix=""):
    with pytest.raises(ModelError) as refused:
        load_state(model, Checkpoint(state, part, (part,) if part else (), prefix, ()), name, pathlib.Path("w.pth"))
    return str(refused.value)


@pytest.mark.parametrize(
    "unused", ["mask_token", "decoder_blocks.0.attn.qkv.weight", "decoder_pos_embed", "head_dist.bias"]
)
def test_what_only_training_reads_is_passed_over_and_named(model, unused):
    state = dict(model.state_dict()) | {unused: torch.zeros(1)}
    assert load_state(model, Checkpoint(state, None, (), "", ()), NAME, pathlib.Path("w.pth")) == (unused,)


def test_a_classifier_that_the_model_would_have_read_is_not_passed_over(model):
    state = dict(model.state_dict()) | {"head_dist.bias": torch.zeros(1), "dist_token": torch.zeros(1, 1, 64)}
    assert "2 extra: head_dist.bias, dist_token" in refusal(model, state)


def test_another_architecture_is_named_with_the_sizes_that_tell_it(model):
    with torch.device("meta"):
        state = timm.create_model("vit_tiny_patch16_384", num_classes=3).state_dict()
    said = refusal(model, state, part="model", prefix="net.")
    assert "its weights lie under 'model'; their names begin with 'net.'; blocks 12, not 6; width 192, not 64" in said
    assert "positions 577, not 101; classes 3, not 5" in said
    assert said.endswith("name the architecture it was made for: by its shapes vit_tiny_patch16_384 fits")


def test_advice_leads_nowhere_else_if_no_architecture_fits(model):
    state = dict(model.state_dict())
    del state["blocks.0.norm1.weight"]
    said = refusal(model, state)
    assert "1 missing: blocks.0.norm1.weight" in said and "name the architecture" not in said
    assert said.endswith("save the whole state dict of timm's model, model.state_dict()")


def test_whole_numbers_are_no_weights(model):
    state = dict(model.state_dict())
    state["head.bias"] = state["head.bias"].to(torch.int8)
    assert "1 of whole numbers: head.bias (torch.int8)" in refusal(model, state)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("the transformers library", "vit.encoder.layer.0.attention.attention.query.weight"),
        ("the transformers library", "vision_model.encoder.layers.0.self_attn.q_proj.weight"),
        ("the transformers library", "layers.0.attention.q_proj.weight"),
        ("torchvision", "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"),
        ("OpenAI's CLIP and open_clip", "visual.transformer.resblocks.0.attn.in_proj_weight"),
        ("OpenMMLab", "backbone.patch_embed.projection.weight"),
        ("DINOv3's authors", "storage_tokens"),
        ("DINOv2's authors", "register_tokens"),
        ("DINOv2's authors", "blocks.0.3.attn.qkv.weight"),
        ("BEiT and EVA", "blocks.0.attn.relative_position_bias_table"),
        ("DeiT III's authors", "blocks.0.gamma_1"),
    ],
)
def test_the_layout_of_another_library_is_named_and_nothing_else_advised(model, layout, name):
    said = refusal(model, {name: torch.zeros(1)})
    assert said.endswith(
        f"its names are those of {layout} ({name}), which are not read yet: give a file with timm's names"
    )
