"""What the documentation says is there, is there; and what is there, is documented."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer.main

import headscope
from analyses.vocabulary import METRICS
from store.schema import SCHEMA
from store.settings import Settings
from tests.studies import write_tiny_study

ROOT = Path(__file__).parents[1]
DOCS = {page.name: page.read_text() for page in (ROOT / "docs").glob("*.md")}
PAGES = DOCS | {page: (ROOT / page).read_text() for page in ("README.md", "CONTRIBUTING.md")}
PYTHON = {name: re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) for name, page in PAGES.items()}
COMMANDS = typer.main.get_command(headscope.app)


def test_every_command_and_its_options_stand_in_the_page_of_commands():
    page = DOCS["commands.md"]
    for command in headscope.app.registered_commands:
        name = command.name or command.callback.__name__
        assert f"## headscope {name}" in page, name
    for name, command in COMMANDS.commands.items():
        section = page.split(f"## headscope {name}\n")[1].split("\n## ")[0]
        parts = getattr(command, "commands", {})
        for part in parts:
            assert f"headscope {name} {part}" in section, part
        for parameter in [*command.params, *(each for part in parts.values() for each in part.params)]:
            shown = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.name.upper()
            assert shown in section, f"{name}: {shown}"


def test_every_setting_stands_in_the_page_of_settings():
    for name in Settings.model_fields:
        assert f"HEADSCOPE_{name.upper()}" in DOCS["settings.md"]


def test_every_array_stands_in_the_page_of_the_store_and_every_metric_in_that_of_methods():
    for name in SCHEMA:
        assert f"`{name}`" in DOCS["store.md"], name
    for name in METRICS:
        assert f"`{name}`" in DOCS["methods.md"], name


def test_pages_that_are_linked_exist():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links {target}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the reader of the pages is, with the studies that they open."""
    folder = tmp_path_factory.mktemp("reader")
    studies = folder / "data" / "studies"
    write_tiny_study(studies / "demo", layers=12, heads=6)
    for name in ("my-study", "photos"):
        shutil.copytree(studies / "demo", studies / name)
    return folder


# The lines of deploy.md need a bucket: tests/test_bucket.py runs them.
@pytest.mark.parametrize("page", [name for name, blocks in PYTHON.items() if blocks and name != "deploy.md"])
def test_the_python_lines_of_a_page_run_one_after_the_other(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("HEADSCOPE_DATA", raising=False)
    names: dict[str, object] = {}
    # A line that does not work raises, which fails this.
    for block in PYTHON[page]:
        exec(compile(block, page, "exec"), names)
    assert names.keys() - {"__builtins__"}, f"the lines of {page} did nothing"


def test_all_python_lines_stand_in_blocks_that_are_run():
    assert sum(map(len, PYTHON.values())) >= 7
    for name, page in PAGES.items():
        assert not re.search(r"^    (import|from) \w", page, re.M), name


def calls(page):
    """The words after each `headscope` in a page, and whether the line is whole: in a block, not amid a sentence."""
    text = page.replace("\\\n", " ")
    lines = [(line, True) for line in re.findall(r"^    (.+)$", text, re.M)]
    lines += [(code, False) for code in re.findall(r"`([^`\n]+)`", text)]
    for line, whole in lines:
        for part in re.split(r"&&|\|", re.split(r"\s#", line)[0]):
            if found := re.search(r"(?:^|[\s/])headscope ([a-z].*)$", part):
                yield shlex.split(re.sub(r"[\[\]]|\.\.\.", "", found[1])), whole


def options(command):
    own = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    return own.union(*(options(each) for each in getattr(command, "commands", {}).values()))


def test_every_command_line_that_is_shown_is_one_that_headscope_understands():
    count = 0
    for name, page in PAGES.items():
        for words, whole in calls(page):
            count += 1
            command, args = COMMANDS, list(words)
            while commands := getattr(command, "commands", None):
                assert args and args[0] in commands, f"{name}: {words}"
                command = commands[args.pop(0)]
            assert {word for word in args if word.startswith("-")} <= options(command), f"{name}: {words}"
            if whole:
                command.make_context(name, args)  # raises what the command line would say
    assert count > 50


def test_every_option_that_a_page_names_alone_is_one_of_some_command():
    for name in PAGES.keys() - {"performance.md"}:  # those are of `python -m benchmarks`
        for option in re.findall(r"`(--[a-z-]+)[^`]*`", PAGES[name]):
            assert option in options(COMMANDS), f"{name}: {option}"
