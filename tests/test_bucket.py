"""Studies by way of a bucket: pushed and pulled whole or not at all, whatever is killed, lost, false or hostile."""

import contextlib
import hashlib
import http.client
import itertools
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from moto.server import DomainDispatcherApplication, create_backend_app
from obstore.store import S3Store
from typer.testing import CliRunner
from werkzeug.serving import WSGIRequestHandler, make_server

import headscope
from dashboard.data import Shelf
from store import bucket as buckets
from store import exchange, failpoints, paths, pictures
from store.bucket import Bucket, BucketBusyError, BucketConflictError, BucketError
from store.errors import DamagedError, DiskFullError, NewerSchemaError, StoreError, StudyBusyError, StudyNotFoundError
from store.lock import StudyLock
from store.manifest import Manifest, verify
from store.settings import Settings
from store.study import open_published
from tests.studies import compute, tiny_study

pytestmark = pytest.mark.usefixtures("no_flush")
KEY, SECRET, TOKEN = "AKIATHEKEYOFTHELAB", "the/secret+of+the+lab", "the-token-of-the-lab"
NUMBERS = itertools.count()
ARRAYS = (
    *("image", "image_sha256", "class", "metric", "vector", "label", "pixels", "thumbnail"),
    *("attention", "importance", "strength", "entropy"),
)


class Storage:
    """S3 by moto, behind a door that may refuse, drop or hold up requests.

    Attributes:
        rules: Called in order with (method, key, environ); an answer is (status, code), "drop" for none, None to pass.
        seen: Method and key of each request, as (method, key, status).
    """

    def __init__(self):
        self.app = DomainDispatcherApplication(create_backend_app)
        self.rules, self.seen = [], []
        self.one = threading.Lock()  # moto does not look and put in one step, as S3 does

        class Quiet(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"

            def log(self, *said):
                pass

        self.server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __call__(self, environ, start):
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"].partition("/headscope/")[2]
        answer = next((answer for rule in self.rules if (answer := rule(method, key, environ))), None)
        if isinstance(answer, tuple):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, code = answer
            self.seen.append((method, key, status))
            # As Amazon's answers, which repeat what was signed.
            said = f"<AWSAccessKeyId>{KEY}</AWSAccessKeyId><CanonicalRequest>x-amz-security-token:{TOKEN}"
            body = f"<Error><Code>{code}</Code>{said}</CanonicalRequest></Error>".encode()
            start(f"{status} ?", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        told = []
        with self.one if method == "PUT" and key.endswith("MANIFEST.json") else contextlib.nullcontext():
            body = list(self.app(environ, lambda *about: told.append(about)))
        self.seen.append((method, key, int(told[0][0].split()[0])))
        if answer == "drop":
            environ["werkzeug.socket"].shutdown(2)
            return []
        start(*told[0])
        return body

    def done(self, method, *, manifests=None):
        """Keys of the requests of a method that were done; only of manifests, or only of others."""
        of = [key for made, key, status in self.seen if made == method and status < 300]
        return [key for key in of if manifests is None or key.endswith("MANIFEST.json") == manifests]


@pytest.fixture(scope="module")
def storage():
    storage = Storage()
    yield storage
    storage.server.shutdown()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A data folder with a published study, only read."""
    data = tmp_path_factory.mktemp("pushed")
    write_small(data / "studies" / "tiny")
    return data / "studies" / "tiny"


def write_small(folder, seed=0):
    """Few objects."""
    whole = tiny_study(images=3, labelled=2, unit_images=2, layers=1, maps=False, seed=seed)
    compute(folder, replace(whole, arrays={name: whole.arrays[name] for name in ARRAYS}))
    return folder


@pytest.fixture
def place(storage, monkeypatch):
    """An empty bucket of its own, the environment that leads to it, and no long waits."""
    name = f"lab-{next(NUMBERS)}"
    for variable, value in {
        "AWS_ENDPOINT_URL": storage.url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_REGION": "us-east-1",
        "HEADSCOPE_BUCKET": f"s3://{name}/headscope",
    }.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    monkeypatch.setattr(buckets, "RETRY_SECONDS", 5.0)
    storage.rules[:] = []
    send(storage, "PUT", f"/{name}")
    storage.seen[:] = []
    yield Bucket(f"s3://{name}/headscope")
    storage.rules[:] = []


def send(storage, method, path, body=b""):
    """A request as it is, which is not signed by what would refuse it."""
    there = http.client.HTTPConnection(storage.url.removeprefix("http://"))
    there.request(method, path, body, {"Authorization": "AWS4-HMAC-SHA256 Credential=a/2/us-east-1/s3/x"})
    assert there.getresponse().status == 200


def raw(name, prefix=None):
    """The bucket as any other program has it."""
    return S3Store(name, prefix=prefix, client_options={"allow_http": True})


def inside(place):
    return raw(place.url.split("/")[2], "headscope")


def keys(place):
    return sorted(each["path"] for batch in inside(place).list() for each in batch)


def push(place, folder):
    return exchange.push(place, folder, lambda done, of: None, lambda: None)


def pull(place, studies, name="tiny"):
    return exchange.pull(place, studies, name, lambda done, of: None, lambda: None)


def busy(times, *, method=None, what=""):
    """A rule: so many times, the storage is busy."""
    left = itertools.count()
    return lambda made, key, _: (
        (503, "SlowDown") if method in (None, made) and what in key and next(left) < times else None
    )


def run(*arguments, code=0):
    result = CliRunner().invoke(headscope.app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    for secret in (SECRET, TOKEN, KEY):
        assert secret not in result.output
    return result.output


def objects(study):
    return set(Manifest.load(study).objects)


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- there and back ---


def test_a_study_is_the_same_on_the_other_side_and_opens_on_its_page(place, storage, tiny, tmp_path):
    content = Manifest.load(tiny).content[:12]
    assert f"tiny is there: {place.url}/tiny/{content}" in run("push", "tiny", "--data", tiny.parents[1])
    assert storage.done("PUT")[-1] == "tiny.MANIFEST.json"
    assert "tiny is here" in run("pull", "--data", tmp_path)
    there = tmp_path / "studies" / "tiny"
    assert paths.manifest_path(there).read_bytes() == paths.manifest_path(tiny).read_bytes()
    assert verify(there) == []
    assert "all as published" in run("verify", "tiny", "--data", tmp_path)
    opened = Shelf(tmp_path / "studies").open("tiny")
    assert (opened.attention(0, 0, 1) == open_published(tiny).attention(0, 0, 1)).all()
    assert [entry.name for entry in Shelf(tmp_path / "studies").entries()] == ["tiny"]
    assert not list((tmp_path / "studies" / ".pull").iterdir())
    run("rm", "tiny", "--yes", "--data", tmp_path)  # the lock that came along is the study's own


def test_what_is_there_is_left_alone(place, storage, tiny, tmp_path):
    push(place, tiny)
    pull(place, tmp_path / "studies")
    storage.seen.clear()
    assert not push(place, tiny)
    assert not pull(place, tmp_path / "studies")
    assert not storage.done("PUT")
    assert set(storage.done("GET", manifests=False)) <= {""}
    assert "there already" in run("push", "tiny", "--data", tiny.parents[1])
    assert "here already" in run("pull", "tiny", "--data", tmp_path)
    assert "nothing is new" in run("pull", "--data", tmp_path)


def test_anyone_with_xarray_reads_it_in_the_bucket(place, tiny):
    push(place, tiny)
    content = Manifest.load(tiny).content[:12]
    store = zarr.storage.ObjectStore(raw(place.url.split("/")[2], f"headscope/tiny/{content}"), read_only=True)
    with xarray.open_zarr(store) as read:
        assert np.array_equal(read["importance"].values, open_published(tiny).read("importance"), equal_nan=True)


def test_the_documentations_lines_read_it_in_the_bucket(place, storage, tiny, monkeypatch):
    push(place, tiny)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    page = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    for documented, here in {
        '"lab"': f'"{place.url.split("/")[2]}"',
        "NAME/CONTENT": f"tiny/{Manifest.load(tiny).content[:12]}",
        "https://s3.lab.org": storage.url,
    }.items():
        assert documented in code
        code = code.replace(documented, here)
    exec(code, {})


def test_large_objects_go_in_parts(place, storage, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "PART", 1000)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1000)
    size, key = max((size, key) for key, (size, _) in Manifest.load(tiny).objects.items())
    push(place, tiny)
    key = f"tiny/{Manifest.load(tiny).content[:12]}/{key}"
    assert storage.done("PUT").count(key) == -(-size // 1000) > 1
    storage.seen.clear()
    pull(place, tmp_path)
    assert storage.done("GET").count(key) == -(-size // 1000)
    assert verify(tmp_path / "tiny") == []


# --- interrupted ---


def test_a_push_that_failed_is_not_there_and_the_next_one_goes_on(place, storage, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "after-object-push:7:raise")
    with pytest.raises(failpoints.InjectedError):
        push(place, tiny)
    monkeypatch.delenv(failpoints.VARIABLE)
    before, total = set(storage.done("PUT")), len(Manifest.load(tiny).objects)
    assert 7 <= len(before) < total
    assert place.studies() == {}
    with pytest.raises(StudyNotFoundError, match="has no study tiny"):
        pull(place, tmp_path)
    storage.seen.clear()
    assert push(place, tiny)
    assert set(storage.done("PUT")).isdisjoint(before)
    assert len(storage.done("PUT")) == total - len(before) + 1
    pull(place, tmp_path)
    assert verify(tmp_path / "tiny") == []


def test_a_pull_that_failed_places_nothing_and_the_next_one_goes_on(place, storage, tiny, tmp_path, monkeypatch):
    push(place, tiny)
    monkeypatch.setenv(failpoints.VARIABLE, "after-object-pull:7:raise")
    with pytest.raises(failpoints.InjectedError):
        pull(place, tmp_path)
    monkeypatch.delenv(failpoints.VARIABLE)
    assert [path.name for path in tmp_path.iterdir()] == [".pull"]
    assert Shelf(tmp_path).entries() == []
    staged = [path for path in (tmp_path / ".pull" / "tiny").rglob("*") if path.is_file()]
    (whole, spoiled), sizes = sorted(staged, key=lambda path: path.stat().st_size)[-2:], len(staged)
    spoiled.write_bytes(b"?" * spoiled.stat().st_size)  # as by a power cut
    (whole.parent / "stray").write_bytes(b"stray")
    storage.seen.clear()
    assert pull(place, tmp_path)
    fetched = storage.done("GET", manifests=False)
    assert any(key.endswith(f"/{spoiled.parent.name}/{spoiled.name}") for key in fetched)
    assert not any(key.endswith(f"/{whole.parent.name}/{whole.name}") for key in fetched)
    assert len(fetched) == len(Manifest.load(tiny).objects) - (sizes - 1) + 1  # the lock is none, the spoiled one again
    assert verify(tmp_path / "tiny") == []


def test_a_push_that_was_killed_goes_on(place, storage, tiny, tmp_path):
    killed("after-object-push:5:kill", "push", "tiny", "--data", tiny.parents[1])
    before = set(storage.done("PUT"))
    assert len(before) >= 5
    assert place.studies() == {}
    storage.seen.clear()
    assert push(place, tiny)
    assert set(storage.done("PUT")).isdisjoint(before)
    pull(place, tmp_path)
    assert verify(tmp_path / "tiny") == []


def test_a_pull_that_was_killed_goes_on(place, storage, tiny, tmp_path):
    push(place, tiny)
    killed("after-object-pull:5:kill", "pull", "--data", tmp_path)
    assert Shelf(tmp_path / "studies").entries() == []
    root = tmp_path / "studies" / ".pull" / "tiny" / "attempt-1"
    kept = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} & objects(tiny)
    assert len(kept) >= 5
    time.sleep(0.2)  # what was asked for before the kill is answered
    storage.seen.clear()
    assert pull(place, tmp_path / "studies")
    assert {key.split("/", 2)[2] for key in storage.done("GET", manifests=False)} == objects(tiny) - kept
    assert verify(tmp_path / "studies" / "tiny") == []


@pytest.mark.parametrize(
    ("point", "action", "left"), [("before-commit", "push", ["tiny.MANIFEST.json"]), ("before-place", "pull", [])]
)
def test_stopped_just_before_the_end_only_that_is_left(
    place, storage, tiny, tmp_path, monkeypatch, point, action, left
):
    if action == "pull":
        push(place, tiny)
    do = {"push": lambda: push(place, tiny), "pull": lambda: pull(place, tmp_path)}[action]
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:raise")
    with pytest.raises(failpoints.InjectedError):
        do()
    assert place.studies().keys() == ({"tiny"} if action == "pull" else set())
    assert Shelf(tmp_path).entries() == []
    monkeypatch.delenv(failpoints.VARIABLE)
    storage.seen.clear()
    assert do()
    assert storage.done("PUT") == left
    assert {key for key in storage.done("GET") if "/" in key} == set()


def killed(point, *command):
    """Run a command that is killed at a failpoint."""
    environ = os.environ | {failpoints.VARIABLE: point}
    done = subprocess.run([sys.executable, "-m", "headscope", *map(str, command)], env=environ, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_ctrl_c_stops_between_objects_and_says_that_it_goes_on(place, tiny, monkeypatch, hears_ctrl_c):
    monkeypatch.setattr(exchange, "AT_ONCE", 1)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    place_put = Bucket.put
    monkeypatch.setattr(Bucket, "put", lambda *given: (time.sleep(0.05), place_put(*given)))
    assert "goes on from here" in run("push", "tiny", "--data", tiny.parents[1], code=130)
    assert place.studies() == {}


# --- several, and others ---


def test_of_two_pushers_at_once_one_commits_and_both_are_content(place, storage, tiny, tmp_path):
    with ThreadPoolExecutor(2) as both:
        came = list(both.map(lambda _: push(place, tiny), range(2)))
    assert True in came
    assert storage.done("PUT", manifests=True) == ["tiny.MANIFEST.json"]
    pull(place, tmp_path)
    assert verify(tmp_path / "tiny") == []


def test_of_two_studies_of_one_name_at_once_one_is_there_whole(place, tiny, tmp_path):
    other = write_small(tmp_path / "other" / "tiny", seed=1)

    def tried(folder):
        try:
            return push(place, folder)
        except BucketConflictError:
            return None

    with ThreadPoolExecutor(2) as both:
        came = list(both.map(tried, [tiny, other]))
    assert sorted(came, key=str) == [None, True]
    pull(place, tmp_path / "studies")
    assert verify(tmp_path / "studies" / "tiny") == []
    winner = [tiny, other][came.index(True)]
    assert Manifest.load(tmp_path / "studies" / "tiny").content == Manifest.load(winner).content


def test_another_study_of_the_name_is_refused_on_both_sides_and_nothing_changes(place, storage, tiny, tmp_path):
    push(place, tiny)
    other = write_small(tmp_path / "studies" / "tiny", seed=1)
    before, storage.seen[:] = keys(place), []
    said = run("push", "tiny", "--data", tmp_path, code=1)
    for part in (Manifest.load(tiny).content[:12], Manifest.load(other).content[:12], "another name", "remove s3://"):
        assert part in said.replace("\n", "")
    assert not storage.done("PUT")
    assert keys(place) == before
    assert "headscope rm tiny" in run("pull", "tiny", "--data", tmp_path, code=1).replace("\n", " ")
    assert verify(other) == []
    assert "nothing is new" in run("pull", "--data", tmp_path)


def test_the_results_of_another_run_are_another_study(place, tiny, tmp_path):
    push(place, tiny)
    shutil.copytree(tiny, tmp_path / "tiny")
    replace(Manifest.load(tiny), run={"began": "later"}).publish(tmp_path / "tiny")
    with pytest.raises(BucketConflictError, match="another study tiny"):
        push(place, tmp_path / "tiny")


def test_two_pullers_at_once_place_it_once(place, tiny, tmp_path):
    push(place, tiny)

    def tried(_):
        try:
            return pull(place, tmp_path)
        except StudyBusyError:
            return None

    with ThreadPoolExecutor(3) as all_of_them:
        came = list(all_of_them.map(tried, range(3)))
    assert came.count(True) == 1
    assert verify(tmp_path / "tiny") == []
    assert not list((tmp_path / ".pull").iterdir())


def test_a_study_that_is_being_computed_here_is_not_replaced_but_a_bare_lock_is(place, tiny, tmp_path):
    push(place, tiny)
    lock = StudyLock(tmp_path / "tiny")
    with pytest.raises(StudyBusyError):
        pull(place, tmp_path)
    lock.release()
    paths.attempt_path(tmp_path / "tiny", 1).mkdir()
    with pytest.raises(StudyBusyError, match="begun here"):
        pull(place, tmp_path)
    assert exchange.new(place, tmp_path) == {}
    paths.attempt_path(tmp_path / "tiny", 1).rmdir()
    assert pull(place, tmp_path)
    assert verify(tmp_path / "tiny") == []


def test_private_studies_stay_here_and_come_from_nowhere(place, tiny, tmp_path):
    name = pictures.study_name("a" * 24)
    write_small(tmp_path / name)
    shutil.copytree(tmp_path / name, tmp_path / "renamed")
    for folder in (tmp_path / name, tmp_path / "renamed"):
        with pytest.raises(StoreError, match="private"):
            push(place, folder)
    assert keys(place) == []
    inside(place).put(f"{name}.MANIFEST.json", paths.manifest_path(tmp_path / name).read_bytes())
    assert place.studies() == {}
    with pytest.raises(StudyNotFoundError, match="private"):
        pull(place, tmp_path / "studies", name)


def test_a_study_that_is_damaged_here_is_not_pushed(place, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "tiny")
    victim = next(path for path in open_published(tmp_path / "tiny").path.glob("importance/c.*"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedError, match=f"importance/{victim.name} is changed"):
        push(place, tmp_path / "tiny")
    assert place.studies() == {}


# --- a bad line ---


@pytest.mark.parametrize("lost", ["reply", "in time", "busy"])
def test_a_manifest_of_which_the_answer_is_lost_is_ours(place, storage, tiny, tmp_path, monkeypatch, lost):
    first = itertools.count()
    monkeypatch.setattr(buckets, "REQUEST_SECONDS", 1.0)

    def rule(method, key, environ):
        if method != "PUT" or not key.endswith("MANIFEST.json") or next(first):
            return None
        if lost == "reply":
            return "drop"
        if lost == "in time":
            time.sleep(1.5)
        return (500, "InternalError") if lost == "busy" else None

    storage.rules.append(rule)
    assert push(Bucket(place.url), tiny)
    pull(place, tmp_path)
    assert storage.done("PUT", manifests=True) == ["tiny.MANIFEST.json"]
    assert verify(tmp_path / "tiny") == []


def test_a_storage_that_is_busy_for_a_while_or_loses_answers_is_asked_again(place, storage, tiny, tmp_path):
    numbers = itertools.count()
    storage.rules.append(
        lambda method, key, environ: {0: (503, "SlowDown"), 3: "drop", 5: (500, "InternalError")}.get(
            next(numbers) % 11
        )
    )
    assert push(place, tiny)
    assert pull(place, tmp_path)
    assert verify(tmp_path / "tiny") == []


@pytest.mark.parametrize("action", [push, pull])
def test_a_storage_that_stays_busy_is_given_up_and_the_next_try_goes_on(
    place, storage, tiny, tmp_path, monkeypatch, action
):
    monkeypatch.setattr(buckets, "MOST_RETRIES", 2)
    given = (tiny,) if action is push else (tmp_path,)
    if action is pull:
        push(place, tiny)
    storage.seen.clear()
    after = itertools.count()
    storage.rules.append(lambda method, key, environ: (503, "SlowDown") if "/" in key and next(after) >= 10 else None)
    began = time.monotonic()
    with pytest.raises(BucketBusyError, match="503 SlowDown"):
        action(Bucket(place.url), *given)
    assert time.monotonic() - began < 5
    assert len([status for *_, status in storage.seen if status == 503]) <= 3 * 2 * exchange.AT_ONCE
    storage.rules.clear()
    assert action(place, *given)


# --- what a person can mend ---


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "check that AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", "the key has expired"),
        (403, "AccessDenied", "s3:PutObject"),
        (401, "Whatever", "s3:PutObject"),
        (403, "RequestTimeTooSkewed", "clock of this machine"),
        (301, "PermanentRedirect", "set AWS_REGION"),
        (404, "NoSuchBucket", "there is no bucket lab-"),
        (418, "Teapot", "answers 418 Teapot"),
    ],
)
@pytest.mark.parametrize("command", [("push", "tiny"), ("pull",), ("pull", "tiny")])
def test_what_the_storage_refuses_is_said_in_one_line_without_a_secret(
    place, storage, tiny, tmp_path, status, code, said, command
):
    storage.rules.append(lambda *request: (status, code))
    data = tiny.parents[1] if command[0] == "push" else tmp_path
    told = " ".join(run(*command, "--data", data, code=1).split())
    assert said in told
    assert place.url.split("/")[2] in told
    assert told.count("error:") == 1
    with pytest.raises(BucketError) as caught:
        place.studies()
    trace = "".join(traceback.format_exception(caught.value))
    for secret in (SECRET, TOKEN, KEY):
        assert secret not in trace


def test_a_storage_that_cannot_put_once_is_named(place, storage, tiny, monkeypatch):
    monkeypatch.setattr(buckets, "MOST_RETRIES", 1)
    storage.rules.append(
        lambda method, key, _: (501, "NotImplemented") if "MANIFEST" in key and method == "PUT" else None
    )
    with pytest.raises(BucketError, match="does not take If-None-Match"):
        push(Bucket(place.url), tiny)


def test_a_storage_that_is_not_there_is_named(place, tiny, monkeypatch):
    monkeypatch.setattr(buckets, "MOST_RETRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "127.0.0.1:9 is not reached; check AWS_ENDPOINT_URL" in run(
        "push", "tiny", "--data", tiny.parents[1], code=1
    )


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HEADSCOPE_BUCKET", "", "set HEADSCOPE_BUCKET"),
        ("HEADSCOPE_BUCKET", "lab", "is no bucket's address"),
        ("HEADSCOPE_BUCKET", f"s3://{KEY}:{SECRET}@lab/headscope", "is no bucket's address"),
        ("AWS_ENDPOINT_URL", "s3.lab.org", "is no address"),
        ("AWS_ENDPOINT_URL", f"https://{KEY}:{SECRET}@s3.lab.org", "is no address"),
        ("AWS_ENDPOINT_URL", "https://s3.lab.org:x", "is no address"),
        ("AWS_ACCESS_KEY_ID", "", "AWS_ACCESS_KEY_ID is not set"),
        ("AWS_SECRET_ACCESS_KEY", "", "AWS_SECRET_ACCESS_KEY is not set"),
    ],
)
def test_a_setting_that_cannot_be_is_named(place, tiny, monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    assert said in " ".join(run("push", "tiny", "--data", tiny.parents[1], code=1).split())


def test_without_the_package_it_says_what_to_install(place, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert "pip install 'headscope[s3]'" in run("pull", code=1)


def test_without_a_bucket_the_package_is_not_imported():
    code = "import sys, headscope, dashboard.app, workers.tasks; print('obstore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_a_study_that_is_not_there_is_named(place, tmp_path):
    assert "has no study other" in run("pull", "other", "--data", tmp_path, code=1)
    assert "is not a study name" in run("pull", "../other", "--data", tmp_path, code=1)
    assert "no published study" in run("push", "other", "--data", tmp_path, code=1)


# --- damaged, hostile ---


@pytest.mark.parametrize(
    ("how", "said"), [("changed", "changed"), ("short", "bytes long instead of"), ("gone", "missing")]
)
def test_an_object_that_is_damaged_is_named_and_nothing_is_placed(place, storage, tiny, tmp_path, how, said):
    push(place, tiny)
    at = next(key for key in keys(place) if "/importance/c." in key)
    data = bytes(inside(place).get(at).bytes())
    if how == "gone":
        inside(place).delete(at)
    else:
        inside(place).put(at, data[:-1] + (b"?" if how == "changed" else b""))
    told = " ".join(run("pull", "tiny", "--data", tmp_path, code=1).split())
    assert f"object importance/{at.rpartition('/')[2]} is" in told
    assert said in told
    assert Shelf(tmp_path / "studies").entries() == []
    if how == "changed":
        inside(place).put(at, data)
    else:
        assert not push(place, tiny)  # mends what is missing
    storage.seen.clear()
    assert pull(place, tmp_path / "studies")
    assert at in storage.done("GET")
    assert verify(tmp_path / "studies" / "tiny") == []


FINE = {"zarr.json": (2, hashlib.sha256(b"{}").hexdigest())}
ONE = (1, hashlib.sha256(b"x").hexdigest())


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"objects": FINE | {key: ONE}}
            for key in (
                *(
                    "../x",
                    "/tmp/x",
                    "a/../../../x",
                    "a/..",
                    "..",
                    ".",
                    "",
                    "a/",
                    "a//b",
                    "./a",
                    "a/./b",
                    "a\0b",
                    "a\nb",
                ),
                *("zarr.json/b", "é", "a" * 300, "/".join("a" * 200), "a.partial"),
            )
        ),
        {"objects": FINE | {"a": (-1, ONE[1])}},
        {"attempt": "../attempt-1"},
        {"attempt": "."},
        {"attempt": 1},
        {"study": "other"},
        {"study": pictures.study_name("a" * 24)},
        {"study": ["tiny"]},
        {"run": [1]},
        {"run": None},
        {"packages": 7},
        {"objects": FINE},  # does not open
    ],
    ids=lambda changes: ascii(changes)[:60],
)
def test_a_hostile_manifest_is_refused_and_nothing_is_written_outside(place, tmp_path, changes):
    studies = tmp_path / "data" / "studies"
    (studies / "mine").mkdir(parents=True)
    (studies / "mine" / "MANIFEST.json").write_bytes(b"mine")
    before = everything(tmp_path)
    manifest = replace(Manifest("tiny", "attempt-1", FINE), **changes)
    inside(place).put("tiny.MANIFEST.json", manifest.to_bytes())
    for key, data in (("zarr.json", b"{}"), ("x", b"x"), ("a", b"x")):
        inside(place).put(f"tiny/{manifest.content[:12]}/{key}", data)
    with pytest.raises(DamagedError):
        pull(place, studies)
    assert {name: data for name, data in everything(tmp_path).items() if "/.pull/tiny/" not in name} == before
    assert not (studies / "tiny").exists()


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"headscope": 3}'),
        b'{"headscope": {"schema": 1, "version": "1"}, "seal": "", "objects": {"\\udcff": [1, ""]}}',
    ],
)
def test_what_is_no_manifest_at_all_is_refused(place, tmp_path, text):
    inside(place).put("tiny.MANIFEST.json", text)
    with pytest.raises(DamagedError, match="is no manifest of a study"):
        pull(place, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_in_the_bucket_that_are_no_studys_are_passed_over(place, tiny, tmp_path):
    push(place, tiny)
    text = paths.manifest_path(tiny).read_bytes()
    for name in ("UPPER", "-x", ".x", "a b", "é", "x" * 81, "sub/x", pictures.study_name("0" * 24)):
        inside(place).put(f"{name}.MANIFEST.json", text)
    inside(place).put(".MANIFEST.json", text)
    inside(place).put("notes.txt", b"of people")
    assert list(place.studies()) == ["tiny"]


def test_a_study_under_another_name_than_its_own_is_refused(place, tiny, tmp_path):
    push(place, tiny)
    for at in keys(place):
        inside(place).put(at.replace("tiny", "other", 1), bytes(inside(place).get(at).bytes()))
    with pytest.raises(DamagedError, match=r"other\.MANIFEST\.json is the manifest of another study, 'tiny'"):
        pull(place, tmp_path, "other")
    assert list(tmp_path.iterdir()) == []
    shutil.copytree(tiny, tmp_path / "renamed")
    with pytest.raises(StoreError, match="was published as tiny"):
        push(place, tmp_path / "renamed")


def test_a_key_in_the_bucket_that_cannot_be_is_said(place, storage):
    bucket = place.url.split("/")[2]
    send(storage, "PUT", f"/{bucket}/headscope//x", b"x")
    with pytest.raises(BucketError, match="an object whose name cannot be"):
        place.studies()


def test_sizes_are_those_of_the_manifest_and_a_manifest_has_bounds(place, tiny, tmp_path, monkeypatch):
    push(place, tiny)
    at = next(key for key in keys(place) if "/pixels/c." in key)
    inside(place).put(at, b"x" * 5_000_000)
    with pytest.raises(DamagedError, match="5000000 bytes long instead of"):
        pull(place, tmp_path)
    assert sum(map(len, everything(tmp_path).values())) < 5_000_000
    monkeypatch.setattr(buckets, "MOST_MANIFEST", 100)
    with pytest.raises(DamagedError, match="which no manifest is"):
        pull(place, tmp_path)


def test_without_room_nothing_is_fetched(place, storage, tiny, tmp_path, monkeypatch):
    push(place, tiny)
    storage.seen.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(DiskFullError, match=r"needs .* MB and"):
        pull(place, tmp_path)
    assert storage.done("GET", manifests=False) == []


def test_a_study_of_a_newer_headscope_says_so(place, tmp_path):
    inside(place).put("tiny.MANIFEST.json", Manifest("tiny", "attempt-1", FINE, "9.9", schema_version=99).to_bytes())
    with pytest.raises(NewerSchemaError, match=r"upgrade to 9\.9"):
        pull(place, tmp_path)


# --- by itself ---


def test_what_is_new_is_pulled_and_what_is_refused_waits_until_it_changes(place, storage, tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    follower = exchange.Follower(place, tmp_path)
    assert follower.look() == []
    push(place, tiny)
    inside(place).put("bad.MANIFEST.json", b"bad")
    assert follower.look() == ["tiny"]
    assert verify(tmp_path / "tiny") == []
    assert "study bad of s3://" in caplog.text
    storage.seen.clear()
    caplog.clear()
    assert follower.look() == []
    assert storage.done("GET") == [""]
    assert not caplog.records
    good = write_small(tmp_path / "elsewhere" / "bad")
    inside(place).delete("bad.MANIFEST.json")
    push(place, good)
    assert follower.look() == ["bad"]


def test_what_another_process_pulls_is_left_to_it_and_looked_for_again(place, tiny, tmp_path, caplog):
    push(place, tiny)
    follower, lock = exchange.Follower(place, tmp_path), StudyLock(tmp_path / ".pull" / "tiny")
    assert follower.look() == []
    assert not caplog.records
    lock.release()
    assert follower.look() == ["tiny"]


def test_a_bucket_that_is_away_is_logged_once_and_pulled_from_when_it_is_back(place, storage, tiny, tmp_path, caplog):
    push(place, tiny)
    follower = exchange.Follower(place, tmp_path)
    storage.rules.append(lambda *request: (403, "InvalidAccessKeyId"))
    for _ in range(3):
        assert follower.look() == []
    assert caplog.text.count("does not know the key") == 1
    assert KEY not in caplog.text
    storage.rules.clear()
    assert follower.look() == ["tiny"]


def test_what_an_interrupted_pull_left_goes_when_the_study_is_gone(place, tiny, tmp_path, monkeypatch):
    push(place, tiny)
    monkeypatch.setenv(failpoints.VARIABLE, "after-object-pull:3:raise")
    with pytest.raises(failpoints.InjectedError):
        pull(place, tmp_path)
    monkeypatch.delenv(failpoints.VARIABLE)
    inside(place).delete("tiny.MANIFEST.json")
    exchange.Follower(place, tmp_path).look()
    assert not list((tmp_path / ".pull").iterdir())


def test_a_worker_pulls_beside_its_work(place, tiny, tmp_path, monkeypatch):
    from workers import tasks

    push(place, tiny)
    there = tmp_path / "studies" / "tiny" / "MANIFEST.json"

    class App:
        conf: dict = {}

        def Worker(self, **given):
            return self

        exitcode = 0

        def start(self):
            until(there.exists)

    monkeypatch.setattr(tasks, "celery_app", lambda settings: App())
    monkeypatch.setattr(tasks, "_every", lambda *given: None)
    assert tasks.run_worker(Settings(data=tmp_path), "bulk", "one") == 0
    assert there.exists()
    with pytest.raises(BucketError, match="is no bucket's address"):
        tasks.run_worker(Settings(data=tmp_path, bucket="lab"), "bulk", "one")


@pytest.mark.parametrize("has_workers", [False, True])
def test_a_server_pulls_where_it_has_no_workers_that_would(place, tiny, tmp_path, monkeypatch, has_workers):
    from dashboard import app
    from workers import embedded

    push(place, tiny)
    looked = []
    monkeypatch.setattr(exchange.Follower, "keep_looking", lambda self: looked.append(self))
    monkeypatch.setattr(embedded.Embedded, "_planned", lambda self: [])
    monkeypatch.setattr(embedded.Embedded, "has_workers", has_workers)
    monkeypatch.setattr(app, "serve", lambda settings: None)
    run("serve", "--data", tmp_path, "--port", free_port())
    assert len(looked) == (not has_workers)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def until(is_so):
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
