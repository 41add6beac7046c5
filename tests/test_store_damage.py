"""Every fault on every array is found by name, and no read ever gives a wrong number."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from store.errors import DamagedError, NewerSchemaError, StudyNotFoundError
from store.manifest import Damage, Manifest, content_hash, verify
from store.paths import manifest_path
from store.schema import SCHEMA
from store.study import list_studies, open_published
from tests.studies import RUN, tiny_study, write_tiny_study

FAULTS = {
    "truncated": lambda data: data[: len(data) // 2],
    "flipped": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    "emptied": lambda data: b"",
    "zeroed tail": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "missing": lambda data: None,
}


@pytest.fixture(scope="module")
def tiny():
    return tiny_study(qk_norm="layernorm")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A published study with every array of the table."""
    return write_tiny_study(tmp_path_factory.mktemp("damage") / "tiny", qk_norm="layernorm")


@pytest.fixture
def study(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "tiny")


def hit(path, fault):
    data = path.read_bytes()
    left = FAULTS[fault](data)
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    return data


def same(values, expected):
    np.testing.assert_array_equal(values.astype(expected.dtype), expected)


def objects_of(manifest, name):
    return [key for key in manifest.objects if key.startswith(f"{name}/c.")]


def test_an_undamaged_study_verifies_and_progress_reaches_the_end(whole):
    steps = []
    assert verify(whole, lambda done, total: steps.append((done, total))) == []
    assert len(steps) == len(Manifest.load(whole).objects)
    assert steps[-1][0] == steps[-1][1] == Manifest.load(whole).size


@pytest.mark.parametrize("name", SCHEMA)
def test_no_fault_of_an_array_gives_a_wrong_number_and_others_are_served(whole, tiny, name):
    manifest = Manifest.load(whole)
    root = whole / manifest.attempt
    others = [other for other in ("image", "importance", "entropy") if other != name]
    for key, faults in ((objects_of(manifest, name)[-1], FAULTS), (f"{name}/zarr.json", ("flipped", "missing"))):
        for fault in faults:
            before = hit(root / key, fault)
            try:
                assert [damage.object for damage in verify(whole)] == [key], fault
                opened = open_published(whole)
                if key.endswith("zarr.json"):
                    same(opened.read(name), tiny.arrays[name])  # the root has it too
                else:
                    with pytest.raises(DamagedError) as raised:
                        opened.read(name)
                    assert raised.value.objects == [key], fault
                    assert name in str(raised.value) and key in str(raised.value)
                for other in others:
                    same(opened.read(other), tiny.arrays[other])
            finally:
                (root / key).write_bytes(before)
    assert verify(whole) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_root_is_found_when_the_study_is_opened(study, fault):
    hit(study / "attempt-1" / "zarr.json", fault)
    with pytest.raises(DamagedError) as raised:
        open_published(study)
    assert raised.value.objects == ["zarr.json"]
    assert [damage.object for damage in verify(study)] == ["zarr.json"]


def test_every_damaged_object_of_a_read_is_named(study):
    for key in ("residual/c.1.0.0.0", "residual/c.3.0.0.0"):
        hit(study / "attempt-1" / key, "flipped")
    with pytest.raises(DamagedError) as raised:
        open_published(study).read("residual")
    assert sorted(raised.value.objects) == ["residual/c.1.0.0.0", "residual/c.3.0.0.0"]


def test_images_whose_objects_are_whole_are_served(study, tiny):
    hit(study / "attempt-1" / "residual" / "c.1.0.0.0", "missing")
    opened = open_published(study)
    same(opened.read("residual", 0), tiny.arrays["residual"][0])
    same(opened.read("residual", 2, 1), tiny.arrays["residual"][2, 1])
    with pytest.raises(DamagedError) as raised:
        opened.read("residual", 1)
    assert raised.value.objects == ["residual/c.1.0.0.0"]


def test_a_bit_flipped_in_one_head_leaves_the_others_true(study, tiny):
    path = study / "attempt-1" / "attention" / "c.0.0.0.0.0"
    data = bytearray(path.read_bytes())
    data[10] ^= 1  # the first head is first in the shard
    path.write_bytes(data)
    opened = open_published(study)
    same(opened.read("attention", 0, 1, 1), tiny.arrays["attention"][0, 1, 1])
    with pytest.raises(DamagedError, match="changed"):
        opened.read("attention", 0, 0, 0)


def test_missing_objects_are_damage_in_the_zarr_arrays_too(study):
    hit(study / "attempt-1" / "entropy" / "c.0.0.0", "missing")
    with pytest.raises(DamagedError, match="missing"):
        open_published(study)["entropy"][0]


def test_verify_says_what_is_wrong_with_each_object_by_name(study):
    root = study / "attempt-1"
    hit(root / "pixels" / "c.0.0.0.0", "missing")
    hit(root / "label" / "c.0", "flipped")
    hit(root / "class" / "c.0", "emptied")
    (root / "notes.txt").write_text("mine")
    length = Manifest.load(study).objects["class/c.0"][0]
    assert verify(study) == [
        Damage("class/c.0", f"0 bytes long instead of {length}"),
        Damage("label/c.0", "changed"),
        Damage("notes.txt", "not in the manifest"),
        Damage("pixels/c.0.0.0.0", "missing"),
    ]


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "missing"])
def test_a_damaged_manifest_vouches_for_nothing(study, fault):
    hit(manifest_path(study), fault)
    for look in (open_published, verify, Manifest.load):
        with pytest.raises(DamagedError, match=r"MANIFEST\.json") as raised:
            look(study)
        assert raised.value.objects == ["MANIFEST.json"]
    (entry,) = list_studies(study.parent)
    assert entry.manifest is None and "MANIFEST.json" in entry.problem


def test_without_its_manifest_a_study_is_not_published(study):
    manifest_path(study).unlink()
    with pytest.raises(StudyNotFoundError, match="no study at"):
        open_published(study)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "7", "{}", "\xff", "[" * 100_000),
        '{"headscope": 1}',
        '{"headscope": {"schema": "x", "version": "1"}}',
        '{"headscope": {"schema": 1, "version": "1"}}',
    ],
)
def test_a_manifest_of_any_other_text_is_damage(study, text):
    manifest_path(study).write_text(text, encoding="latin-1")
    with pytest.raises(DamagedError, match=r"MANIFEST\.json"):
        Manifest.load(study)


@pytest.mark.parametrize(
    "edit",
    [
        lambda body: body["run"].update(seconds=0),
        lambda body: body["objects"].pop("label/c.0"),
        lambda body: body.update(attempt="attempt-2"),
        lambda body: body.pop("seal"),
    ],
)
def test_a_manifest_edited_by_hand_is_damage(study, edit):
    body = json.loads(manifest_path(study).read_text())
    edit(body)
    manifest_path(study).write_text(json.dumps(body))
    with pytest.raises(DamagedError, match=r"MANIFEST\.json"):
        Manifest.load(study)


@pytest.mark.parametrize("change", [{"attempt": "../other"}, {"objects": {"../secret": (1, "0" * 64)}},
                                    {"objects": {"/etc/passwd": (1, "0" * 64)}}])  # fmt: skip
def test_a_sealed_manifest_that_leads_outside_is_refused(study, change):
    replace(Manifest.load(study), **change).publish(study)
    with pytest.raises(DamagedError, match="outside"):
        Manifest.load(study)


def test_a_newer_schema_is_refused_with_both_versions(study):
    replace(Manifest.load(study), schema_version=2, headscope="9.1.0").publish(study)
    for look in (open_published, verify):
        with pytest.raises(NewerSchemaError, match=r"made by Headscope 9\.1\.0 in schema 2, .* reads up to schema 1"):
            look(study)
    (entry,) = list_studies(study.parent)
    assert "9.1.0" in entry.problem


def test_a_manifest_comes_back_as_it_was_written(study):
    manifest = Manifest.load(study)
    assert {"headscope": manifest.headscope, "packages": manifest.packages, **manifest.run} == RUN
    manifest.publish(study)
    assert Manifest.load(study) == manifest


def test_content_is_of_the_objects_alone_in_any_order(study):
    manifest = Manifest.load(study)
    later = replace(manifest, run={"seconds": 9}, headscope="0.2.0", study="renamed", attempt="attempt-7")
    assert later.content == manifest.content
    assert content_hash(dict(reversed(manifest.objects.items()))) == manifest.content
    key, (size, sha256) = next(iter(manifest.objects.items()))
    assert content_hash({**manifest.objects, key: (size + 1, sha256)}) != manifest.content
