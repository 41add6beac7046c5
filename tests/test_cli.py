"""The command line: what it prints, and one line for every mistake."""

import json
import threading
import time
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import headscope
from dashboard.accounts import Accounts
from jobs.ledger import Ledger
from store.errors import StudyNotFoundError
from store.paths import StudyNameError
from store.settings import Settings
from tests.pictures import picture_folder
from tests.studies import write_tiny_study
from workers import terminal

runner = CliRunner()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSCOPE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def tiny(data):
    return write_tiny_study(data / "studies" / "tiny")


def run(*arguments, code=0, typed=None):
    result = runner.invoke(headscope.app, [str(a) for a in arguments], input=typed)
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
    assert headscope.open_study(str(tiny)).path == headscope.open_study(tiny).path
    with pytest.raises(StudyNotFoundError):
        headscope.open_study("other")
    with pytest.raises(StudyNotFoundError, match="no study at data/other"):
        headscope.open_study("data/other")
    with pytest.raises(StudyNameError):
        headscope.open_study("..")


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
        (["precompute", "test_vit", ".", "--weights", "ema"], "give --checkpoint FILE"),
        (["precompute", "test_vit", ".", "--crop-pct", "2e-9"], "a share of 0.1 to 1"),
        (["precompute", "test_vit", ".", "--mean", "123.7,116.3,103.5"], "of 255 by 255"),
        (["precompute", "test_vit", ".", "--std", "0"], "give over 0, up to 1"),
        (["precompute", "test_vit", ".", "--pool", "sum"], "token, avg"),
        (["precompute", "test_vit", ".", "--classes", "imagenet-9k", "--random-weights"], "or one of imagenet-1k"),
        (["models", "resnet50"], "no supported model"),
        (["submit", "test_vit", ".", "--device", "tpu"], "auto, cpu, cuda"),
        (["jobs", "abc"], "no job abc"),
        (["cancel", "abc"], "no job abc"),
        (["worker", "--queue", "fast"], "interactive, bulk"),
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


ASKED = ("submit", "test_vit", "photos", "--random-weights", "--name", "tiny")
PRICE = {
    "bytes": 5_000_000,
    "attention_bytes": 0,
    "attention": "rebuilt",
    "seconds": 90.0,
    "images": 40,
    "mapped": 0,
    "after_seconds": 0,
    "unit_images": 16,
}


@pytest.fixture
def ledger(data):
    return Ledger(Settings().ledger_url)


@pytest.fixture
def work(ledger):
    """Has the next unit of a queue ended by a stand-in for a worker, once somebody asks for it."""
    threads = []

    def begin(queue, end):
        def wait_and_end():
            while (lease := ledger.take(queue, "stand-in", "none")) is None:
                time.sleep(0.05)
            end(lease)

        threads.append(threading.Thread(target=wait_and_end))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join()


def test_what_is_submitted_waits_for_a_worker_is_listed_and_cancelled(data, ledger):
    asked = run(*ASKED)
    job = asked.stdout.strip()
    assert "the queue does not answer" in asked.stderr
    assert "headscope worker --queue bulk" in asked.stderr
    assert "asked for already" in run(*ASKED).stderr
    assert "headscope worker" not in _seen(ledger).stderr

    listed = run("jobs").stdout
    assert job[:8] in listed
    assert "queued" in listed
    assert json.loads(run("jobs", "--json").stdout)[0]["id"] == job
    assert job in run("jobs", job[:4]).stdout
    assert "is cancelled" in run("cancel", job[:6]).stdout
    assert "cancelled already" in run("cancel", job).stdout
    told = json.loads(run("jobs", job, "--json").stdout)
    assert told["state"] == "cancelled"
    assert told["cause"] == f"cancelled by {told['who']}"


def _seen(ledger):
    ledger.here("one", "bulk", "cpu")
    return run(*ASKED)


def test_paths_are_submitted_as_the_person_sees_them_for_workers_in_other_folders(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = run(*ASKED, "--masks", "~/masks", "--json")
    request = json.loads(asked.stdout)["request"]
    assert request["images"] == str(tmp_path / "photos")
    assert request["masks"] == str(Path("~/masks").expanduser())


def test_waiting_ends_with_the_study_or_with_the_cause_and_the_log(data, tiny, ledger, work):
    work("bulk", lambda lease: ledger.finish(lease, result={"study": "tiny"}))
    assert "tiny is published" in run(*ASKED, "--wait").stdout
    work("bulk", lambda lease: ledger.fail(lease, "no [such] weights", "last line", final=True))
    failed = run(*ASKED, "--wait", code=headscope.FAILED)
    assert "tiny: failed: no [such] weights" in failed.stderr
    assert "last line" in failed.stderr
    assert "no [such] weights" in run("jobs").stdout
    assert "last line" in run("jobs", ledger.jobs()[0].id).stdout
    work("bulk", lambda lease: ledger.cancel(lease.job, "someone"))
    assert "cancelled by someone" in run(*ASKED, "--wait", code=headscope.FAILED).stderr


def test_ctrl_c_while_waiting_leaves_the_job_and_says_how_to_cancel_it(data, ledger, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal.time, "sleep", interrupt)
    stopped = run(*ASKED, "--wait", code=headscope.STOPPED)
    (job,) = ledger.jobs()
    assert f"headscope cancel {job.id[:8]}" in stopped.stderr
    assert job.state == "queued"


def test_a_worker_tells_the_price_or_why_there_is_none(data, ledger, work):
    work("interactive", lambda lease: ledger.finish(lease, result=PRICE))
    assert "price: 5 MB; 1.5 minutes for 40 images" in run(*ASKED, "--dry-run").stdout
    refused = {"refused": {"field": "images", "message": "there is no folder photos"}}
    work("interactive", lambda lease: ledger.finish(lease, result=refused))
    assert run(*ASKED, "--dry-run", code=1).stderr.endswith("error: there is no folder photos\n")


def test_submit_takes_what_precompute_takes():
    commands = get_command(headscope.app).commands
    options = {name: {each.name for each in commands[name].params} for name in ("precompute", "submit")}
    assert options["submit"] == options["precompute"] | {"wait"}


PASSWORD = "correct horse battery"


def test_a_seed_that_no_layout_takes_is_refused_before_anything_is_computed(data):
    for seed in ("-1", str(2**32)):
        assert "than or equal to" in run("precompute", "test_vit", ".", "--seed", seed, code=2).stderr


def test_names_with_brackets_are_shown_as_they_are(data, tiny, monkeypatch, capsys):
    study = headscope.open_study("tiny")
    odd = {"folder": "set[red]x", "quarantined": [{"image": "a[/b].png", "reason": "cut [short]"}]}
    monkeypatch.setitem(study.attrs, "images", study.attrs["images"] | odd)
    monkeypatch.setitem(study.attrs, "left_out", {"jsd": "[b]n has no classifier"})
    terminal.print_info(study)
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("set[red]x", "a[/b].png: cut [short]", "jsd: [b]n has no classifier"))


def test_users_are_added_listed_changed_and_removed(data):
    assert "headscope user add NAME --role admin" in run("user", "list").stdout
    said = run("user", "add", "Ann", "--role", "analyst", "--password-stdin", typed=f"{PASSWORD}\n")
    assert said.stdout == "ann is added, with the role analyst\n"
    run("user", "add", "bob", "--password-stdin", typed=PASSWORD)
    accounts = Accounts(Settings().ledger_url)
    assert accounts.check("ann", PASSWORD).role == "analyst"
    assert accounts.check("bob", PASSWORD).role == "viewer"
    listed = json.loads(run("user", "list", "--json").stdout)
    assert [(user["name"], user["role"]) for user in listed] == [("ann", "analyst"), ("bob", "viewer")]
    shown = run("user", "list").stdout
    assert "ann" in shown and "analyst" in shown and PASSWORD not in shown and "argon2" not in shown
    assert run("user", "role", "bob", "admin").stdout == "bob has the role admin now\n"
    run("user", "password", "bob", "--password-stdin", typed="another horse\r\n")
    assert accounts.check("bob", "another horse").role == "admin"
    assert run("user", "remove", "BOB").stdout == "bob is removed\n"
    assert accounts.check("bob", "another horse") is None


def test_a_password_is_asked_for_twice_at_a_terminal_and_not_shown(data, monkeypatch):
    monkeypatch.setattr(headscope, "_at_terminal", lambda: True)
    said = run("user", "add", "ann", typed=f"{PASSWORD}\nsomething else\n{PASSWORD}\n{PASSWORD}\n")
    assert "do not match" in said.output
    assert PASSWORD not in said.output
    assert Accounts(Settings().ledger_url).check("ann", PASSWORD)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "a b", "--password-stdin"], "letters, digits"),
        (["add", "ann", "--role", "root", "--password-stdin"], "viewer, analyst or admin"),
        (["add", "ann", "--password-stdin"], "has 5 characters; give 12 to 1,000"),
        (["add", "ann"], "give --password-stdin"),
        (["add", "eve", "--password-stdin"], "there is a user eve already"),
        (["role", "ann", "admin"], "there is no user ann; `headscope user list`"),
        (["role", "eve", "king"], "viewer, analyst or admin"),
        (["password", "ann"], "there is no user ann"),
        (["password", "eve", "--password-stdin"], "has 5 characters"),
        (["remove", "ann"], "there is no user ann"),
    ],
)
def test_a_mistake_about_users_gets_one_line_and_changes_nothing(data, arguments, said):
    accounts = Accounts(Settings().ledger_url)
    eve = accounts.add("eve", "viewer", PASSWORD)
    result = run("user", *arguments, code=1, typed="short\n")
    assert said in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert accounts.users() == [eve]


def test_where_the_labs_proxy_lets_people_in_nobody_needs_a_password(data, monkeypatch):
    monkeypatch.setenv("HEADSCOPE_TRUSTED_HEADER", "X-Remote-User")
    run("user", "add", "ann@lab.org", "--role", "admin")
    (ann,) = Accounts(Settings().ledger_url).users()
    assert (ann.name, ann.role, ann.has_password) == ("ann@lab.org", "admin", False)


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_the_page_is_not_served_to_other_machines_before_anybody_is_kept_out(data, command, monkeypatch):
    def begun(*given):
        raise AssertionError("something was begun")

    for name in ("workers.embedded.Embedded.__init__", "dashboard.app.serve", "headscope._compute_demo"):
        monkeypatch.setattr(name, begun)
    said = run(command, "--host", "0.0.0.0", code=1)
    secret, user = said.stderr.splitlines()
    assert secret.startswith("error: HEADSCOPE_SECRET is not set; run `headscope init`")
    assert user.startswith("error: nobody could sign in") and "`headscope user add NAME --role admin`" in user
    monkeypatch.setenv("HEADSCOPE_SECRET", "changeme")
    assert "HEADSCOPE_SECRET has 8 characters" in run(command, "--host", "0.0.0.0", code=1).stderr
    monkeypatch.setenv("HEADSCOPE_SECRET", "8f3a61c0d92be47715f08c6a2d94e3b1")
    assert run(command, "--host", "0.0.0.0", code=1).stderr.splitlines() == [user]
    assert not (data / "studies").exists()
