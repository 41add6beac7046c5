"""An analysis that nobody knew before is asked for, computed, published and shown, with no edit of jobs or workers.

It needs gradients, is cut into units, and is killed, cancelled, dropped and damaged, as any may be.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import field_validator
from sqlalchemy import create_engine, select

from analyses import Analysis, AnalysisRequest, ArraySpec, registry
from dashboard.views import jobs as jobs_page
from jobs import requests, sweep, tables
from jobs.client import Desk
from jobs.ledger import CLEAN
from jobs.work import Step
from precompute.unit import Unit
from store import derived, failpoints
from store.paths import study_path
from store.settings import Settings
from store.study import delete, open_published
from tests.pictures import picture_folder
from tests.test_prune_job import PLAIN, compute
from workers import derived as worker
from workers import doers, study_model
from workers.runner import run_unit

ROOT = Path(__file__).parents[1]
FUNCTION = f"{__name__}:gradient_norms"
# One process that imports once, and forks for each failpoint a worker that is killed there; it prints how each ended.
WORKERS = """
import os, sys
from pathlib import Path
from store import failpoints
from tests.test_request_analysis import Lab, declare

declare()
children = {}
for setting in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        lab = Lab(Path(sys.argv[1]) / setting.partition(":")[0])
        lab.ask()
        os.environ[failpoints.VARIABLE] = setting
        lab.work("killed")
        os._exit(0)
    children[setting] = child
for setting, child in children.items():
    print(setting, os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


class NormRequest(AnalysisRequest):
    """How strongly the logits depend on each block.

    Attributes:
        power: 1 or 2.
    """

    power: int = 2

    @field_validator("power")
    @classmethod
    def _known(cls, power: int) -> int:
        if power not in (1, 2):
            raise ValueError(f"power {power} is not 1 or 2")
        return power


MADE_UP = Analysis(
    name="made-up",
    title="Gradient norm",
    when="request",
    request=NormRequest,
    function=FUNCTION,
    cut=("image",),
    unit_images=2,
    needs=("gradients", "classifier"),
    reads=("image", "pixels", "logits"),
    arrays={
        "image": ArraySpec(("image",), "string", "Ids.", computed_by=FUNCTION, chunking="whole"),
        "norm": ArraySpec(("image", "layer"), "float32", "Norm of the gradient.", computed_by=FUNCTION),
    },
)
CALLS: Counter[tuple[int, ...]] = Counter()


def gradient_norms(unit: Unit):
    """Norm of the gradient of the largest logit by the weights that make each block's queries, keys and values."""
    assert torch.is_grad_enabled()
    CALLS[tuple(unit.images)] += 1
    vit, rows = unit.open_model(), []
    for image in unit.images:
        unit.check()
        logits = vit.forward(torch.from_numpy(unit.study.read("pixels", [image])))
        weights = [block.attn.qkv.weight for block in vit.model.blocks]
        rows.append([float(grad.norm(unit.request.power)) for grad in torch.autograd.grad(logits.max(), weights)])
    unit.progress(len(rows), len(rows))
    images = unit.study.read("image", unit.images)
    return {"image": images, "norm": np.array(rows, np.float32)}, {"power": unit.request.power}


def declare():
    """Have the analysis known, as the file of a package would."""
    registry.ANALYSES["made-up"] = MADE_UP


class Lab:
    """A data folder with a study, a desk, and workers that do one unit after the other in this process."""

    def __init__(self, data: Path) -> None:
        self.settings = Settings(data=data)
        self.desk = Desk(self.settings)
        self.study = open_published(study_path(self.settings.studies, PLAIN))
        self.request = derived.request_of(self.study, "made-up", {"images": self.study.image_ids[:5], "power": 1})

    def ask(self):
        """The job of the request, and whether it is new."""
        submitted = self.desk.submit(self.request, "ann")
        return submitted.job, submitted.new

    def work(self, bell="bell", units=99):
        """Do what is to be done; how many units that were."""
        for done in range(units):
            lease = self.desk.ledger.take("interactive", "worker", bell)
            if lease is None:
                return done
            run_unit(self.settings, self.desk.ledger, lease)
        return units

    def state(self, job):
        return self.desk.ledger.job(job.id).state

    def attempts(self):
        """How each attempt ended, by the unit's name, in order."""
        with create_engine(self.settings.ledger_url).connect() as conn:
            a, u = tables.attempts, tables.units
            on = (a.c.job == u.c.job) & (a.c.phase == u.c.phase) & (a.c.number == u.c.number)
            rows = conn.execute(select(u.c.name, a.c.outcome).select_from(a.join(u, on)).order_by(a.c.fence))
            return [tuple(row) for row in rows]

    @property
    def root(self):
        return self.study.folder / "derived" / "made-up"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data folder with a study of six pictures."""
    base = tmp_path_factory.mktemp("lab")
    settings = Settings(data=base / "data")
    compute(PLAIN, picture_folder(base / "pictures", each=2, size=64), settings, random_weights=True)
    return settings.data


@pytest.fixture
def lab(made, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.ANALYSES, "made-up", MADE_UP)
    monkeypatch.setattr("jobs.client.ring", lambda *args: None)
    CALLS.clear()
    for cache in (study_model.model_cache(), worker.base_cache(), worker._studies):
        cache.clear()
    shutil.copytree(made / "studies" / PLAIN, tmp_path / "data" / "studies" / PLAIN)
    return Lab(tmp_path / "data")


def expected(lab):
    """The norms, computed without any of this."""
    vit = study_model.open_model_of(lab.study, lab.settings, "cpu")
    vit.model.requires_grad_(True)
    rows = []
    for image in range(5):
        vit.model.zero_grad()
        vit.model(vit.normalised(torch.from_numpy(lab.study.read("pixels", [image])))).max().backward()
        rows.append([block.attn.qkv.weight.grad.abs().sum().item() for block in vit.model.blocks])
    return np.array(rows, np.float32)


def test_the_declaration_alone_makes_it_a_kind_of_job(lab):
    assert requests.kinds()[-1] == "made-up"
    assert requests.queue_of("made-up") == requests.INTERACTIVE
    assert requests.from_json("made-up", requests.to_json(lab.request)) == lab.request
    with pytest.raises(ValueError, match="power of a made-up job: power 3 is not 1 or 2"):
        requests.from_json("made-up", requests.to_json(lab.request) | {"power": 3})
    steps = requests.steps_of(lab.request)
    assert [step.name for step in steps] == ["images 0 to 1", "images 2 to 3", "images 4 to 4", "join"]
    assert [step.images for step in steps] == [2, 2, 1, 0]
    assert doers.doer("made-up") is worker.do
    job, new = lab.ask()
    assert new
    assert jobs_page.row(job, job.submitted)["kind"] == "gradient norm"
    assert dict(jobs_page.asked_for(job, lab.settings)) == {"Study": PLAIN, "Images": "5"}
    assert jobs_page.shown_kinds()["made-up"] == ("made-up",)


def test_it_is_computed_with_gradients_and_published_once_however_often_it_is_asked_for(lab):
    job, _ = lab.ask()
    assert lab.ask() == (job, False)
    assert lab.work() == 4
    assert lab.state(job) == "done"
    found = lab.study.derived("made-up", lab.request)
    np.testing.assert_allclose(found.read("norm"), expected(lab), rtol=1e-4)
    assert [str(image) for image in found.read("image")] == list(lab.request.images)
    assert found.attrs["power"] == 1
    assert lab.desk.ledger.result(job.key) == {"study": PLAIN, "analysis": "made-up", "key": found.key}
    again, new = lab.ask()
    assert (again.id, new) == (job.id, False)
    assert CALLS == {(0, 1): 1, (2, 3): 1, (4,): 1}
    assert list(lab.root.iterdir()) == [found.path]
    vit = study_model.cached_model_of(lab.study, lab.settings, "cpu")
    assert not any(weight.requires_grad or weight.grad is not None for weight in vit.model.parameters())


def test_a_model_that_is_used_without_a_base_pass_is_proved_all_the_same(lab, monkeypatch):
    real = worker.base_pass

    def other(vit, pixels):
        base = real(vit, pixels)
        return replace(base, logits=base.logits * 1.5)

    monkeypatch.setattr(worker, "base_pass", other)
    job, _ = lab.ask()
    lab.work()
    assert lab.state(job) == "failed"
    assert "no longer gives what study" in lab.desk.ledger.job(job.id).cause
    assert not any(derived.every(lab.study.folder))


def test_what_a_study_lacks_is_said(lab, monkeypatch):
    monkeypatch.setitem(registry.ANALYSES, "made-up", Analysis(**(vars(MADE_UP) | {"needs": ("masks",)})))
    job, _ = lab.ask()
    lab.work()
    said = f"Gradient norm cannot be computed: study {PLAIN} has no masks of objects"
    assert lab.desk.ledger.job(job.id).cause == said


def test_what_was_dropped_or_damaged_is_computed_again_once(lab):
    lab.ask()
    lab.work()
    folder = lab.study.derived("made-up", lab.request).path
    before = folder.joinpath("norm", "c.0.0").read_bytes()
    for spoil in (derived.remove, lambda folder: folder.joinpath("norm", "c.0.0").write_bytes(b"")):
        CALLS.clear()
        spoil(folder)
        job, new = lab.ask()
        assert new, "a job whose result is gone is no answer"
        assert lab.ask() == (job, False)
        lab.work()
        assert lab.state(job) == "done"
        assert set(CALLS.values()) == {1}
        assert folder.joinpath("norm", "c.0.0").read_bytes() == before


def test_a_result_that_is_there_though_the_ledger_lost_its_job_is_not_computed_again(lab):
    lab.ask()
    lab.work()
    (lab.settings.data / "headscope.db").unlink()
    for each in lab.settings.data.glob("headscope.db-*"):
        each.unlink()
    anew = Lab(lab.settings.data)
    CALLS.clear()
    job, new = anew.ask()
    assert new
    anew.work()
    assert anew.state(job) == "done"
    assert not CALLS


def test_a_cancelled_job_leaves_nothing_and_its_parts_are_cleaned_away_first(lab):
    job, _ = lab.ask()
    lab.work(units=1)
    (kept,) = lab.root.iterdir()
    assert kept.name.endswith(f".{job.id}.work")
    lab.desk.cancel(job.id, "ann")
    other, new = lab.ask()
    assert new
    lab.work()
    assert lab.attempts()[1] == (CLEAN.name, "done")
    assert lab.state(other) == "done"
    assert [path.name for path in lab.root.iterdir()] == [lab.study.derived("made-up", lab.request).key]
    assert CALLS[(0, 1)] == 2, "parts of another job are not taken"


def test_cancelled_while_a_unit_is_computed_nothing_is_kept(lab, monkeypatch):
    job, _ = lab.ask()
    real = derived.Writer.write_part

    def write(self, part, arrays, attrs, hold):
        lab.desk.cancel(job.id, "ann")
        real(self, part, arrays, attrs, hold)

    monkeypatch.setattr(derived.Writer, "write_part", write)
    lab.work()
    assert lab.attempts() == [("images 0 to 1", "cancelled"), (CLEAN.name, "done")]
    assert list(lab.root.iterdir()) == []


def test_a_study_that_goes_meanwhile_takes_the_job_with_it(lab):
    job, _ = lab.ask()
    lab.work(units=2)
    delete(lab.study.folder)
    lab.work()
    assert lab.state(job) == "failed"
    assert f"study {PLAIN} is gone" in lab.desk.ledger.job(job.id).cause
    assert not lab.study.folder.exists()
    cancelled = lab.desk.submit(lab.request, "bob").job
    lab.desk.cancel(cancelled.id, "bob")
    assert lab.work() == 0


def test_a_unit_that_another_took_over_keeps_nothing(lab):
    job, _ = lab.ask()
    late = lab.desk.ledger.take("interactive", "slow", "slow")
    lab.desk.ledger.lose(late.fence, "it slept")
    lab.work()
    assert lab.state(job) == "done"
    stamp = lab.study.derived("made-up", lab.request).path.stat().st_mtime_ns
    derived.remove(lab.study.derived("made-up", lab.request).path)
    run_unit(lab.settings, lab.desk.ledger, late)
    assert stamp
    assert not any(derived.every(lab.study.folder))
    assert lab.attempts()[0] == ("images 0 to 1", "lost")


def test_an_older_plan_ends_with_words(lab):
    ledger = lab.desk.ledger
    steps = [Step(0, 0, "images 0 to 4", 5), Step(1, 0, "sum up")]
    old = requests.to_json(lab.request) | {"content": "0" * 64}
    job, _ = ledger.submit("made-up", "interactive", old, "k", "t", "ann", steps, answered_once=False)
    lab.work()
    assert "was computed anew; open it again, and ask again" in ledger.job(job.id).cause


def test_what_nobody_can_compute_any_more_ends_with_words(lab, monkeypatch):
    job, _ = lab.ask()
    monkeypatch.delitem(registry.ANALYSES, "made-up")
    lab.work()
    assert lab.desk.ledger.job(job.id).cause.startswith("no analysis is called made-up here; install the package")
    with pytest.raises(ValueError, match="no analysis has a NormRequest"):
        requests.kind_of(lab.request)
    ledger = lab.desk.ledger
    odd = {"study": PLAIN, "content": "0", "images": [], "heads": [[0, 0]]}
    job, _ = ledger.submit(
        "prune", "interactive", odd, "k", "t", "ann", [Step(0, 0, "images 0 to 0")], answered_once=True
    )
    lab.work()
    assert ledger.job(job.id).cause == "images of a prune job: 0 images; give 1 to 5,000; ask for it again"


def test_sweeping_spares_what_live_jobs_write_and_drops_what_is_beyond_the_quota(lab):
    job, _ = lab.ask()
    lab.work(units=1)
    sweep.sweep_results(lab.settings, lab.desk.ledger)
    assert len(list(lab.root.glob("*.work"))) == 1
    lab.work()
    assert lab.state(job) == "done"
    folder = lab.study.derived("made-up", lab.request).path
    poor = Settings(data=lab.settings.data, derived_quota_gb=0)
    sweep.sweep_results(poor, lab.desk.ledger)
    assert folder.exists(), "somebody may be reading it"
    os.utime(folder / "MANIFEST.json", (1, 1))
    sweep.sweep_results(poor, lab.desk.ledger)
    assert not folder.exists()


def test_a_worker_killed_at_each_failpoint_leaves_nothing_half_and_the_job_is_done_once(lab, tmp_path, monkeypatch):
    lab.ask()
    lab.work()
    content = lab.study.derived("made-up", lab.request).manifest.content
    points = [f"{name}:2:kill" if "part" in name else f"{name}:kill" for name in failpoints.DERIVED]
    for name in failpoints.DERIVED:
        shutil.copytree(lab.study.folder, tmp_path / "many" / name / "studies" / PLAIN)
        shutil.rmtree(tmp_path / "many" / name / "studies" / PLAIN / "derived")
    command = [sys.executable, "-c", WORKERS, str(tmp_path / "many"), *points]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.stdout.splitlines() == [f"{point} {int(signal.SIGKILL)}" for point in points], done.stderr
    for name in failpoints.DERIVED:
        after = Lab(tmp_path / "many" / name)
        (job,) = after.desk.ledger.jobs()
        published = name in ("after-result-publish", "after-result-flush")
        assert len(after.study.derived_keys("made-up")) == published, name
        CALLS.clear()
        after.desk.ledger.crashed("killed", "it was killed", counts=False)
        after.work()
        assert after.state(job) == "done"
        assert after.study.derived("made-up", after.request).manifest.content == content, name
        outcomes = Counter(outcome for _, outcome in after.attempts())
        assert outcomes == {"done": 4, "lost": 1}, name
        assert set(CALLS.values()) <= {1}, name
        assert not CALLS or "part" in name, name
        assert [path.name for path in after.root.iterdir()] == [after.study.derived_keys("made-up")[0]]
