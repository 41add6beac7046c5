"""Results beside a study: published once, whole or not at all; damage, crashes, quota; what the command line says."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray
from pydantic import ValidationError
from typer.testing import CliRunner

import headscope
from analyses import registry
from analyses.analysis import resolve
from analyses.pruning import ANALYSIS, PruneRequest
from analyses.request import result_key
from store import derived, failpoints
from store.attempt import Attempt
from store.derived import Uses, Writer
from store.errors import DamagedError, DerivedNotFoundError, DiskFullError, LostLeaseError, StudyNotFoundError
from store.paths import manifest_path
from store.study import delete, open_published
from tests.fake_desk import made_arrays
from tests.studies import RUN as STUDY_RUN
from tests.studies import tiny_study, write_tiny_study

ROOT = Path(__file__).parent.parent
RUN = {"headscope": "0.3.0", "packages": {"numpy": np.__version__}, "seconds": 0.5}
PARTS = ("images 0 to 1", "images 2 to 2")
# One process that imports once and forks a writer for each failpoint; it prints the signal that ended each.
WRITERS = """
import os, sys
from pathlib import Path
from store import failpoints
from tests.test_derived import write

children = {}
for setting in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        os.environ[failpoints.VARIABLE] = setting
        write(Path(sys.argv[1]) / setting.partition(":")[0] / "tiny")
        os._exit(0)
    children[setting] = child
for setting, child in children.items():
    print(setting, os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def study(tmp_path):
    return open_published(write_tiny_study(tmp_path / "studies" / "tiny"))


def request_for(study, **changes):
    fields = {"images": study.image_ids[:3], "heads": [(1, 0), (0, 1)], "regions": (0, 15, 8)}
    return derived.request_of(study, "prune", fields | changes)


def publish(study, request=None, hold=lambda: None, job="job"):
    """Publish a plausible result in one go; its writer."""
    request = request or request_for(study)
    writer = Writer(study, ANALYSIS, request, job)
    if not writer.is_done():
        writer.publish(made_arrays(request), {"undefined": {}}, RUN, hold)
    return writer


def write(folder):
    """As two units and the last one of a job do, from where an earlier call was interrupted; the result's folder."""
    study = open_published(folder)
    request = request_for(study)
    writer, whole = Writer(study, ANALYSIS, request, "job"), made_arrays(request)
    if writer.is_done():
        writer.clean()
        return writer.folder
    for part, images in zip(PARTS, (slice(0, 2), slice(2, 3)), strict=True):
        if not writer.has_part(part):
            writer.write_part(part, of_images(whole, images), {"undefined": {}}, lambda: None)
    parts = writer.parts(PARTS)
    writer.publish(derived.joined(ANALYSIS.arrays, [arrays for arrays, _ in parts]), parts[0][1], RUN, lambda: None)
    return writer.folder


def of_images(arrays, images):
    axes = {name: ANALYSIS.arrays[name].image_axis for name in arrays}
    return {
        name: array if axes[name] is None else array[(slice(None),) * axes[name] + (images,)]
        for name, array in arrays.items()
    }


def outcome(study, request):
    """ "nothing", "damaged" or "true"; anything else fails."""
    expected = made_arrays(request)
    try:
        found = study.derived("prune", request)
        for name, array in expected.items():
            np.testing.assert_array_equal(found.read(name), array, err_msg=name)
    except DerivedNotFoundError:
        return "nothing"
    except DamagedError as error:
        assert error.objects
        return "damaged"
    return "true"


# --- what is there ---


def test_a_result_is_opened_by_its_request_its_fields_its_key_and_by_its_path_with_xarray(study):
    request = request_for(study)
    folder = publish(study, request).folder
    fields = {"images": study.image_ids[:3], "heads": [(0, 1), (1, 0), (1, 0)], "regions": [0, 15, 8]}
    for wanted in (request, fields, folder.name):
        found = study.derived("prune", wanted)
        assert found.path == folder
        assert found.request == request
        np.testing.assert_array_equal(found.read("jsd"), made_arrays(request)["jsd"])
    assert study.derived_keys("prune") == [result_key("prune", request)]
    for opened in (found, str(folder)):
        dataset = xarray.open_zarr(opened)
        assert dataset.patch_distance.dims == ("region_set", "layer", "image")
        assert dataset.jsd.sel(region_set=15, image=study.image_ids[1]).item() == made_arrays(request)["jsd"][1, 1]
        assert dataset.layer.values.tolist() == [0, 1]


def test_a_result_says_what_was_asked_what_it_read_and_what_computed_it(study):
    request = request_for(study)
    found = study.derived("prune", publish(study, request).folder.name)
    assert found.attrs["request"] == request.model_dump(mode="json")
    assert found.attrs["reads"] == {
        "content": study.content_of(ANALYSIS.reads),
        "arrays": [name for name in ANALYSIS.reads if name in study],
    }
    assert found.attrs["headscope"]["version"] == found.manifest.headscope == "0.3.0"
    assert found.attrs["packages"] == found.manifest.packages == RUN["packages"]
    assert found.manifest.run == {"seconds": 0.5}
    for name, spec in ANALYSIS.arrays.items():
        metadata = json.loads((found.path / name / "zarr.json").read_bytes())
        assert metadata["attributes"] == spec.attributes
        assert metadata["codecs"][-1]["name"] == "crc32c"
        assert resolve(spec.computed_by).__doc__, name


def test_what_is_not_there_says_so_and_what_cannot_be_asked_is_refused(study):
    with pytest.raises(DerivedNotFoundError, match=r"study tiny has no result .* of prune yet; ask for it on the page"):
        study.derived("prune", request_for(study))
    with pytest.raises(ValueError, match="'rollout' is nothing that can be asked for; there are prune"):
        study.derived("rollout", "0" * 64)
    with pytest.raises(ValueError, match="is not a result's key"):
        study.derived("prune", "../../MANIFEST.json")
    with pytest.raises(ValidationError, match="give 1 to 4,096"):
        study.derived("prune", {"images": ["a"], "heads": []})
    assert study.derived_keys("prune") == []


def test_a_study_that_is_published_again_with_a_map_more_keeps_its_results(tmp_path):
    tiny, bare = tiny_study(), tiny_study(maps=False)
    study = open_published(write_tiny_study(tmp_path / "tiny", maps=False))
    request = request_for(study)
    publish(study, request)
    with Attempt.extend(tmp_path / "tiny", bare.plan | {"maps": True}) as attempt:
        attempt.write_stage("patch-layout", {"patch_layout": tiny.arrays["patch_layout"]}, {})
        attempt.publish({"maps": {}}, STUDY_RUN)
    again = open_published(tmp_path / "tiny")
    assert again.manifest.content != study.manifest.content
    assert request_for(again) == request
    assert outcome(again, request) == "true"


def test_other_numbers_or_weights_are_another_question_and_a_copy_is_the_same(tmp_path, study):
    other = open_published(write_tiny_study(tmp_path / "other", seed=1))
    assert other.content_of(ANALYSIS.reads) != study.content_of(ANALYSIS.reads)
    assert study.content_of(["importance"]) != study.content_of(["logits"])
    shutil.copytree(study.folder, tmp_path / "copy")
    copy = open_published(tmp_path / "copy")
    assert result_key("prune", request_for(copy)) == result_key("prune", request_for(study))


def test_arrays_that_are_not_as_declared_are_not_published(study):
    request = request_for(study)
    arrays, writer = made_arrays(request), Writer(study, ANALYSIS, request, "job")
    for wrong, said in (
        ({"strange": arrays["jsd"]}, "strange is not declared"),
        ({"jsd": arrays["jsd"][:, :2]}, r"jsd has shape \(3, 2\)"),
        ({"jsd": arrays["jsd"].astype(np.float32)}, "jsd is float32, declared as float64"),
    ):
        with pytest.raises(ValueError, match=said):
            writer.publish(arrays | wrong, {}, RUN, lambda: None)
    assert outcome(study, request) == "nothing"


# --- written once, or not ---


def test_who_comes_second_leaves_what_is_there(study):
    folder = publish(study).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    request = request_for(study)
    second = Writer(study, ANALYSIS, request, "other")
    second.publish(made_arrays(request), {"undefined": {}}, RUN, lambda: None)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_parts_are_joined_to_what_one_unit_gives(tmp_path):
    folder = write_tiny_study(tmp_path / "tiny")
    study = open_published(folder)
    joined = write(folder)
    content = derived.DerivedManifest.load(joined).content
    derived.remove(joined)
    assert derived.DerivedManifest.load(publish(study).folder).content == content


def test_a_lost_lease_publishes_nothing(study):
    def lost():
        raise LostLeaseError("another has it")

    with pytest.raises(LostLeaseError):
        publish(study, hold=lost)
    assert outcome(study, request_for(study)) == "nothing"
    writer = Writer(study, ANALYSIS, request_for(study), "job")
    with pytest.raises(LostLeaseError):
        writer.write_part(PARTS[0], made_arrays(request_for(study)), {}, lost)
    assert not writer.has_part(PARTS[0])


def test_killed_at_every_failpoint_nothing_half_is_served_and_it_is_done_again(tmp_path, no_flush):
    settings = [f"{name}:kill" for name in failpoints.DERIVED]
    for name in failpoints.DERIVED:
        write_tiny_study(tmp_path / name / "tiny")
    content = derived.DerivedManifest.load(write(write_tiny_study(tmp_path / "undisturbed" / "tiny"))).content
    command = [sys.executable, "-c", WRITERS, str(tmp_path), *settings]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    assert ended.splitlines() == [f"{setting} {int(signal.SIGKILL)}" for setting in settings]
    for name in failpoints.DERIVED:
        study = open_published(tmp_path / name / "tiny")
        published = name in ("after-result-publish", "after-result-flush")
        assert outcome(study, request_for(study)) == ("true" if published else "nothing"), name
        folder = write(study.folder)
        assert derived.DerivedManifest.load(folder).content == content
        assert [path.name for path in folder.parent.iterdir()] == [folder.name], name


@pytest.mark.parametrize("name", failpoints.DERIVED)
def test_a_full_disk_publishes_nothing_half_and_with_room_it_goes_on(tmp_path, monkeypatch, no_flush, name):
    folder = write_tiny_study(tmp_path / "tiny")
    study = open_published(folder)
    monkeypatch.setenv(failpoints.VARIABLE, f"{name}:enospc")
    with pytest.raises((DiskFullError, OSError)) as raised:
        write(folder)
    assert raised.value.errno == errno.ENOSPC
    monkeypatch.delenv(failpoints.VARIABLE)
    published = name in ("after-result-publish", "after-result-flush")
    assert outcome(study, request_for(study)) == ("true" if published else "nothing")
    write(folder)
    assert outcome(study, request_for(study)) == "true"


def test_what_is_published_is_flushed_before_its_unit_is_done(study, monkeypatch):
    flushed = set()
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.add(Path(f"/proc/self/fd/{handle}").readlink()))
    folder = publish(study).folder
    assert {path.resolve() for path in folder.rglob("*")} <= flushed
    assert {folder.parent, folder.parents[1], folder.parents[2]} <= flushed
    flushed.clear()
    publish(study)  # as a worker does whose predecessor died between publishing and flushing
    assert {path.resolve() for path in folder.rglob("*")} <= flushed


def test_what_a_power_failure_tears_is_damage_and_is_computed_again(study):
    request = request_for(study)
    folder = publish(study, request).folder
    seen = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        for left in (whole[: len(whole) // 2], b"", bytes(len(whole)), bytes(flipped), None):
            path.unlink() if left is None else path.write_bytes(left)
            became = outcome(study, request)
            if path.name == "zarr.json" and path.parent != folder:
                assert became == "true"  # the group's own metadata has it too, and that is what is read
            elif path.name == "MANIFEST.json" and left is None:
                assert became == "nothing"
            else:
                assert became == "damaged", path
            assert not derived.is_whole(folder)
            seen.append(became)
            path.write_bytes(whole)
    assert len(seen) > 100
    assert seen.count("nothing") == 1
    (folder / "jsd" / "c.0.0").write_bytes(b"")
    assert not Writer(study, ANALYSIS, request, "job").is_done()
    assert outcome(study, request) == "nothing"
    publish(study, request)
    assert outcome(study, request) == "true"


def test_a_torn_result_gives_way_to_the_next_publisher(study):
    request = request_for(study)
    writer = publish(study, request)
    (writer.folder / "jsd" / "c.0.0").write_bytes(b"")
    writer.publish(made_arrays(request), {"undefined": {}}, RUN, lambda: None)
    assert outcome(study, request) == "true"


# --- what goes ---


def test_deleting_a_study_takes_its_results_also_those_that_are_being_written(study):
    publish(study)
    delete(study.folder)
    assert not study.folder.exists()
    write_tiny_study(study.folder)
    with pytest.raises(StudyNotFoundError, match="study tiny is gone"):
        publish(open_published(study.folder), hold=lambda: delete(study.folder))
    assert not study.folder.exists()
    with pytest.raises(StudyNotFoundError):
        Writer(study, ANALYSIS, request_for(study), "job").write_part(PARTS[0], {}, {}, lambda: None)
    assert not study.folder.exists()


def test_a_result_that_is_published_as_its_study_goes_is_removed(study, monkeypatch):
    real = derived._place

    def place(staging, folder):
        real(staging, folder)
        manifest_path(study.folder).unlink()  # as `delete` begins

    monkeypatch.setattr(derived, "_place", place)
    with pytest.raises(StudyNotFoundError):
        publish(study)
    assert not (study.folder / "derived").exists()


def test_what_is_left_of_jobs_that_ended_is_swept_and_what_live_jobs_keep_is_not(study):
    request = request_for(study)
    for job in ("live", "dead"):
        Writer(study, ANALYSIS, request, job).write_part(PARTS[0], made_arrays(request), {}, lambda: None)
    root = study.folder / "derived" / "prune"
    (root / f"{'0' * 64}.x.dropped").mkdir()
    derived.remove_remains(study.folder.parent, lambda: {"live"})
    assert [path.name.split(".")[1:] for path in root.iterdir()] == [["live", "work"]]


def test_beyond_the_quota_what_was_not_used_for_longest_goes_first(study, tmp_path):
    uses, now = Uses(tmp_path / "uses"), time.time()
    folders = [publish(study, request_for(study, images=[image])).folder for image in study.image_ids[:4]]
    for age, folder in zip((4000, 3000, 2000, 1000), folders, strict=True):
        os.utime(manifest_path(folder), (now - age, now - age))
    size = derived.size_of(folders[0])
    assert size >= 4096 * 20, "of many small files"
    uses.note(folders[0])
    file = next((tmp_path / "uses").iterdir())
    os.utime(file, (now - 1500, now - 1500))
    studies = study.folder.parent
    assert derived.keep_within(studies, uses, 5 * size) == []
    assert derived.keep_within(studies, uses, 2.5 * size) == [folders[1], folders[2]]
    assert [folder.exists() for folder in folders] == [True, False, False, True]
    assert derived.keep_within(studies, uses, 0, lambda: {folders[0]}) == [folders[3]]
    assert list((tmp_path / "uses").iterdir()) == [file]
    os.utime(file)
    assert derived.keep_within(studies, uses, 0) == [], "it was used just now"
    assert outcome(study, request_for(study, images=study.image_ids[1:2])) == "nothing"


def test_a_use_is_noted_once_in_a_while_and_never_stops_the_page(study, tmp_path):
    folder = publish(study).folder
    uses = Uses(tmp_path / "uses")
    uses.note(folder)
    (noted,) = (tmp_path / "uses").iterdir()
    noted.unlink()
    uses.note(folder)
    assert list((tmp_path / "uses").iterdir()) == []
    Uses(tmp_path / "no" / "such" / "folder").note(folder)


# --- the command line ---


def run(*words, data):
    return CliRunner().invoke(headscope.app, [*words, "--data", str(data)])


def test_the_command_line_lists_verifies_and_removes_results(tmp_path):
    study = open_published(write_tiny_study(tmp_path / "studies" / "tiny"))
    assert "no results beside the studies yet" in run("derived", data=tmp_path).output
    first = publish(study).folder
    second = publish(study, request_for(study, images=study.image_ids[:1])).folder
    listed = run("derived", "tiny", data=tmp_path).output
    assert "prune: 2 heads of tiny on 3 images" in listed
    assert f"2 heads of tiny on {study.image_ids[0]}" in listed
    assert "2 results" in listed
    told = json.loads(run("derived", "--json", data=tmp_path).output)
    assert {each["key"] for each in told} == {first.name, second.name}
    assert all(each["bytes"] > 0 and each["request"]["study"] == "tiny" for each in told)
    assert "2 results beside it" in run("verify", "tiny", data=tmp_path).output
    (first / "jsd" / "c.0.0").write_bytes(b"")
    verified = run("verify", "tiny", data=tmp_path)
    assert verified.exit_code == headscope.DAMAGED
    assert f"derived/prune/{first.name}/jsd/c.0.0: 0 bytes long" in verified.output
    assert "asked for, these are computed again" in verified.output
    assert run("derived", "--remove", "f" * 64, data=tmp_path).exit_code == headscope.MISTAKE
    assert "1 result is removed" in run("derived", "tiny", "--remove", first.name[:12], data=tmp_path).output
    assert run("verify", "tiny", data=tmp_path).exit_code == 0
    assert "1 result is removed" in run("derived", "--remove", "all", data=tmp_path).output
    publish(study)
    assert run("rm", "tiny", "--yes", data=tmp_path).exit_code == 0
    assert not study.folder.exists()


def test_arrays_of_what_is_asked_for_are_no_arrays_of_a_study():
    assert not {"probability_drop", "region_set"} & registry.ARRAYS.keys()
    assert "prune" in registry.on_request()
    assert PruneRequest is registry.on_request()["prune"].request
