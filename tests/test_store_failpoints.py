import errno
import time

import pytest

from store import failpoints


@pytest.mark.parametrize(
    "setting",
    ["", "nowhere:kill", "before-gather", "before-gather:explode", "before-gather:0:kill", "before-gather:x:kill",
     "before-gather:sleep=long", "before-gather:1:2:kill"],
)  # fmt: skip
def test_a_setting_that_names_no_point_count_or_action_is_refused(monkeypatch, setting):
    monkeypatch.setenv(failpoints.VARIABLE, setting)
    with pytest.raises(ValueError, match="before-unit-write"):
        failpoints.hit("before-gather")


def test_code_cannot_pass_a_point_that_is_not_listed():
    with pytest.raises(ValueError, match="nowhere"):
        failpoints.hit("nowhere")


def test_without_the_variable_no_point_acts(monkeypatch):
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    acted = []
    monkeypatch.setattr(failpoints, "_act", lambda name, action: acted.append(name))
    for name in failpoints.NAMES:
        failpoints.hit(name)
    assert acted == []
    monkeypatch.setenv(failpoints.VARIABLE, "after-unit-ack:raise")
    for name in failpoints.NAMES:
        failpoints.hit(name)
    assert acted == ["after-unit-ack"]


def test_only_the_nth_passing_acts(monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "after-unit-ack:3:raise")
    failpoints.hit("before-unit-ack")
    failpoints.hit("after-unit-ack")
    failpoints.hit("after-unit-ack")
    with pytest.raises(failpoints.InjectedError, match="after-unit-ack"):
        failpoints.hit("after-unit-ack")
    failpoints.hit("after-unit-ack")


def test_enospc_is_what_a_full_disk_raises(monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "before-manifest:enospc")
    with pytest.raises(OSError) as raised:
        failpoints.hit("before-manifest")
    assert raised.value.errno == errno.ENOSPC


def test_sleep_waits(monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "before-manifest:sleep=0.05")
    before = time.monotonic()
    failpoints.hit("before-manifest")
    assert time.monotonic() - before >= 0.05
