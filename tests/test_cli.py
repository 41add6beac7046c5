"""The command line: what it prints, and one line for every mistake."""

import json

import pytest
from typer.testing import CliRunner

import headscope
from store.errors import StudyNotFoundError
from tests.pictures import picture_folder
from tests.studies import write_tiny_study

runner = CliRunner()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSCOPE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def tiny(data):
    return write_tiny_study(data / "studies" / "tiny")


def run(*arguments, code=0):
    result = runner.invoke(headscope.app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return result


def test_studies_are_listed_told_verified_and_removed(data, tiny):
    assert "tiny" in run("ls").stdout
    assert json.loads(run("ls", "--json").stdout)[0]["published"]
    told = run("info", "tiny").stdout
    assert "certificate" in told
    assert json.loads(run("info", "tiny", "--json").stdout)["name"] == "tiny"
    assert "all as published" in run("verify", "tiny").stdout
    assert run("rm", "tiny", code=1).stderr.count("--yes") == 1
    run("rm", "tiny", "--yes")
    assert "no studies" in run("ls").stdout


def test_verify_names_the_damaged_object_and_exits_3(data, tiny):
    study = headscope.open_study("tiny")
    victim = study.path / "importance" / "c.0.0.0.0"
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    said = run("verify", "tiny", code=3)
    assert "importance/c.0.0.0.0" in said.stdout
    assert json.loads(run("verify", "tiny", "--json", code=3).stdout)[0]["object"] == "importance/c.0.0.0.0"


def test_a_study_opens_by_name_and_by_path(data, tiny):
    assert headscope.open_study("tiny").path == headscope.open_study(tiny).path
    with pytest.raises(StudyNotFoundError):
        headscope.open_study("other")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info", "nowhere"], "no study at"),
        (["verify", "nowhere"], "no published study"),
        (["rm", "nowhere", "--yes"], "no study at"),
        (["info", "../etc"], "is not a study name"),
        (["precompute", "vit_bse_patch16_224", "."], "did you mean vit_base_patch16_224"),
        (["precompute", "swin_tiny_patch4_window7_224", "."], "SwinTransformer"),
        (["precompute", "test_vit", "/nowhere", "--random-weights"], "there is no folder"),
        (["precompute", "test_vit", "/nowhere", "--precision", "bf16"], "use float32"),
        (["precompute", "test_vit", "/nowhere", "--precision", "float8"], "not one of float32"),
        (["precompute", "test_vit", "/nowhere", "--attention", "all"], "auto, stored, rebuilt"),
        (["precompute", "test_vit", "/nowhere", "--image-size", "12by12"], "224x336"),
        (["precompute", "test_vit", ".", "--random-weights", "--checkpoint", "w.safetensors"], "exclude each other"),
        (["models", "resnet50"], "no supported model"),
    ],
)
def test_a_mistake_gets_one_line_that_says_what_to_do(data, arguments, said):
    result = run(*arguments, code=1)
    assert said in result.stderr
    assert result.stderr.startswith("error: ")


def test_empty_folders_and_folders_that_are_no_classes_say_what_would_be_right(data, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no pictures" in run("precompute", "test_vit", tmp_path / "empty", "--random-weights", code=1).stderr
    named = picture_folder(tmp_path / "named", classes=("cat", "dog"))
    said = run("precompute", "test_vit", named, "--random-weights", code=1).stderr
    assert "cat" in said
    assert "--no-labels" in said


def test_models_are_listed_for_people_and_scripts(data):
    assert "vit_base_patch16_224" in run("models").stdout.splitlines()
    assert json.loads(run("models", "deit_tiny", "--json").stdout)[:1] == ["deit_tiny_distilled_patch16_224"]


def test_without_torch_the_web_half_works_and_computing_says_what_to_install(data, tiny, monkeypatch):
    monkeypatch.setattr(headscope, "find_spec", lambda name: None)
    run("info", "tiny")
    assert "headscope[worker]" in run("models", code=1).stderr
