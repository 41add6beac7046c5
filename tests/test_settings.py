import os
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from store.settings import Settings
from workers.embedded import environment

DOCS = Path(__file__).parent.parent / "docs" / "settings.md"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_stands_in_the_docs_with_its_default(name):
    field = Settings.model_fields[name]
    row = f"| `HEADSCOPE_{name.upper()}` | `{field.default}` | {field.description} |"
    assert row in DOCS.read_text(encoding="utf-8")


def test_the_docs_list_no_setting_that_is_not_there():
    listed = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `HEADSCOPE_")]
    assert len(listed) == len(Settings.model_fields)


def test_the_environment_sets_and_arguments_go_before_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSCOPE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADSCOPE_PORT", "9000")
    assert Settings().studies == tmp_path / "studies"
    assert Settings().port == 9000
    assert Settings(port=9001).port == 9001


def test_without_the_environment_the_folders_are_below_data(monkeypatch):
    monkeypatch.delenv("HEADSCOPE_DATA", raising=False)
    settings = Settings()
    assert (settings.studies, settings.images, settings.models) == (
        Path("data/studies"),
        Path("data/images"),
        Path("data/models"),
    )


@pytest.mark.parametrize(
    ("name", "value"), [("port", "0"), ("threads", "0"), ("attention_limit_gb", "-1"), ("bulk_workers", "-1")]
)
def test_a_setting_out_of_its_range_is_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv(f"HEADSCOPE_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_the_broker_and_the_ledger_are_in_the_data_folder_whatever_its_name_is(tmp_path, monkeypatch):
    settings = Settings(data=tmp_path / "100% a?b#c é")
    monkeypatch.setattr("store.settings._LONGEST_SOCKET", 1_000)  # the folder of a test may be deep
    assert settings.broker_socket == settings.data / "broker" / "broker.sock"
    assert unquote(urlsplit(settings.broker_url).path) == str(settings.broker_socket)
    assert make_url(settings.ledger_url).database == str(settings.data / "headscope.db")


def test_a_socket_whose_path_would_be_too_long_is_below_the_temporary_folder_one_a_data_folder(tmp_path):
    one, other = (Settings(data=tmp_path / ("long" * 30) / name).broker_socket for name in "ab")
    assert one != other
    for socket in (one, other):
        assert socket.parent.parent == Path(tempfile.gettempdir())
        assert len(os.fsencode(socket)) <= 103


def test_a_broker_and_a_ledger_elsewhere_are_taken_as_they_are_given():
    settings = Settings(broker="redis://host:6379/1", ledger="postgresql+psycopg://me@host/jobs")
    assert (settings.broker_url, settings.ledger_url) == (settings.broker, settings.ledger)


def test_names_of_the_server_are_set_with_commas_and_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("HEADSCOPE_HOSTS", "Headscope.lab.org, 10.0.0.5")
    assert Settings().hosts == ("headscope.lab.org", "10.0.0.5")
    for name in ("HOSTS", "SECRET", "SIGN_IN", "TRUSTED_HEADER"):
        monkeypatch.setenv(f"HEADSCOPE_{name}", "")
    settings = Settings()
    assert (settings.hosts, settings.secret, settings.sign_in, settings.trusted_header) == ((), None, None, None)


@pytest.mark.parametrize(
    ("given", "is_open"),
    [
        ({}, True),
        ({"host": "::1"}, True),
        ({"sign_in": False}, True),
        ({"sign_in": True}, False),
        ({"trusted_header": "X-Remote-User"}, False),
        ({"host": "0.0.0.0"}, False),
        ({"host": "0.0.0.0", "sign_in": False}, False),
        ({"host": "lab.org"}, False),
    ],
)
def test_only_a_server_for_this_machine_alone_is_open(given, is_open):
    assert Settings(**given).is_open == is_open


@pytest.mark.parametrize("name", ["a b", "a:", "é", "a_b", "a\n"])
def test_what_is_no_name_of_a_header_is_refused(name):
    with pytest.raises(ValidationError, match="trusted_header"):
        Settings(trusted_header=name)


def test_workers_are_not_told_the_secret(monkeypatch):
    monkeypatch.setenv("HEADSCOPE_SECRET", "8f3a61c0d92be47715f08c6a2d94e3b1")
    given = os.environ | environment(Settings())
    assert given["HEADSCOPE_SECRET"] == ""
    assert "8f3a61c0" not in repr(Settings())
