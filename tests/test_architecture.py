"""Imports run one way, and the web half does not need torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "analyses": {"analyses"},
    "store": {"store", "analyses"},
    "precompute": {"precompute", "analyses"},
    "jobs": {"jobs", "store", "analyses"},
    "workers": {"workers", "jobs", "precompute", "store", "analyses"},
    "dashboard": {"dashboard", "jobs", "store", "analyses"},
}
OURS = set(ALLOWED) | {"headscope"}


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package):
    for file in (ROOT / package).rglob("*.py"):
        for module in imported(file):
            top = module.split(".")[0]
            if top in OURS:
                assert top in ALLOWED[package], f"{file.relative_to(ROOT)} imports {module}"


def test_the_web_half_runs_without_torch(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['timm'] = None\n"
        "import headscope, dashboard.app\n"
        "from store.settings import Settings\n"
        f"dashboard.app.create_app(Settings(data={str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
