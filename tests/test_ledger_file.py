"""The ledger's file: its owner's alone, copied while it is used, and damaged, gone or not writable, said in words."""

import os
import shutil
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

import headscope
from dashboard.app import create_app
from jobs.database import DamagedLedgerError, LedgerUnavailableError, ReadOnlyLedgerError
from jobs.ledger import Ledger
from jobs.work import Step
from store.env_file import write_env
from store.settings import Settings
from tests.test_embedded import free_port
from workers import embedded


def cli(*arguments: object) -> tuple[int, str]:
    """Exit code, and what stands on stderr."""
    done = CliRunner().invoke(headscope.app, [str(argument) for argument in arguments])
    return done.exit_code, done.stderr


def filled(data: Path) -> Ledger:
    """A ledger of some pages, that has jobs."""
    ledger = Ledger(Settings(data=data).ledger_url)
    for key in range(200):
        ledger.submit("price", "bulk", {"of": "x" * 500}, f"{key}", f"job {key}", "ann", [Step(0, 0, "price")],
                      answered_once=False)  # fmt: skip
    return ledger


def close(ledger: Ledger) -> None:
    ledger._database._engine.dispose()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Whose it is


def test_the_ledger_and_what_sqlite_writes_beside_it_are_their_owners_alone(tmp_path):
    data = tmp_path / "data"
    ledger = filled(data)
    files = ["headscope.db", "headscope.db-shm", "headscope.db-wal"]
    assert sorted(path.name for path in data.iterdir()) == files
    assert [mode(data / name) for name in files] == [0o600] * 3
    assert mode(data) == 0o700
    for name in files:
        (data / name).chmod(0o644)  # as Headscope 0.1 left them
    data.chmod(0o755)
    Ledger(Settings(data=data).ledger_url).counts()
    assert [mode(data / name) for name in files] == [0o600] * 3
    assert mode(data) == 0o755  # as whoever runs it wants it
    assert ledger.counts() == {"queued": 200}


def test_a_data_folder_that_is_made_is_its_owners_alone(tmp_path, monkeypatch):
    settings = Settings(data=tmp_path / "served", port=free_port())
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "broker_binary", lambda: None)  # nothing is started
        with embedded.Embedded(settings, print):
            assert mode(settings.data) == 0o700
    embedded.Embedded(settings, print)._planned()
    assert mode(settings.logs) == 0o700
    (tmp_path / "docker-compose.yml").touch()
    write_env(tmp_path, (), 8050, gpu=False)
    assert mode(tmp_path / "data") == 0o700


def test_a_backup_is_its_owners_alone_and_holds_all_that_the_ledger_does_while_that_is_used(tmp_path):
    ledger = filled(tmp_path / "data")
    with ledger._database.write():  # somebody writes
        assert cli("backup", tmp_path / "copy.db", "--data", tmp_path / "data") == (0, "")
    assert mode(tmp_path / "copy.db") == 0o600
    assert not list(tmp_path.glob("copy.db-*"))
    copy = Ledger(f"sqlite:///{tmp_path}/copy.db")
    assert copy.jobs() == ledger.jobs()
    assert cli("backup", tmp_path / "copy.db", "--data", tmp_path / "data")[0] == 1
    assert copy.counts() == {"queued": 200}


def test_a_ledger_in_postgresql_is_copied_by_postgresql(postgresql, tmp_path):
    with pytest.raises(ValueError, match="pg_dump"):
        Ledger(postgresql).copy_to(tmp_path / "copy.db")


# Damaged, or gone


def no_database(file: Path) -> None:
    file.write_bytes(b"something else entirely " * 1000)


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def overwritten(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(os.urandom(file.stat().st_size - 3 * 4096))


@pytest.mark.parametrize("damage", [no_database, cut_short, overwritten])
def test_a_damaged_ledger_is_one_line_with_what_to_do_and_studies_are_listed_all_the_same(tmp_path, damage):
    close(filled(tmp_path))
    damage(tmp_path / "headscope.db")
    for command in (
        ["serve", "--port", free_port()],
        ["jobs"],
        ["submit", "test_vit", tmp_path],
        ["backup", tmp_path / "copy.db"],
    ):
        code, said = cli(*command, "--data", tmp_path)
        assert code == 1, said
        assert said.startswith("error: the ledger "), said
        assert "is damaged" in said and "docs/deploy.md says how to restore it" in said
        assert said.count("\n") == 1
    assert not (tmp_path / "copy.db").exists()
    assert cli("ls", "--data", tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("does", "how"),
    [
        (Path.unlink, "was removed"),
        (lambda file: shutil.copy(file, f"{file}.copy") and Path(f"{file}.copy").replace(file), "was replaced"),
    ],
)
def test_a_ledger_that_is_taken_away_while_it_is_open_is_noticed_and_not_made_anew(tmp_path, does, how):
    ledger, file = filled(tmp_path), tmp_path / "headscope.db"
    does(file)
    there = file.exists()
    for use in (ledger.counts, lambda: ledger.here("w", "bulk", "cpu")):
        with pytest.raises(DamagedLedgerError, match=f"headscope.db {how} while it was in use: stop all"):
            use()
    close(ledger)
    with pytest.raises(DamagedLedgerError):
        ledger.counts()
    assert file.exists() == there


def test_a_ledger_that_is_gone_begins_anew_without_what_sqlite_had_left_beside_it(tmp_path):
    ledger = filled(tmp_path)
    assert (tmp_path / "headscope.db-wal").stat().st_size > 0
    (tmp_path / "headscope.db").unlink()
    anew = Ledger(Settings(data=tmp_path).ledger_url)
    assert anew.counts() == {}
    anew.check_whole()
    close(ledger)
    anew.check_whole()


def test_a_page_whose_ledger_was_removed_says_so_with_503_and_shows_studies(tmp_path, tiny_study_path):
    shutil.copytree(tiny_study_path, tmp_path / "studies" / "tiny")
    client = create_app(Settings(data=tmp_path)).server.test_client()
    assert client.get("/jobs.json?shown=all").status_code == 200
    (tmp_path / "headscope.db").unlink()
    away = client.get("/jobs.json?shown=all")
    assert (away.status_code, away.mimetype) == (503, "text/plain")
    assert away.text == DamagedLedgerError.said
    assert str(tmp_path) not in away.text
    assert client.get("/").status_code == 200
    layout = client.get("/_dash-layout")
    assert layout.status_code == 200 and "tiny" in layout.text


# A folder that cannot be written


def bound() -> list[str]:
    """What has a command keep to the modes of files: root does not by itself."""
    if os.getuid() != 0:
        return []
    setpriv = shutil.which("setpriv") or pytest.skip("root may write everywhere, and here is no setpriv to deny it")
    return [setpriv, "--bounding-set=-dac_override", "--inh-caps=-dac_override"]


def test_a_data_folder_that_cannot_be_written_is_viewed_without_jobs_and_that_is_said(tmp_path, tiny_study_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_study_path, data / "studies" / "tiny")
    data.chmod(0o555)
    port, before = free_port(), sorted(data.rglob("*"))
    command = [*bound(), sys.executable, "-P", "-m", "headscope"]
    said = tmp_path / "said"
    with said.open("wb") as out:
        server = subprocess.Popen(
            [*command, "serve", "--data", str(data), "--port", str(port)],
            stdout=out,
            stderr=out,
        )
    try:
        until = time.monotonic() + 120
        while _status(port, "/health") != 200:
            assert server.poll() is None and time.monotonic() < until, said.read_text()
            time.sleep(0.1)
        assert _status(port, "/") == 200
        assert _status(port, "/jobs.json") == 503
    finally:
        server.terminate()
        server.wait(60)
    assert "its studies can be viewed, and nothing is computed" in said.read_text()
    assert "cannot be written by this user, so there are no jobs here" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert sorted(data.rglob("*")) == before


def _status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_what_cannot_be_written_is_told_from_what_does_not_answer():
    assert issubclass(ReadOnlyLedgerError, LedgerUnavailableError) and ReadOnlyLedgerError.said
    assert len({each.said for each in (LedgerUnavailableError, DamagedLedgerError, ReadOnlyLedgerError)}) == 3
