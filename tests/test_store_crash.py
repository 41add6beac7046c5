"""Whatever is interrupted, a reader sees the whole study or none, and a resumed run publishes the same bytes."""

import errno
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from store import failpoints, files
from store.errors import DamagedError, DiskFullError, StudyNotFoundError
from store.manifest import verify
from store.paths import manifest_path
from store.study import list_studies, open_published
from tests.studies import compute, tiny_study

ROOT = Path(__file__).parent.parent
# One process that imports once and forks a writer for each failpoint; it prints the signal that ended each.
WRITERS = """
import os, sys
from pathlib import Path
from store import failpoints
from tests.studies import compute, tiny_study

tiny = tiny_study()
children = {}
for setting in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        os.environ[failpoints.VARIABLE] = setting
        compute(Path(sys.argv[1]) / setting.partition(":")[0], tiny)
        os._exit(0)
    children[setting] = child
for setting, child in children.items():
    print(setting, os.WTERMSIG(os.waitpid(child, 0)[1]))
"""
SHARED = ("image", "importance")  # read in every state, besides the array that was hit


@pytest.fixture(scope="module")
def tiny():
    return tiny_study()


@pytest.fixture(scope="module")
def puts(tmp_path_factory, tiny):
    """Every put of an undisturbed run, in order: the path in the study, and the bytes."""
    study, recorded, put = tmp_path_factory.mktemp("recorded") / "tiny", [], files.put

    def record(path, data):
        recorded.append((path.relative_to(study), bytes(data)))
        put(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "put", record)
        compute(study, tiny)
    assert recorded[-1][0].name == "MANIFEST.json"
    return recorded


@pytest.fixture(scope="module")
def content(tmp_path_factory, tiny):
    return compute(tmp_path_factory.mktemp("undisturbed") / "tiny", tiny).content


def store_file(study, path, data):
    (study / path).parent.mkdir(parents=True, exist_ok=True)
    (study / path).write_bytes(data)


def spoiled(data):
    """What a put may have left that was not flushed: the first half, nothing, or zeros."""
    return [data[: len(data) // 2], b"", bytes(len(data))]


def outcome(study, tiny, names):
    """ "nothing", "damaged" or "true"; anything else fails."""
    try:
        opened = open_published(study)
    except StudyNotFoundError:
        return "nothing"
    except DamagedError:
        return "damaged"
    seen = "true"
    for name in names:
        try:
            values = opened.read(name)
        except DamagedError as error:
            assert error.objects
            seen = "damaged"
        else:
            np.testing.assert_array_equal(values.astype(tiny.arrays[name].dtype), tiny.arrays[name], err_msg=name)
    return seen


def test_what_a_plan_an_ack_or_a_manifest_relies_on_is_flushed_before_it(tmp_path, tiny, monkeypatch):
    flushed, unflushed_folders = set(), set()
    replace, mkdir = Path.replace, Path.mkdir

    def flush(handle):
        target = Path(f"/proc/self/fd/{handle}").readlink()
        flushed.add(target)
        unflushed_folders.discard(target)

    def make(folder, *args, **kwargs):
        if not folder.exists():
            unflushed_folders.add(folder.parent)
        mkdir(folder, *args, **kwargs)

    def rename(partial, path):
        assert partial in flushed
        if path.suffix == ".json" and path.name != "zarr.json":
            assert not unflushed_folders, path
        unflushed_folders.add(path.parent)
        return replace(partial, path)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(Path, "replace", rename)
    compute(tmp_path / "tiny", tiny)
    assert not unflushed_folders


def test_after_any_put_or_half_of_it_nothing_is_published_before_the_manifest(tmp_path, tiny, puts):
    study, states = tmp_path / "tiny", 0
    for path, data in puts:
        for left in spoiled(data):
            store_file(study, path, left)
            assert outcome(study, tiny, SHARED) == ("damaged" if path.name == "MANIFEST.json" else "nothing")
            states += 1
        store_file(study, path, data)
    assert states > 250
    assert outcome(study, tiny, tiny.arrays) == "true"


def test_a_published_study_with_any_earlier_put_lost_or_torn_is_true_or_damaged_never_wrong(tmp_path, tiny, puts):
    study, states, seen = tmp_path / "tiny", 0, defaultdict(int)
    final = dict(puts)
    for path, data in puts:
        store_file(study, path, data)
    for number, (path, data) in enumerate(puts[:-1]):
        earlier = [old for other, old in puts[:number] if other == path][-1:]  # lost, it leaves what was there before
        in_attempt = path.parts[0] == "attempt-1" and len(path.parts) > 2
        names = {path.parts[1], *SHARED} if in_attempt else SHARED
        for left in [*spoiled(data), *(earlier or [None])]:
            (study / path).unlink(missing_ok=True)
            if left is not None:
                store_file(study, path, left)
            found = outcome(study, tiny, names)
            assert found != "nothing"
            if in_attempt and path.name != "zarr.json":
                assert found == "damaged"
            seen[found] += 1
            states += 1
        (study / path).unlink(missing_ok=True)
        store_file(study, path, final[path])
    assert states > 350
    assert seen["damaged"] > 200
    assert outcome(study, tiny, tiny.arrays) == "true"


def test_while_a_study_is_computed_again_readers_see_the_old_one_until_the_new_one(tmp_path, tiny, puts, no_flush):
    other = tiny_study(seed=1)
    study = tmp_path / "tiny"
    compute(study, other)
    for path, data in puts:
        parts = [part.replace("attempt-1", "attempt-2") for part in path.parts]
        if path.name != "MANIFEST.json":
            store_file(study, Path(*parts), data)
            assert outcome(study, other, SHARED) == "true"
    old = dict(puts)[Path("MANIFEST.json")]
    for left in spoiled(old):
        store_file(study, Path("MANIFEST.json"), left)
        assert outcome(study, tiny, SHARED) == "damaged"


def test_a_run_stopped_after_any_put_resumes_to_the_same_bytes(tmp_path, tiny, puts, content, no_flush):
    for stop in range(3, len(puts), len(puts) // 6):
        study = tmp_path / f"stopped-{stop}"
        for path, data in puts[:stop]:
            store_file(study, path, data)
        path, data = puts[stop]
        store_file(study, path.with_name(f"{path.name}.{'0' * 32}.partial"), data[: len(data) // 2])
        manifest = compute(study, tiny)
        assert manifest.content == content
        assert verify(study) == []


def test_killed_at_every_failpoint_a_resumed_run_publishes_the_same_bytes(tmp_path, tiny, content, no_flush):
    settings = [f"{name}:{2 if 'unit' in name else 1}:kill" for name in failpoints.NAMES]
    command = [sys.executable, "-c", WRITERS, str(tmp_path), *settings]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert ended.splitlines() == [f"{setting} {int(signal.SIGKILL)}" for setting in settings]
    for name in failpoints.NAMES:
        published = manifest_path(tmp_path / name).exists()
        assert published == (name == "after-manifest")
        if name.endswith("unit-ack"):
            (entry,) = [entry for entry in list_studies(tmp_path) if entry.name == name]
            assert (entry.units_done, entry.units_total) == (1 if name.startswith("before") else 2, 3)
        assert compute(tmp_path / name, tiny).content == content
        assert verify(tmp_path / name) == []


@pytest.mark.parametrize("name", failpoints.NAMES)
def test_a_full_disk_publishes_nothing_and_says_so_and_with_room_the_run_goes_on(
    tmp_path, tiny, content, monkeypatch, no_flush, name
):
    monkeypatch.setenv(failpoints.VARIABLE, f"{name}:enospc")
    with pytest.raises(DiskFullError, match=r"disk full: about \d+\.\d MB needed, \d+\.\d MB free at ") as raised:
        compute(tmp_path / "tiny", tiny)
    assert raised.value.errno == errno.ENOSPC
    monkeypatch.delenv(failpoints.VARIABLE)
    assert manifest_path(tmp_path / "tiny").exists() == (name == "after-manifest")
    assert compute(tmp_path / "tiny", tiny).content == content


def test_a_disk_that_fills_at_any_put_publishes_nothing_and_the_run_resumes(
    tmp_path, tiny, puts, content, monkeypatch, no_flush
):
    for nth in range(1, len(puts) + 1, len(puts) // 6):
        study, passed = tmp_path / f"full-{nth}", 0

        def fill(handle, nth=nth):
            nonlocal passed
            passed += 1
            if passed == nth:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fill)
        with pytest.raises(DiskFullError, match="disk full"):
            compute(study, tiny)
        assert not manifest_path(study).exists()
        assert not list(study.rglob("*.partial"))
        assert compute(study, tiny).content == content
