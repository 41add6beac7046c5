"""Fixtures that more than one test file uses."""

import os
from pathlib import Path

import pytest

from tests.databases import postgres_server, postgresql
from tests.studies import write_tiny_study

__all__ = ["no_flush", "postgres_server", "postgresql", "tiny_study_path"]


@pytest.fixture(scope="session")
def tiny_study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a published tiny study that all tests share: read it, never change it."""
    return write_tiny_study(tmp_path_factory.mktemp("studies") / "tiny")


@pytest.fixture
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the disk where a test is about names and bytes: no test can see what a flush changes."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
