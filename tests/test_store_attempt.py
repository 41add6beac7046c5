import contextlib
import errno
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from store import failpoints, schema
from store.attempt import Attempt, forget
from store.errors import DamagedError, LostLeaseError, NewerSchemaError, StoreError, StudyBusyError, StudyNotFoundError
from store.manifest import Manifest, verify
from store.paths import ack_path, attempt_path, manifest_path, part_path, plan_path, staging_path, work_path
from store.study import delete, list_studies, open_published
from tests.studies import RUN, compute, tiny_study

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture(scope="module")
def tiny():
    return tiny_study()


@pytest.fixture(scope="module")
def content(tmp_path_factory, tiny):
    """The manifest hash of an undisturbed run."""
    return compute(tmp_path_factory.mktemp("undisturbed") / "tiny", tiny).content


def begin(study, tiny, **changes):
    arguments = {"plan": tiny.plan, "sizes": tiny.sizes, "attrs": tiny.attrs, "start": tiny.written("start")}
    arguments |= {"arrays": tiny.of_units(), "unit_images": tiny.unit_images}
    return Attempt.start(study, **(arguments | changes))


def write_units(attempt, tiny, order=None):
    for unit in order if order is not None else attempt.pending():
        attempt.write_unit(unit, tiny.unit(attempt.units[unit]), {"unit": unit})


def finish(attempt, tiny):
    attempt.gather()
    for stage, arrays in tiny.stages().items():
        attempt.write_stage(stage, arrays, {})
    return attempt.publish(tiny.late_attrs, RUN)


def test_units_cover_all_images_once_and_the_last_has_the_rest(tmp_path, tiny):
    with begin(tmp_path / "a", tiny) as attempt:
        assert attempt.units == [range(2), range(2, 4), range(4, 5)]
        assert attempt.pending() == [0, 1, 2]


def test_units_in_any_order_and_run_twice_give_the_same_bytes(tmp_path, tiny, content):
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny, [2, 0, 2, 1, 0])
        assert finish(attempt, tiny).content == content


def test_a_closed_attempt_resumes_where_it_was(tmp_path, tiny, content):
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny, [1])
    with Attempt.unfinished(tmp_path / "a", tiny.plan) as attempt:
        assert attempt.pending() == [0, 2]
        assert attempt.facts() == [{"unit": 1}]
        assert attempt.arrays == tiny.of_units()
        write_units(attempt, tiny)
        assert finish(attempt, tiny).content == content


def test_attributes_of_start_and_publish_are_merged_and_carry_the_schema(tmp_path, tiny):
    compute(tmp_path / "a", tiny)
    attrs = open_published(tmp_path / "a").attrs
    assert attrs == {**tiny.attrs, **tiny.late_attrs, "headscope": {"schema": schema.VERSION}}


def test_gathered_arrays_are_in_image_order_when_chunks_and_units_do_not_meet(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(schema, "GATHERED_CHUNK_BYTES", 3 * 2 * 2 * 4)  # three images of importance
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny, [1, 2, 0])
        attempt.gather()
        study = attempt.so_far()
        for name, array in tiny.written("gathered").items():
            np.testing.assert_array_equal(study.read(name), array)
        finish(attempt, tiny)
    study = open_published(tmp_path / "a")
    assert study["importance"].chunks[:2] == (1, 3)
    np.testing.assert_array_equal(study.read("importance"), tiny.arrays["importance"])


def test_another_plan_is_not_resumed_and_not_lost(tmp_path, tiny):
    begin(tmp_path / "a", tiny).close()
    assert Attempt.unfinished(tmp_path / "a", {"seed": 7}) is None
    with begin(tmp_path / "a", tiny, plan={"seed": 7}) as other:
        assert other.path.name == "attempt-2"
    with Attempt.unfinished(tmp_path / "a", tiny.plan) as attempt:
        assert attempt.path.name == "attempt-1"


def test_there_is_nothing_to_resume_where_there_is_no_study_and_asking_makes_none(tmp_path, tiny):
    assert Attempt.unfinished(tmp_path / "a", tiny.plan) is None
    assert not (tmp_path / "a").exists()


def test_an_attempt_without_its_plan_is_removed(tmp_path, tiny):
    begin(tmp_path / "a", tiny).close()
    plan_path(tmp_path / "a", 1).unlink()
    assert Attempt.unfinished(tmp_path / "a", tiny.plan) is None
    assert not attempt_path(tmp_path / "a", 1).exists()
    assert not work_path(tmp_path / "a", 1).exists()


def test_an_attempt_whose_start_arrays_changed_is_not_resumed(tmp_path, tiny):
    begin(tmp_path / "a", tiny).close()
    weight = attempt_path(tmp_path / "a", 1) / "query_weight" / "c.0.0.0.0"
    weight.write_bytes(weight.read_bytes()[::-1])
    assert Attempt.unfinished(tmp_path / "a", tiny.plan) is None


def test_one_writer_a_study_and_the_other_is_told_which_process(tmp_path, tiny):
    with begin(tmp_path / "a", tiny):
        with pytest.raises(StudyBusyError, match=str(os.getpid())):
            begin(tmp_path / "a", tiny)
        with pytest.raises(StudyBusyError, match="a is being written"):
            Attempt.unfinished(tmp_path / "a", tiny.plan)
        begin(tmp_path / "b", tiny).close()
    begin(tmp_path / "a", tiny).close()


def test_a_second_run_replaces_the_first_at_once_and_who_reads_the_first_reads_on(tmp_path, tiny):
    first = compute(tmp_path / "a", tiny)
    reader = open_published(tmp_path / "a")
    second = compute(tmp_path / "a", tiny_study(seed=1))
    assert (first.attempt, second.attempt) == ("attempt-1", "attempt-2")
    np.testing.assert_array_equal(reader.read("logits"), tiny.arrays["logits"])
    assert open_published(tmp_path / "a").manifest.content == second.content != first.content
    assert Attempt.unfinished(tmp_path / "a", tiny.plan) is None  # tidies: the first is gone now
    assert not reader.path.exists()
    with pytest.raises(DamagedError, match="open it again"):
        reader.read("logits")


def test_discard_leaves_no_trace_but_the_folder(tmp_path, tiny):
    begin(tmp_path / "a", tiny).discard()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["lock"]
    assert list_studies(tmp_path) == []


def test_a_start_that_fails_leaves_no_attempt_and_no_lock(tmp_path, tiny, monkeypatch):
    def refuse(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("store.attempt.zarr.create_array", refuse)
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "a", tiny)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["lock"]
    begin(tmp_path / "a", tiny).close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arrays": ["image", "atention"]}, "atention: not in the schema"),
        ({"start": {}}, "image, image_sha256, .* missing"),
        ({"sizes": {"image": 5}}, "dimension class"),
        ({"unit_images": 0}, "1 image a unit"),
        ({"attrs": {"accuracy": float("nan")}}, "JSON"),
        ({"plan": {"folder": os}}, "JSON"),
    ],
)
def test_a_start_that_does_not_fit_the_table_is_refused(tmp_path, tiny, changes, said):
    with pytest.raises(ValueError, match=said):
        begin(tmp_path / "a", tiny, **changes)
    assert list_studies(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays: arrays.pop("residual"), "residual: missing"),
        (lambda arrays: arrays.update(label=np.zeros(2, np.int32)), "label: not written in this step"),
        (
            lambda arrays: arrays.update(entropy=arrays["entropy"][:1]),
            r"entropy has shape \(1, 2, 2\) instead of \(2, 2, 2\)",
        ),
        (
            lambda arrays: arrays.update(residual=arrays["residual"].astype(float)),
            "residual is float64.*float16",
        ),
    ],
)
def test_a_unit_that_does_not_fit_the_table_is_refused_and_stays_pending(tmp_path, tiny, change, said):
    with begin(tmp_path / "a", tiny) as attempt:
        arrays = tiny.unit(attempt.units[0])
        change(arrays)
        with pytest.raises(ValueError, match=said):
            attempt.write_unit(0, arrays, {})
        assert attempt.pending() == [0, 1, 2]


def test_only_arrays_of_the_end_are_written_by_a_stage_and_only_by_one(tmp_path, tiny):
    with begin(tmp_path / "a", tiny) as attempt:
        with pytest.raises(ValueError, match="logits: not written in this step"):
            attempt.write_stage("logits", {"logits": tiny.arrays["logits"]}, {})
        with pytest.raises(ValueError, match=r"'\.\./up' is not a stage's name"):
            attempt.write_stage("../up", {}, {})
    with pytest.raises(ValueError, match=r"image_layout, .*: not of the start; write_stage\(\)"):
        begin(tmp_path / "b", tiny, arrays=tiny.arrays)


def test_a_finished_stage_is_remembered_and_one_that_was_begun_leaves_nothing(tmp_path, tiny, content, monkeypatch):
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny)
        attempt.gather()
        attempt.write_stage("patch-latent", {"patch_latent": tiny.arrays["patch_latent"]}, {"latent": 4})
        with monkeypatch.context() as patch, pytest.raises(failpoints.InjectedError):
            patch.setenv(failpoints.VARIABLE, "before-stage-ack:raise")
            attempt.write_stage("cls-layout", {"cls_layout": tiny.arrays["cls_layout"]}, {})
        assert (attempt.path / "cls_layout").is_dir()
    with Attempt.unfinished(tmp_path / "a", tiny.plan) as attempt:
        assert attempt.stages() == {"patch-latent": {"latent": 4}}
        assert attempt.arrays == [*tiny.of_units(), "patch_latent"]
        assert attempt.sizes["latent"] == 4
        attempt.gather()
        study = attempt.so_far()
        np.testing.assert_array_equal(study.read("patch_latent"), tiny.arrays["patch_latent"])
        np.testing.assert_array_equal(study.attention(1, 0, 1), tiny.arrays["attention"][1, 0, 1].astype(np.float32))
        few = attempt.publish(tiny.late_attrs, RUN)
    assert "cls_layout" not in open_published(tmp_path / "a")
    assert verify(tmp_path / "a") == []
    assert few.content != content


def test_a_stage_whose_objects_are_gone_is_not_finished(tmp_path, tiny, content):
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny)
        finish_but = {stage: arrays for stage, arrays in tiny.stages().items() if stage != "pattern"}
        attempt.gather()
        for stage, arrays in tiny.stages().items():
            attempt.write_stage(stage, arrays, {})
        (attempt.path / "pattern" / "c.0").unlink()
        assert set(attempt.stages()) == set(finish_but)
        assert finish(attempt, tiny).content == content


def test_a_published_study_is_extended_by_a_stage_without_writing_the_rest_again(tmp_path, tiny, content):
    bare = tiny_study()
    for name in tiny.written("end"):
        if name != "image_layout":
            del bare.arrays[name]
    first = compute(tmp_path / "a", bare)
    reader = open_published(tmp_path / "a")
    with Attempt.extend(tmp_path / "a", tiny.plan) as attempt:
        assert attempt.pending() == []
        assert attempt.arrays == list(bare.arrays)
        attempt.gather()
        np.testing.assert_array_equal(attempt.so_far().read("logits"), tiny.arrays["logits"])
        attempt.write_stage("pattern", {"pattern": tiny.arrays["pattern"]}, {})
    with Attempt.unfinished(tmp_path / "a", tiny.plan) as attempt:
        assert list(attempt.stages()) == ["pattern"]
        for stage, arrays in tiny.stages().items():
            if stage not in ("pattern", "image-layout"):
                attempt.write_stage(stage, arrays, {})
        manifest = attempt.publish(tiny.late_attrs, RUN)
    assert (first.attempt, manifest.attempt) == ("attempt-1", "attempt-2")
    assert manifest.content == content
    same = attempt_path(tmp_path / "a", 2) / "residual" / "c.0.0.0.0"
    assert same.samefile(attempt_path(tmp_path / "a", 1) / "residual" / "c.0.0.0.0")
    np.testing.assert_array_equal(reader.read("logits"), tiny.arrays["logits"])
    assert verify(tmp_path / "a") == []


def test_where_there_are_no_hard_links_a_study_is_extended_by_copies(tmp_path, tiny, content, monkeypatch):
    def refuse(path, target):
        raise OSError(errno.EPERM, "no hard links here")

    compute(tmp_path / "a", tiny)
    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    with Attempt.extend(tmp_path / "a", tiny.plan) as attempt:
        assert attempt.publish(tiny.late_attrs, RUN).content == content
    assert verify(tmp_path / "a") == []


def test_what_is_not_published_cannot_be_extended(tmp_path, tiny):
    with pytest.raises(StudyNotFoundError):
        Attempt.extend(tmp_path / "a", tiny.plan)


def test_what_is_not_finished_is_not_published(tmp_path, tiny):
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny, [0, 2])
        with pytest.raises(StoreError, match="1 of 3 units are not written yet; the first is 1"):
            attempt.gather()
        with pytest.raises(StoreError, match="the first is 1"):
            attempt.publish({}, {})
        write_units(attempt, tiny)
        with pytest.raises(StoreError, match=r"target is not written yet; gather\(\)"):
            attempt.publish({}, {})
        assert not manifest_path(tmp_path / "a").exists()
        finish(attempt, tiny)


def test_files_that_nobody_wrote_are_not_published_and_leftovers_of_a_kill_go(tmp_path, tiny, content):
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny)
        (attempt.path / "residual" / "c.0.0.0.0.1234.partial").write_bytes(b"half")
        (attempt.path / "pixels" / "notes.txt").write_text("mine")
        with pytest.raises(StoreError, match=r"pixels/notes\.txt; move them"):
            finish(attempt, tiny)
        (attempt.path / "pixels" / "notes.txt").unlink()
        assert finish(attempt, tiny).content == content
    assert not list((tmp_path / "a").rglob("*.partial"))


def test_a_unit_whose_objects_are_gone_is_pending_again(tmp_path, tiny, content):
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny)
        (attempt.path / "residual" / "c.2.0.0.0").unlink()
        part_path(tmp_path / "a", 1, 2).write_bytes(b"")
        assert attempt.pending() == [1, 2]
        ack_path(tmp_path / "a", 1, 0).write_text("{")
        assert attempt.pending() == [0, 1, 2]
        write_units(attempt, tiny)
        assert finish(attempt, tiny).content == content


def test_a_changed_part_is_found_before_it_is_gathered_and_its_unit_computed_anew(tmp_path, tiny, content):
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny)
        part = part_path(tmp_path / "a", 1, 1)
        part.write_bytes(part.read_bytes()[:-1] + b"\1")
        with pytest.raises(DamagedError, match="unit-00001") as raised:
            attempt.gather()
        assert raised.value.objects == ["attempt-1.work/parts/unit-00001.npz"]
        assert attempt.pending() == [1]
        write_units(attempt, tiny)
        assert finish(attempt, tiny).content == content


def test_an_object_gone_before_publishing_is_named(tmp_path, tiny):
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny)
        (attempt.path / "class" / "c.0").unlink()
        with pytest.raises(DamagedError, match=r"class/c\.0"):
            finish(attempt, tiny)


def test_a_study_of_a_newer_schema_is_not_written(tmp_path, tiny):
    manifest = compute(tmp_path / "a", tiny)
    newer = replace(manifest, schema_version=schema.VERSION + 1, headscope="9.0")
    newer.publish(tmp_path / "a")
    before = manifest_path(tmp_path / "a").read_bytes()
    for write in (lambda: begin(tmp_path / "a", tiny), lambda: Attempt.unfinished(tmp_path / "a", tiny.plan)):
        with pytest.raises(NewerSchemaError, match=r"9\.0"):
            write()
    assert manifest_path(tmp_path / "a").read_bytes() == before
    assert attempt_path(tmp_path / "a", 1).is_dir()


def test_a_study_with_a_damaged_manifest_is_repaired_by_a_new_run(tmp_path, tiny, content):
    compute(tmp_path / "a", tiny)
    manifest_path(tmp_path / "a").write_text("{")
    with pytest.raises(DamagedError):
        open_published(tmp_path / "a")
    assert compute(tmp_path / "a", tiny).content == content
    assert open_published(tmp_path / "a").manifest.attempt == "attempt-2"


def test_a_crash_after_publishing_leaves_a_published_study_that_is_not_resumed(tmp_path, tiny, monkeypatch):
    rmtree = shutil.rmtree

    def die(path, **options):
        if path == work_path(tmp_path / "a", 1):
            raise KeyboardInterrupt
        rmtree(path, **options)

    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny)
        monkeypatch.setattr("store.attempt.shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            finish(attempt, tiny)
        monkeypatch.undo()
    assert open_published(tmp_path / "a").manifest.attempt == "attempt-1"
    assert work_path(tmp_path / "a", 1).exists()
    assert Attempt.unfinished(tmp_path / "a", tiny.plan) is None
    assert not work_path(tmp_path / "a", 1).exists()
    assert open_published(tmp_path / "a").manifest.attempt == "attempt-1"


def test_a_study_moved_elsewhere_is_the_same_study(tmp_path, tiny, content):
    compute(tmp_path / "a", tiny)
    shutil.move(tmp_path / "a", tmp_path / "elsewhere")
    assert open_published(tmp_path / "elsewhere").manifest.content == content
    with pytest.raises(StudyNotFoundError):
        Manifest.load(tmp_path / "a")


def write_step(attempt, tiny, step, hold):
    """One step of an attempt that has all those before it."""
    if step == "unit":
        attempt.write_unit(1, tiny.unit(attempt.units[1]), {"unit": 1}, hold)
    elif step == "gather":
        attempt.gather(hold)
    elif step == "stage":
        attempt.write_stage("pattern", {"pattern": tiny.arrays["pattern"]}, {}, hold)
    else:
        attempt.publish(tiny.late_attrs, RUN, hold)


def before(study, tiny, step):
    """An attempt at which `step` is next."""
    with begin(study, tiny) as attempt:
        write_units(attempt, tiny, [0, 2] if step == "unit" else None)
        if step in ("stage", "publish"):
            attempt.gather()
        if step == "publish":
            for stage, arrays in tiny.stages().items():
                attempt.write_stage(stage, arrays, {})


def no_lease():
    raise LostLeaseError("taken over")


def staged(study):
    return list(staging_path(study, 1).iterdir())


STEPS = ("unit", "gather", "stage", "publish")


def test_several_join_an_attempt_and_write_its_units_at_once(tmp_path, tiny, content):
    begin(tmp_path / "a", tiny).close()
    joined = [Attempt.join(tmp_path / "a", tiny.plan, fence) for fence in (1, 2, 3)]
    for unit, attempt in enumerate(joined):
        attempt.write_unit(unit, tiny.unit(attempt.units[unit]), {})
    assert all(attempt.pending() == [] for attempt in joined)
    with pytest.raises(StudyBusyError, match="workers of the queue"):
        Attempt.unfinished(tmp_path / "a", tiny.plan)
    joined[0].gather()
    assert joined[1].gathered
    for number, (stage, arrays) in enumerate(tiny.stages().items()):
        joined[number % 3].write_stage(stage, arrays, {})
    assert joined[2].publish(tiny.late_attrs, RUN).content == content
    assert Attempt.join(tmp_path / "a", tiny.plan, 4) is None
    for attempt in joined:
        attempt.close()


@pytest.mark.parametrize("step", STEPS)
def test_without_its_lease_a_step_places_nothing_and_leaves_nothing(tmp_path, tiny, content, step):
    before(tmp_path / "a", tiny, step)
    there = sorted((tmp_path / "a").rglob("*"))
    with Attempt.join(tmp_path / "a", tiny.plan, 1) as attempt, pytest.raises(LostLeaseError):
        write_step(attempt, tiny, step, no_lease)
    assert sorted((tmp_path / "a").rglob("*")) == there
    assert compute(tmp_path / "a", tiny).content == content


@pytest.mark.parametrize("step", STEPS)
def test_who_is_stopped_behind_its_fence_check_changes_nothing_that_the_next_one_wrote(tmp_path, tiny, content, step):
    before(tmp_path / "a", tiny, step)
    late = {}

    def stopped():
        """While the first is stopped here, its lease lapses, and the next one does the step."""
        with Attempt.join(tmp_path / "a", tiny.plan, 2) as other:
            write_step(other, tiny, step, lambda: None)
        late.update({path: path.stat().st_ino for path in (tmp_path / "a").rglob("*") if path.is_file()})

    with Attempt.join(tmp_path / "a", tiny.plan, 1) as attempt, contextlib.suppress(LostLeaseError):
        write_step(attempt, tiny, step, stopped)
    assert {path: path.stat().st_ino for path in (tmp_path / "a").rglob("*") if path.is_file()} == late
    assert compute(tmp_path / "a", tiny).content == content if step != "publish" else verify(tmp_path / "a") == []


@pytest.mark.parametrize("step", STEPS)
def test_what_a_killed_process_put_goes_when_its_step_is_taken_over(tmp_path, tiny, step):
    before(tmp_path / "a", tiny, step)
    name = {"unit": "unit-00001", "stage": "stage-pattern"}.get(step, step)
    for number in ("1", "2.taken"):
        (staging_path(tmp_path / "a", 1) / f"{name}.{number}").mkdir()
    (staging_path(tmp_path / "a", 1) / "unit-00000.7").mkdir()

    def hold():
        assert sorted(path.name for path in staged(tmp_path / "a")) == sorted(["unit-00000.7", f"{name}.3"])
        no_lease()

    with Attempt.join(tmp_path / "a", tiny.plan, 3) as attempt, pytest.raises(LostLeaseError):
        write_step(attempt, tiny, step, hold)
    with Attempt.unfinished(tmp_path / "a", tiny.plan):
        assert staged(tmp_path / "a") == []


def test_one_who_wakes_late_does_not_take_over_from_the_next(tmp_path, tiny, content):
    before(tmp_path / "a", tiny, "unit")

    def overtaken():
        with Attempt.join(tmp_path / "a", tiny.plan, 1) as late, pytest.raises(LostLeaseError):
            write_step(late, tiny, "unit", no_lease)

    with Attempt.join(tmp_path / "a", tiny.plan, 2) as attempt:
        write_step(attempt, tiny, "unit", overtaken)
        assert attempt.pending() == []
    assert compute(tmp_path / "a", tiny).content == content


def test_a_unit_that_is_written_again_has_its_rows_gathered_again(tmp_path, tiny, content):
    with begin(tmp_path / "a", tiny) as attempt:
        write_units(attempt, tiny)
        attempt.gather()
        (attempt.path / "residual" / "c.2.0.0.0").unlink()
        write_units(attempt, tiny)
        assert not attempt.gathered
        assert finish(attempt, tiny).content == content


def test_only_attempts_of_ours_are_forgotten_and_never_what_is_published(tmp_path, tiny):
    study = tmp_path / "a"
    compute(study, tiny)
    for plan in ({"seed": 1}, {"seed": 2}):
        begin(study, tiny, plan=plan, facts={"job": plan["seed"]}).close()
    forget(study, lambda number, facts: facts.get("job") == 2)
    assert Attempt.unfinished(study, {"seed": 2}) is None
    Attempt.unfinished(study, {"seed": 1}).close()
    forget(study, lambda number, facts: True)
    assert open_published(study).manifest.attempt == "attempt-1"
    delete(study)
    begin(study, tiny).close()
    forget(study, lambda number, facts: True)
    forget(study, lambda number, facts: True)
    assert not study.exists()
