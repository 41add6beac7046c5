"""The team's server, without containers: what the compose file grants, `headscope init`, gunicorn, the proxy.

What the containers themselves deny is in test_deploy_docker.py.
"""

import os
import re
import resource
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import headscope
from dashboard import uploads
from dashboard.accounts import Accounts, _weakness
from jobs.ledger import Ledger
from store import env_file
from store.settings import Settings
from workers import alive

ROOT = Path(__file__).parents[1]
GPU, HOSTS, BUCKET = (f"docker-compose.{name}.yml" for name in ("gpu", "hosts", "bucket"))
SECRETS = ("HEADSCOPE_SECRET", "REDIS_PASSWORD")
NEEDED = (*SECRETS, "HEADSCOPE_UID", "HEADSCOPE_GID")
GIVEN = {"HEADSCOPE_SECRET": "s" * 40, "REDIS_PASSWORD": "p" * 40, "HEADSCOPE_UID": "1234", "HEADSCOPE_GID": "1234"}
SOON = 60  # seconds until a test gives up on a process


def services():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def each_service():
    return pytest.mark.parametrize(("name", "service"), services().items(), ids=list(services()))


# --- the compose file ---


@pytest.fixture(params=["docker compose", "docker-compose"])
def compose(request):
    """A Compose: the plugin of today, and the program of before."""
    command = request.param.split()
    if shutil.which(command[0]) is None or subprocess.run([*command, "version"], capture_output=True).returncode:
        pytest.skip(f"{request.param} is not installed; the compose file is not read with it")
    return command


def read_with(compose, folder, *files, given=GIVEN):
    """What Compose makes of the files, with an .env of these variables and no others of ours."""
    env = folder / "given.env"
    env.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HEADSCOPE_", "COMPOSE_"))}
    options = [part for file in files for part in ("-f", str(ROOT / file))]
    command = [*compose, *options, "--env-file", str(env), "--project-directory", str(ROOT), "config"]
    return subprocess.run(command, env=environ, capture_output=True, text=True)


@pytest.mark.parametrize("more", [(), (GPU,), (HOSTS,), (HOSTS, GPU), (BUCKET,), (HOSTS, BUCKET)])
def test_compose_reads_the_file_alone_with_a_gpu_and_for_several_machines(compose, tmp_path, more):
    addresses = {"HEADSCOPE_PRIVATE_ADDRESS": "10.0.0.1", "HEADSCOPE_QUEUE": "10.0.0.2"}
    addresses |= {"HEADSCOPE_BUCKET": "s3://lab", "AWS_ENDPOINT_URL": "https://10.0.0.3"}
    addresses |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    done = read_with(compose, tmp_path, "docker-compose.yml", *more, given=GIVEN | addresses)
    assert done.returncode == 0, done.stderr
    assert {"proxy", "web", "worker-interactive", "worker-bulk", "redis"} <= yaml.safe_load(done.stdout)[
        "services"
    ].keys()
    assert ("nvidia" in done.stdout) == (GPU in more)
    assert ("@10.0.0.2:6379" in done.stdout) == (HOSTS in more)
    assert done.stdout.count("AWS_SECRET_ACCESS_KEY: secret") == 2 * (BUCKET in more)


@pytest.mark.parametrize(("missing", "how"), [*((name, "unset") for name in NEEDED), (NEEDED[0], "empty")])
def test_compose_refuses_to_start_without_what_init_makes(compose, tmp_path, missing, how):
    given = {name: value for name, value in GIVEN.items() if name != missing} | (
        {missing: ""} if how == "empty" else {}
    )
    done = read_with(compose, tmp_path, "docker-compose.yml", given=given)
    assert done.returncode != 0
    assert missing in done.stderr
    assert "run ./init.sh first" in done.stderr


@each_service()
def test_no_service_is_root_or_may_become_it_or_change_its_image(name, service):
    user = service["user"]
    assert user == "999:999" or user.startswith("${HEADSCOPE_UID:?")  # init never writes 0: see below
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "userns_mode"}
    assert all("noexec" in tmpfs for tmpfs in service["tmpfs"])


@each_service()
def test_every_service_has_limits_of_memory_processes_and_logs(name, service):
    assert service["mem_limit"]
    assert service["memswap_limit"] == service["mem_limit"]
    assert 0 < service["pids_limit"] <= 4096
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


@each_service()
def test_every_server_is_started_again_and_has_a_health_check(name, service):
    if "profiles" in service:
        assert service["restart"] == "no"
        return
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"]


def test_only_the_proxy_has_a_port_and_by_default_on_this_machine_alone():
    assert [name for name, service in services().items() if "ports" in service] == ["proxy"]
    assert services()["proxy"]["ports"] == ["${HEADSCOPE_ADDRESS:-127.0.0.1}:${HEADSCOPE_PORT:-8050}:8080"]


def test_a_worker_reaches_the_queue_alone_and_nothing_leads_out_but_the_port_and_the_fetcher():
    networks = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["networks"]
    closed = {name for name, network in networks.items() if network.get("internal")}
    reached = {
        name: {other for other in services() if set(services()[other]["networks"]) & set(service["networks"])} - {name}
        for name, service in services().items()
    }
    assert reached["worker-bulk"] - {"worker-interactive"} == {"redis"}
    assert reached["worker-interactive"] - {"worker-bulk"} == {"redis"}
    assert reached["proxy"] == {"web"}
    assert reached["fetch"] == set()
    for name in ("web", "redis", "worker-bulk", "worker-interactive"):
        assert set(services()[name]["networks"]) <= closed, name
    assert all("inhibit_ipv4" in str(networks[name]) for name in closed)


def test_no_service_is_given_a_secret_that_is_not_its_own():
    holds = {name: {s for s in SECRETS if s in str(service)} for name, service in services().items()}
    assert holds == {
        "proxy": set(),
        "web": set(SECRETS),
        "worker-interactive": {"REDIS_PASSWORD"},
        "worker-bulk": {"REDIS_PASSWORD"},
        "redis": {"REDIS_PASSWORD"},
        "fetch": set(),
    }


def test_limits_of_what_is_sent_are_equal_for_the_page_and_for_workers_and_by_default_those_of_the_settings():
    limits = ("UPLOAD_LIMIT_MB", "UPLOAD_QUOTA_GB")
    of_workers = (*limits, "PICTURE_HOURS", "DERIVED_QUOTA_GB")
    readers = {"web": limits, **dict.fromkeys(("worker-interactive", "worker-bulk"), of_workers)}
    for service, names in readers.items():
        for name in names:
            default = Settings.model_fields[name.lower()].default
            given = services()[service]["environment"][f"HEADSCOPE_{name}"]
            assert given == f"${{HEADSCOPE_{name}:-{default:g}}}", service


def test_the_keys_of_a_bucket_are_the_workers_alone_and_have_no_default():
    given = yaml.safe_load((ROOT / BUCKET).read_text())["services"]
    assert given.keys() == {"worker-interactive", "worker-bulk"}
    for service in given.values():
        assert service.keys() == {"networks", "extra_hosts", "environment"}
        for name in ("HEADSCOPE_BUCKET", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert service["environment"][name].startswith(f"${{{name}:?is not set")


def test_no_secret_has_a_default():
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / GPU).read_text()
    used = [each for each in re.findall(r"\$\{([^}]*)\}", text) if each.startswith(NEEDED)]
    assert len(used) >= len(NEEDED)
    for each in used:
        assert re.fullmatch(r"\w+:\?is not set, run \./init\.sh first", each)


def test_pictures_and_checkpoints_are_only_read_and_studies_by_the_page_too():
    for name, service in services().items():
        mounted = [volume.rsplit(":", 2) for volume in service.get("volumes", [])]
        only_read = {volume[1] for volume in mounted if volume[-1] == "ro"}
        writable = {volume[-1] for volume in mounted if volume[-1] != "ro"}
        if name in ("web", "worker-interactive", "worker-bulk"):
            assert {"/data/images", "/data/models"} <= only_read
            assert writable == {"/data"}
        assert ("/data/studies" in only_read) == (name == "web")
        assert not any("docker.sock" in volume for volume in service.get("volumes", []))


def test_only_what_an_image_is_made_of_is_sent_to_the_builder():
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in lines
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert not sent & {".env", ".git", "data", "deploy", "deploy/tls", "tests"}
    assert all((ROOT / name).exists() for name in sent)


# --- headscope init ---


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with a compose file, in which one is."""
    (tmp_path / "docker-compose.yml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments):
    return CliRunner().invoke(headscope.app, ["init", *arguments])


def variables(folder):
    lines = (folder / ".env").read_text().split("\n")
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_init_writes_secrets_for_its_owner_alone_and_says_what_to_do_next(clone):
    os.umask(before := os.umask(0o022))
    done = init()
    assert done.exit_code == 0, done.output
    assert os.umask(before) == before
    assert stat.S_IMODE((clone / ".env").stat().st_mode) == 0o600
    first, second = [line.strip() for line in done.stdout.splitlines()[-2:]]
    assert "headscope user add" in first
    assert second.startswith("docker compose up")
    written = variables(clone)
    assert written.keys() >= set(NEEDED)
    assert not _weakness(written["HEADSCOPE_SECRET"])
    assert re.fullmatch(r"[\w-]{40,}", written["REDIS_PASSWORD"])  # as it is in a URL, a shell and a file
    assert all((clone / "data" / name).is_dir() for name in ("studies", "images", "models", "uploads"))


def test_no_two_inits_make_the_same_secrets(clone):
    made = []
    for _ in range(2):
        init()
        made += [variables(clone)[name] for name in SECRETS]
        (clone / ".env").unlink()
    assert len(set(made)) == 4


def test_init_never_overwrites(clone):
    (clone / ".env").write_text("mine")
    done = init()
    assert done.exit_code == 1
    assert "stays as it is" in done.stderr
    assert (clone / ".env").read_text() == "mine"


def test_init_says_where_to_run_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = init()
    assert done.exit_code == 1
    assert "there is no docker-compose.yml" in done.stderr
    assert not list(tmp_path.iterdir())


def test_init_serves_this_machine_alone_unless_it_has_a_name(clone):
    init()
    assert (variables(clone)["HEADSCOPE_ADDRESS"], variables(clone)["HEADSCOPE_HOSTS"]) == ("127.0.0.1", "")
    (clone / ".env").unlink()
    init("--host", "GPU1.lab.org", "--host", "10.1.2.3", "--port", "443", "--gpu")
    written = variables(clone)
    assert (written["HEADSCOPE_ADDRESS"], written["HEADSCOPE_PORT"]) == ("0.0.0.0", "443")
    assert written["HEADSCOPE_HOSTS"] == "gpu1.lab.org,10.1.2.3"
    assert written["COMPOSE_FILE"] == f"docker-compose.yml:{GPU}"


@pytest.mark.parametrize(
    ("uid", "environ", "owner"),
    [
        (1000, {}, (1000, 1000)),
        (1000, {"SUDO_UID": "5", "SUDO_GID": "5"}, (1000, 1000)),
        (0, {"SUDO_UID": "1001", "SUDO_GID": "1002"}, (1001, 1002)),
        (0, {"SUDO_UID": "0", "SUDO_GID": "0"}, (10001, 10001)),
        (0, {"SUDO_UID": "", "SUDO_GID": ""}, (10001, 10001)),
        (0, {}, (10001, 10001)),
    ],
)
def test_the_containers_never_run_as_root(monkeypatch, uid, environ, owner):
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(os, "getgid", lambda: uid)
    assert env_file._owner(environ) == owner


def test_the_data_of_root_is_given_to_whom_the_containers_run_as(clone, monkeypatch):
    given = {}
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda path, uid, gid, follow_symlinks: given.setdefault(Path(path), (uid, gid)))
    monkeypatch.setattr(env_file, "_owner", lambda environ: (1001, 1002))
    (clone / "data" / "studies").mkdir(parents=True)
    (clone / "data" / "studies" / "old").write_text("")
    init()
    assert {Path("data"), Path("data/studies/old"), Path("data/models"), Path(".env")} <= given.keys()
    assert set(given.values()) == {(1001, 1002)}


@pytest.mark.parametrize(
    ("mode", "folder", "readable"),
    [(0o600, 0o755, False), (0o640, 0o755, False), (0o604, 0o755, True), (0o644, 0o700, False)],
)
def test_init_says_that_the_proxy_cannot_read_a_key_of_somebody_elses(clone, monkeypatch, mode, folder, readable):
    tls = clone / "deploy" / "tls"
    tls.mkdir(parents=True)
    for name in ("cert.pem", "key.pem"):
        (tls / name).write_text("")
        (tls / name).chmod(0o644)
    (tls / "key.pem").chmod(mode)
    tls.chmod(folder)
    monkeypatch.setattr(env_file, "_give", lambda path, uid, gid: None)
    monkeypatch.setattr(env_file, "_owner", lambda environ: (os.getuid(), 1002))
    assert init().stderr == ""
    (clone / ".env").unlink()
    monkeypatch.setattr(env_file, "_owner", lambda environ: (1001, 1002))
    done = init()
    assert done.exit_code == 0
    said = " ".join(done.stderr.split())
    found = "deploy/tls" if folder == 0o700 else "deploy/tls/key.pem"
    assert (f"user 1001, who cannot read {found}; run `sudo chown 1001:1002 {found}`" in said) != readable
    assert bool(said) != readable


@pytest.mark.parametrize(("make", "said"), [("missing", "is not there"), ("link", "is a link")])
def test_init_says_that_there_is_half_a_certificate(clone, make, said):
    tls = clone / "deploy" / "tls"
    tls.mkdir(parents=True)
    (tls / "cert.pem").write_text("")
    if make == "link":
        (tls / "key.pem").symlink_to("/etc/hostname")
    assert f"deploy/tls/key.pem {said}" in " ".join(init().stderr.split())


# --- headscope fetch ---


def test_fetch_has_the_weights_of_each_model_fetched_and_says_where_they_are(monkeypatch):
    fetched = []
    monkeypatch.setattr("precompute.weights.open_model", fetched.append)
    done = CliRunner().invoke(headscope.app, ["fetch", "vit_a", "vit_b"])
    assert fetched == ["vit_a", "vit_b"]
    assert "vit_b: its weights are in" in done.stdout


def test_fetch_refuses_what_is_no_model():
    done = CliRunner().invoke(headscope.app, ["fetch", "../vit"])
    assert done.exit_code == 1
    assert "is not a timm model name" in done.stderr


# --- gunicorn ---


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder with one user."""
    folder = tmp_path_factory.mktemp("team")
    Accounts(Settings(data=folder).ledger_url).add("anna", "admin", "correct horse battery")
    return folder


def environment(data, **given):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADSCOPE_")}
    settings = {"data": str(data), "host": "0.0.0.0", "threads": "2", "proxies": "1", "secret": "Zq3-" * 10} | given
    settings["secret"] = settings["secret"] and "0f1e2d3c4b5a69788796a5b4c3d2e1f0" + settings["secret"]
    named = {f"HEADSCOPE_{name.upper()}": value for name, value in settings.items() if value is not None}
    return environ | named | {"PYTHONPATH": str(ROOT)}


def gunicorn():
    return [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "deploy" / "gunicorn.conf.py")]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def answer(url, **headers):
    """Status, headers and text of an answer, without following where it leads."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    opener = urllib.request.build_opener(Stay, urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=SOON) as given:
            return given.status, dict(given.headers), given.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


def until_it_answers(port, process):
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        assert process.poll() is None, f"it ended with {process.returncode}"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("it does not answer")


@contextmanager
def running(command, port, environ):
    process = subprocess.Popen(command, env=environ)
    try:
        until_it_answers(port, process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(SOON)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def page(data):
    """The page behind gunicorn, with two threads; its port."""
    port = free_port()
    with running(
        [*gunicorn(), "--workers", "1"], port, environment(data, host="127.0.0.1", sign_in="true", port=str(port))
    ):
        answer(f"http://127.0.0.1:{port}/health")  # once it has loaded
        yield port


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"secret": None}, "HEADSCOPE_SECRET is not set"),
        ({"port": "0"}, "HEADSCOPE_PORT: Input should be"),
        ({"sign_in": "false"}, "HEADSCOPE_SIGN_IN=false"),
    ],
)
def test_gunicorn_refuses_to_start_where_anybody_could_get_in(data, given, said):
    done = subprocess.run(gunicorn(), env=environment(data, **given), capture_output=True, text=True, timeout=SOON)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("headscope: ")
    assert said in line


def test_gunicorn_refuses_a_secret_that_stands_in_an_example(data):
    environ = environment(data) | {"HEADSCOPE_SECRET": "change-me-0123456789-abcdefghijklmnop"}
    done = subprocess.run(gunicorn(), env=environ, capture_output=True, text=True, timeout=SOON)
    assert done.returncode == 1
    assert "as examples do" in done.stderr


def test_gunicorn_serves_the_page_to_who_signed_in(page):
    assert answer(f"http://127.0.0.1:{page}/health")[0] == 200
    status, headers, _ = answer(f"http://127.0.0.1:{page}/")
    assert (status, headers["Location"]) == (302, "/sign-in?next=/")
    assert answer(f"http://127.0.0.1:{page}/_dash-layout")[0] == 401


# --- the health check of a worker ---


def test_a_worker_is_alive_while_it_says_so_from_this_machine(tmp_path, monkeypatch):
    ledger = Ledger(Settings(data=tmp_path).ledger_url)
    monkeypatch.setattr(alive.platform, "node", lambda: "box")
    assert not alive.is_alive(ledger, "bulk")
    ledger.here("bulk-box-7", "bulk", "cpu")
    ledger.here("interactive-other-7", "interactive", "cpu")
    assert alive.is_alive(ledger, "bulk")
    assert not alive.is_alive(ledger, "interactive")
    monkeypatch.setattr(alive, "WITHIN", -1.0)
    assert not alive.is_alive(ledger, "bulk")


# --- the proxy ---


@pytest.fixture(scope="module")
def nginx():
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    if shutil.which("nginx", path=places) is None:
        pytest.skip("nginx is not installed, so the proxy is not tried; sudo apt-get install nginx")
    return places


def proxy(*arguments, places, run, **given):
    """The command that starts the proxy, and its environment."""
    named = {name.upper(): str(value) for name, value in given.items()}
    environ = os.environ | {"PATH": places, "PROXY_RUN": str(run), "PROXY_TLS": "/nowhere"} | named
    return ["sh", str(ROOT / "deploy" / "proxy.sh"), *arguments], environ


@pytest.fixture
def certificate(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, so https is not tried")
    folder = tmp_path / "tls"
    folder.mkdir()
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    subprocess.run([*made, *names, *files], check=True, capture_output=True)
    return folder / "cert.pem"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"headscope_lab_proxy": "10.1.2.3, 10.2.0.0/16 fd00::1"},
        {"headscope_lab_proxy": "10.1.2.3", "headscope_trusted_header": "X-Remote-User"},
    ],
)
def test_nginx_takes_the_configuration(nginx, tmp_path, given):
    command, environ = proxy("check", places=nginx, run=tmp_path, **given)
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"headscope_trusted_header": "X-Remote-User"}, "HEADSCOPE_LAB_PROXY must say"),
        ({"headscope_trusted_header": 'X" ""; }', "headscope_lab_proxy": "10.1.2.3"}, "give a name"),
        ({"headscope_lab_proxy": "10.1.2.3 1; include /etc/passwd"}, "give addresses"),
    ],
)
def test_the_proxy_refuses_what_would_let_anybody_be_anybody(nginx, tmp_path, given, said):
    command, environ = proxy("check", places=nginx, run=tmp_path, **given)
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert said in done.stderr


def refused_certificate(nginx, run, tls, **options):
    """The one line that the proxy says of a certificate that it does not take."""
    command, environ = proxy("check", places=nginx, run=run, proxy_tls=tls)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, **options)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("link", [False, True])
def test_half_a_certificate_is_refused(nginx, tmp_path, certificate, link):
    certificate.with_name("key.pem").unlink()
    if link:
        certificate.unlink()
        certificate.symlink_to("/etc/letsencrypt/live/nowhere/fullchain.pem")
    assert "https needs cert.pem and key.pem" in refused_certificate(nginx, tmp_path, certificate.parent)


@pytest.mark.parametrize("closed", ["key.pem", "the folder"])
def test_a_key_that_the_proxy_may_not_read_is_said_with_what_to_run(nginx, certificate, closed):
    uid, gid, options = os.getuid(), os.getgid(), {}
    if uid == 0:  # who may read everything
        uid, gid = 10001, 10001
        options = {"user": uid, "group": gid, "extra_groups": []}
    with tempfile.TemporaryDirectory() as folder:  # which others may look into
        tls = Path(shutil.copytree(certificate.parent, f"{folder}/tls"))
        for path, mode in ((Path(folder), 0o755), (tls, 0o755), (tls / "cert.pem", 0o644), (tls / "key.pem", 0o644)):
            path.chmod(mode)
        where = tls if closed == "the folder" else tls / closed
        where.chmod(0)
        said = refused_certificate(nginx, folder, tls, **options)
        where.chmod(0o700)
    assert f"proxy: {where}" in said
    assert f"user {uid} may not read it; on the host, run sudo chown {uid}:{gid}" in said


class Echo(BaseHTTPRequestHandler):
    """Answers with the headers that came, and with how much."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        taken = len(self.rfile.read(length))
        said = "".join(f"{name}: {value}\n" for name, value in self.headers.items()) + f"taken: {taken}\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def echo():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@contextmanager
def proxied(nginx, web, tls=None, **given):
    """The proxy before a web server on a port of this machine; its own port."""
    port = free_port()
    ports = {"proxy_listen": f"127.0.0.1:{port}", "proxy_web": f"127.0.0.1:{web}", "proxy_tls": tls or "/nowhere"}
    with tempfile.TemporaryDirectory() as run:
        Path(run).chmod(0o755)  # started by root, nginx works as somebody who is not
        command, environ = proxy(places=nginx, run=run, proxy_health=f"127.0.0.1:{free_port()}", **ports, **given)
        with running(command, port, environ):
            yield port


def sent(text):
    """The headers that the web server was sent."""
    return dict(line.split(": ", 1) for line in text.lower().splitlines() if ": " in line)


FORGED = {
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "666",
    "X-Forwarded-Prefix": "/evil",
    "X-Real-IP": "6.6.6.6",
    "Forwarded": "for=6.6.6.6",
    "X-Remote-User": "anna",
    "X_Remote_User": "anna",
}


def test_what_a_client_says_of_itself_is_not_passed_on(nginx, echo):
    header = {"headscope_trusted_header": "X-Remote-User", "headscope_lab_proxy": "10.99.99.99"}
    with proxied(nginx, echo.server_port, **header) as port:
        for path in ("/", "/uploads/x"):
            found = sent(answer(f"http://127.0.0.1:{port}{path}", **FORGED)[2])
            assert found["x-forwarded-for"] == "127.0.0.1"
            assert found["x-forwarded-proto"] == "http"
            assert found["host"] == f"127.0.0.1:{port}"
            assert "anna" not in found.values()
            assert not {"forwarded", "x-real-ip", "x-forwarded-host", "x-forwarded-port"} & found.keys()


def test_the_labs_own_proxy_is_believed_and_known_by_its_address(nginx, echo):
    header = {"headscope_trusted_header": "X-Remote-User", "headscope_lab_proxy": "127.0.0.1"}
    with proxied(nginx, echo.server_port, **header) as port:
        found = sent(answer(f"http://127.0.0.1:{port}/", **FORGED)[2])
    assert (found["x-remote-user"], found["x-forwarded-for"], found["x-forwarded-proto"]) == (
        "anna",
        "6.6.6.6",
        "https",
    )
    assert "x-forwarded-host" not in found


def post(port, path, size):
    """Status of the answer to a body of that size, of which the first bytes are sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=SOON) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
        with suppress(OSError):  # refused before all is sent
            client.sendall(b"x" * min(size, 10_000_000))
        return int(client.recv(100).split()[1])


def test_no_body_is_large_but_a_piece_of_an_archive(nginx, echo):
    with proxied(nginx, echo.server_port) as port:
        assert post(port, "/jobs", 1_000_000) == 200
        assert post(port, "/jobs", 60_000_000) == 413
        assert post(port, "/uploads/x", uploads.MOST_BODY) == 200
        assert post(port, "/uploads/x", 60_000_000) == 413
        assert answer(f"http://127.0.0.1:{port}/" + "x" * 70_000)[0] == 414


def test_every_address_is_the_pages_own(nginx, echo):
    with proxied(nginx, echo.server_port) as port:
        for path in ("/", "/uploads", "/uploads/", "/uploads/x?at=8", "/studies//x/%2e%2e/y"):
            assert answer(f"http://127.0.0.1:{port}{path}")[0] == 200
            assert echo.asked[-1] == path


@pytest.mark.parametrize(
    "lengths",
    [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Content-Length: 4\r\nContent-Length: 40",
        "Content-Length: -5",
        "Content-Length: 4 4",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ],
)
def test_of_what_could_be_two_requests_neither_is_passed_on(nginx, echo, lengths):
    with proxied(nginx, echo.server_port) as port, socket.create_connection(("127.0.0.1", port), SOON) as client:
        end = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
        client.sendall(f"POST /first HTTP/1.1\r\nHost: localhost\r\n{lengths}\r\n\r\n".encode() + end)
        said = b""
        with suppress(OSError):
            while piece := client.recv(4096):
                said += piece
    assert said.count(b"HTTP/1.1 ") == 1
    assert said.split()[1] in (b"400", b"501")
    assert not {"/first", "/smuggled"} & set(echo.asked)


def test_the_page_is_served_by_https_once_there_is_a_certificate(nginx, certificate, echo):
    with proxied(nginx, echo.server_port, certificate.parent) as port:
        trusting = ssl.create_default_context(cafile=certificate)
        handler = urllib.request.HTTPSHandler(context=trusting)
        opener = urllib.request.build_opener(handler, urllib.request.ProxyHandler({}))
        with opener.open(f"https://localhost:{port}/", timeout=SOON) as given:
            assert sent(given.read().decode())["x-forwarded-proto"] == "https"
        status, headers, _ = answer(f"http://localhost:{port}/new?a=1")
        assert (status, headers["Location"]) == (307, f"https://localhost:{port}/new?a=1")


def test_while_the_page_starts_again_the_proxy_says_so(nginx):
    with proxied(nginx, free_port()) as port:
        status, headers, said = answer(f"http://127.0.0.1:{port}/")
    assert (status, headers["Retry-After"]) == (503, "5")
    assert "Reload the page" in said


HALF_OPEN, SLOW = 1000, 50


def test_slow_clients_do_not_hold_up_the_others(nginx, page):
    """1,000 connections that never end their headers, and 50 bodies that never end, before two threads."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with proxied(nginx, page) as port:
        slow = [socket.create_connection(("127.0.0.1", port), timeout=SOON) for _ in range(HALF_OPEN + SLOW)]
        try:
            for client in slow[:HALF_OPEN]:
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-")
            for client in slow[HALF_OPEN:]:
                head = "POST /_dash-update-component HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                client.sendall(f"{head}Content-Length: 500000\r\n\r\n{{".encode())

            def ask(_):
                began = time.monotonic()
                assert answer(f"http://127.0.0.1:{port}/health")[0] == 200
                return time.monotonic() - began

            with ThreadPoolExecutor(4) as others:
                seconds = sorted(others.map(ask, range(40)))
        finally:
            for client in slow:
                client.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert seconds[int(0.95 * len(seconds))] < 1.0, seconds


def test_gunicorn_alone_would_be_held_up(page):
    """The proxy is what the test above is about: without it, as many slow bodies as there are threads are enough."""
    slow = [socket.create_connection(("127.0.0.1", page), timeout=SOON) for _ in range(SLOW)]
    try:
        for client in slow:
            head = "POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            client.sendall(f"{head}Content-Length: 5000\r\n\r\nname=".encode())
        time.sleep(1)
        with pytest.raises(TimeoutError):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"http://127.0.0.1:{page}/health", timeout=2
            )
    finally:
        for client in slow:
            client.close()
