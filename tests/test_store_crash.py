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
ELSEWHERE = (*failpoints.EXCHANGE, *failpoints.DERIVED, *failpoints.PIECES)  # which have tests of their own
POINTS = [name for name in failpoints.NAMES if "ledger" not in name and name not in ELSEWHERE]
SHARED = ("image", "importance")  # read in every state, besides the array that was hit


@pytest.fixture(scope="module")
def tiny():
    return tiny_study()


@pytest.fixture(scope="module")
def steps(tmp_path_factory, tiny):
    """What an undisturbed run did, in order: a path in the study, and the bytes put or the path moved there."""
    study, recorded = tmp_path_factory.mktemp("recorded") / "tiny", []
    put, replace = files.put, Path.replace

    def record_put(path, data):
        recorded.append((path.relative_to(study), bytes(data)))
        put(path, data)

    def record_move(source, path):
        if source.suffix != files.PARTIAL:
            recorded.append((path.relative_to(study), source.relative_to(study)))
        return replace(source, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "put", record_put)
        patch.setattr(Path, "replace", record_move)
        compute(study, tiny)
    assert recorded[-1][0].name == "MANIFEST.json"
    return recorded


@pytest.fixture(scope="module")
def content(tmp_path_factory, tiny):
    return compute(tmp_path_factory.mktemp("undisturbed") / "tiny", tiny).content


def store_file(study, path, data):
    (study / path).parent.mkdir(parents=True, exist_ok=True)
    (study / path).write_bytes(data)


def repeat(study, path, done):
    """Do one of `steps` again, in another study."""
    if isinstance(done, bytes):
        store_file(study, path, done)
    else:
        (study / path).parent.mkdir(parents=True, exist_ok=True)
        (study / done).rename(study / path)


def tree(steps, spoilt=None, left=None):
    """All files after `steps`; of the one numbered `spoilt`, only `left` reached the disk, or with None nothing."""
    found = {}
    for number, (path, done) in enumerate(steps):
        if number == spoilt and left is None:
            continue
        if isinstance(done, bytes):
            found[path] = left if number == spoilt else done
        elif done in found:
            found[path] = found.pop(done)
    return found


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
        if not folder.exists() and folder.parent.name != "staging":
            unflushed_folders.add(folder.parent)
        mkdir(folder, *args, **kwargs)

    def rename(source, path):
        assert source in flushed
        flushed.add(path)
        if path.parent.parent.name != "staging":  # what is staged is garbage after a crash
            if path.suffix == ".json" and path.name != "zarr.json":
                assert not unflushed_folders, path
            unflushed_folders.add(path.parent)
        return replace(source, path)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(Path, "replace", rename)
    compute(tmp_path / "tiny", tiny)
    assert not unflushed_folders


def test_after_any_step_or_half_of_it_nothing_is_published_before_the_manifest_is_moved(tmp_path, tiny, steps):
    study, states = tmp_path / "tiny", 0
    for number, (path, done) in enumerate(steps):
        for left in spoiled(done) if isinstance(done, bytes) else []:
            store_file(study, path, left)
            assert outcome(study, tiny, SHARED) == "nothing"
            states += 1
        repeat(study, path, done)
        assert outcome(study, tiny, SHARED) == ("nothing" if number < len(steps) - 1 else "true")
        states += 1
    assert states > 450
    assert outcome(study, tiny, tiny.arrays) == "true"


def test_a_published_study_with_any_earlier_step_lost_or_torn_is_true_or_damaged_never_wrong(tmp_path, tiny, steps):
    study, states, seen = tmp_path / "tiny", 0, defaultdict(int)
    whole = tree(steps)
    for path, data in whole.items():
        store_file(study, path, data)
    for number, (_, done) in enumerate(steps):
        for left in [*(spoiled(done) if isinstance(done, bytes) else []), None]:
            found = tree(steps, number, left)
            changed = {path for path in whole.keys() | found.keys() if whole.get(path) != found.get(path)}
            for path in changed:
                (study / path).unlink(missing_ok=True)
                if path in found:
                    store_file(study, path, found[path])
            arrays = {path.parts[1] for path in changed if path.parts[0] == "attempt-1" and len(path.parts) == 3}
            chunks = [path for path in changed if path.parts[0] == "attempt-1" and path.name != "zarr.json"]
            became = outcome(study, tiny, {*arrays, *SHARED})
            if Path("MANIFEST.json") not in found:
                assert became == "nothing"
            elif chunks:
                assert became == "damaged"
            else:
                assert became != "nothing"
            seen[became] += 1
            states += 1
            for path in changed:
                (study / path).unlink(missing_ok=True)
                if path in whole:
                    store_file(study, path, whole[path])
    assert states > 550
    assert seen["damaged"] > 200
    assert seen["nothing"] <= 2
    assert outcome(study, tiny, tiny.arrays) == "true"


def test_while_a_study_is_computed_again_readers_see_the_old_one_until_the_new_one(tmp_path, tiny, steps, no_flush):
    other = tiny_study(seed=1)
    study = tmp_path / "tiny"
    compute(study, other)

    def second(path):
        return Path(*(part.replace("attempt-1", "attempt-2") for part in path.parts))

    for path, done in steps[:-1]:
        repeat(study, second(path), done if isinstance(done, bytes) else second(done))
        assert outcome(study, other, SHARED) == "true"
    for left in spoiled(tree(steps)[Path("MANIFEST.json")]):
        store_file(study, Path("MANIFEST.json"), left)
        assert outcome(study, tiny, SHARED) == "damaged"


def test_a_run_stopped_after_any_step_resumes_to_the_same_bytes(tmp_path, tiny, steps, content, no_flush):
    last = max(number for number, (_, done) in enumerate(steps) if isinstance(done, bytes))  # then only moves are left
    for stop in range(3, last + 1, len(steps) // 8):
        study = tmp_path / f"stopped-{stop}"
        for path, done in steps[:stop]:
            repeat(study, path, done)
        path, done = next(step for step in steps[stop:] if isinstance(step[1], bytes))
        store_file(study, path.with_name(f"{path.name}.{'0' * 32}.partial"), done[: len(done) // 2])
        manifest = compute(study, tiny)
        assert manifest.content == content
        assert verify(study) == []
        assert not list(study.rglob("*.partial"))


def test_killed_at_every_failpoint_a_resumed_run_publishes_the_same_bytes(tmp_path, tiny, content, no_flush):
    settings = [f"{name}:{2 if 'unit' in name else 1}:kill" for name in POINTS]
    command = [sys.executable, "-c", WRITERS, str(tmp_path), *settings]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert ended.splitlines() == [f"{setting} {int(signal.SIGKILL)}" for setting in settings]
    for name in POINTS:
        published = manifest_path(tmp_path / name).exists()
        assert published == (name == "after-manifest")
        if name.endswith("unit-ack"):
            (entry,) = [entry for entry in list_studies(tmp_path) if entry.name == name]
            assert (entry.units_done, entry.units_total) == (1 if name.startswith("before") else 2, 3)
        assert compute(tmp_path / name, tiny).content == content
        assert verify(tmp_path / name) == []


@pytest.mark.parametrize("name", POINTS)
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
    tmp_path, tiny, steps, content, monkeypatch, no_flush
):
    puts = sum(isinstance(done, bytes) for _, done in steps)
    for nth in range(1, puts + 1, puts // 6):
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
