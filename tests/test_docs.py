"""What the documentation says is there, is there; and what is there, is documented."""

from pathlib import Path

import headscope
from precompute.analysis import METRICS
from store.schema import SCHEMA
from store.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = {page.name: page.read_text() for page in (ROOT / "docs").glob("*.md")}


def test_every_command_and_its_options_stand_in_the_page_of_commands():
    page = DOCS["commands.md"]
    for command in headscope.app.registered_commands:
        name = command.name or command.callback.__name__
        assert f"## headscope {name}" in page, name
    import typer.main

    for name, command in typer.main.get_command(headscope.app).commands.items():
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
    import re

    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links {target}"
