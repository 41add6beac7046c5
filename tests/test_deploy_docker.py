"""What the containers of the shipped compose file deny, tried from inside them: a worker that somebody has taken over.

`make test-docker` builds the images and runs this.
"""

import json
import os
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

import headscope

ROOT = Path(__file__).parents[1]
PATIENCE = 600
PROJECT = "headscope-test"
WORKER = "worker-interactive"
MEMORY = "2g"  # of a worker, small enough to be used up

pytestmark = pytest.mark.skipif(
    "HEADSCOPE_TEST_DOCKER" not in os.environ, reason="what containers deny is tried by `make test-docker`"
)

# What runs in a worker: each line tries something, and says by its own name whether that was denied.
PROBE = """
import ctypes, json, os, pathlib, socket, subprocess, sys
web, page, gateways = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
libc = ctypes.CDLL(None, use_errno=True)

def denied(act, *errors):
    try:
        act()
    except errors or OSError as error:
        return True
    return False

def write(path):
    return denied(lambda: open(path, "w").close())

def connect(host, port):
    return denied(lambda: socket.create_connection((host, port), timeout=3).close())

def call(name, *arguments):
    return getattr(libc, name)(*arguments) != 0

def run_from_tmp():
    pathlib.Path("/tmp/x").write_text("#!/bin/sh\\n")
    os.chmod("/tmp/x", 0o755)
    subprocess.run(["/tmp/x"], check=True)

status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
mounts = [line.split() for line in open("/proc/mounts")]
print(json.dumps({
    "write /etc": write("/etc/x"),
    "write /usr": write("/usr/x"),
    "write the program": write(os.path.join(sys.prefix, "lib", "x")),
    "write a picture": write("/data/images/x"),
    "write a checkpoint": write("/data/models/x"),
    "write /proc/sys": write("/proc/sys/kernel/core_pattern"),
    "run what it wrote to /tmp": denied(run_from_tmp),
    "reach the internet": connect("1.1.1.1", 443) and connect("8.8.8.8", 53),
    "reach the cloud's metadata": connect("169.254.169.254", 80),
    "look up a name outside": denied(lambda: socket.gethostbyname("example.com")),
    "look up the page": denied(lambda: socket.gethostbyname("web")),
    "reach the page": connect(web, 8050),
    "reach the page by its port, on any address of the machine": all(connect(g, int(page)) for g in gateways),
    "reach the machine": all(connect(g, 22) for g in gateways),
    "become root": denied(lambda: os.setuid(0)),
    "have capabilities": int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0 and status["NoNewPrivs"] == "1",
    "mount": call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
    "unshare": call("unshare", 0x20000),
    "send raw packets": denied(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "make a device": denied(lambda: os.mknod("/tmp/d", 0o600 | 0x2000, 0x103)),
    "see docker's socket": not any(pathlib.Path(at).exists() for at in ("/var/run/docker.sock", "/run/docker.sock")),
    "see other folders of the machine": {m[1] for m in mounts if m[0].startswith("/dev/")} <= {
        "/data", "/data/images", "/data/models", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts",
        os.path.realpath("/sbin/docker-init"),
    },
    "see a disk": not [name for name in os.listdir("/dev") if name.startswith(("sd", "vd", "nvme", "mem"))],
    "see the secret of sign-ins": not any("SECRET" in name for name in os.environ),
}))
"""
OF_THE_QUEUE = """
import json, os
from redis import Redis, exceptions
url = os.environ["HEADSCOPE_BROKER"]

def refused(client, *command):
    try:
        client.execute_command(*command)
    except (exceptions.NoPermissionError, exceptions.AuthenticationError):
        return True
    return False

mine, nobody = Redis.from_url(url), Redis(host="redis")
assert mine.ping()
commands = ["CONFIG GET dir", "CONFIG SET dir /tmp", "FLUSHALL", "MODULE LIST", "KEYS *", "ACL LIST", "SHUTDOWN"]
tried = {command: refused(mine, *command.split()) for command in commands}
print(json.dumps(tried | {"nobody": refused(nobody, "PING")}))
"""


def docker(*command, stdin=None, check=True, timeout=PATIENCE):
    done = subprocess.run(["docker", *command], input=stdin, capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, done.stderr
    return done


class Team:
    """The services of the shipped compose file, as a new user has them: in a folder of their own."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port

    def compose(self, *command, **options):
        files = ["--project-name", PROJECT, "--project-directory", str(self.folder)]
        return docker("compose", *files, "-f", str(self.folder / "docker-compose.yml"), *command, **options)

    def inspect(self, service, form):
        found = self.compose("ps", "--all", "--quiet", service).stdout.split()[0]
        return docker("inspect", "--format", form, found).stdout.strip()

    def address(self, service):
        return self.inspect(service, "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}").split()[0]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    """All of it but the worker for studies, up and healthy."""
    for image in ("proxy", "web", "worker"):
        if docker("image", "inspect", f"headscope-{image}", check=False).returncode:
            pytest.skip(f"there is no image headscope-{image}; `make test-docker` builds it")
    folder = tmp_path_factory.mktemp("clone")
    folder.chmod(0o755)
    for parent in folder.parents[:2]:  # pytest closes them to others, and the containers are others
        parent.chmod(0o755)
    for name in ("docker-compose.yml", "deploy"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    before = Path.cwd()
    os.chdir(folder)
    try:
        port = free_port()
        done = CliRunner().invoke(headscope.app, ["init", "--host", "headscope.test", "--port", str(port)])
        assert done.exit_code == 0, done.output
    finally:
        os.chdir(before)
    with (folder / ".env").open("a") as file:
        file.write(f"HEADSCOPE_INTERACTIVE_MEMORY={MEMORY}\n")
    found = Team(folder, port)
    add = ["headscope", "user", "add", "anna", "--role", "admin", "--password-stdin"]
    try:
        found.compose("run", "--rm", "-T", "--no-deps", "web", *add, stdin="correct horse battery\n")
        found.compose("up", "--detach", "--wait", "--no-build", "proxy", WORKER)
        yield found
    finally:
        found.compose("down", "--volumes", "--timeout", "5", check=False)


def test_nothing_that_a_worker_must_not_do_can_be_done(team):
    networks = docker(
        "network", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}"
    ).stdout.split()
    form = "{{range .IPAM.Config}}{{.Gateway}} {{.Subnet}}{{end}}"
    gateways = []
    for network in networks:
        gateway, subnet = docker("network", "inspect", "--format", form, network).stdout.split()
        gateways.append(gateway.partition("/")[0] or subnet.rpartition(".")[0] + ".1")
    arguments = [team.address("web"), str(team.port), ",".join(gateways)]
    done = team.compose("exec", "-T", WORKER, "python", "-", *arguments, stdin=PROBE)
    tried = json.loads(done.stdout)
    assert len(tried) >= 20
    assert [what for what, denied in tried.items() if not denied] == []


def test_a_worker_that_takes_too_much_memory_is_ended_and_the_machine_is_not(team):
    take = "x = []\nwhile True: x.append(bytearray(2**26))"
    done = team.compose("run", "--rm", "-T", "--no-deps", WORKER, "python", "-c", take, check=False)
    assert done.returncode == 137


def test_a_worker_cannot_start_processes_without_end(team):
    fork = "import os, signal, time\nfor n in range(10_000):\n  try: pid = os.fork()\n  except BlockingIOError: break\n"
    fork += "  if pid == 0: time.sleep(60); os._exit(0)\nprint(n); os.killpg(0, signal.SIGKILL)"
    done = team.compose("run", "--rm", "-T", "--no-deps", WORKER, "python", "-uc", fork, check=False)
    assert 1000 < int(done.stdout) < 4096


def test_the_queue_takes_no_orders_from_its_user_and_nothing_from_others(team):
    refused = json.loads(team.compose("exec", "-T", WORKER, "python", "-", stdin=OF_THE_QUEUE).stdout)
    assert [what for what, so in refused.items() if not so] == []


@pytest.mark.parametrize(
    ("service", "port", "words", "own"),
    [("redis", 6379, b"PING\r\n", b"-NOAUTH"), ("web", 8050, b"GET /health HTTP/1.0\r\n\r\n", b"HTTP/1.1 200")],
)
def test_nothing_but_the_proxy_answers_the_machine(team, service, port, words, own):
    said = b""
    with suppress(OSError), socket.create_connection((team.address(service), port), timeout=3) as client:
        client.sendall(words)  # to something else, where a network takes whatever leads out
        said = client.recv(100)
    assert not said.startswith(own)
    assert team.compose("port", service, str(port), check=False).stdout.strip() in ("", ":0", "invalid IP:0")


@pytest.mark.parametrize("service", ["proxy", "web", "redis", WORKER])
def test_every_container_runs_as_the_compose_file_says(team, service):
    form = "{{json .HostConfig}}"
    held = json.loads(team.inspect(service, form))
    assert held["ReadonlyRootfs"] is True
    assert held["CapDrop"] == ["ALL"]
    assert not held["CapAdd"]
    assert held["Memory"] > 0
    assert held["MemorySwap"] == held["Memory"]
    assert held["PidsLimit"] > 0
    assert "no-new-privileges:true" in held["SecurityOpt"]
    assert team.compose("exec", "-T", service, "id", "-u").stdout.strip() not in ("", "0")
    assert team.inspect(service, "{{.State.Health.Status}}") == "healthy"


def test_the_images_have_what_they_need_and_the_page_no_torch(team):
    spec = "from importlib.util import find_spec; print(find_spec('torch') is not None, find_spec('uv') is not None)"
    assert team.compose("exec", "-T", "web", "python", "-c", spec).stdout.split() == ["False", "False"]
    assert team.compose("exec", "-T", WORKER, "python", "-c", spec).stdout.split() == ["True", "False"]


def test_the_page_does_not_start_with_a_secret_that_others_know(team):
    weak = ["run", "--rm", "-T", "--no-deps", "--env", "HEADSCOPE_SECRET=changeme-changeme-changeme-changeme", "web"]
    done = team.compose(*weak, check=False)
    assert done.returncode == 1
    assert "HEADSCOPE_SECRET has" in done.stderr + done.stdout
