"""What does the page say of a study, where a package is installed? Run by tests/test_plugin.py in a process of its own.

`python -m tests.plugin_page DATA STUDY NAME` prints it as JSON; `… DATA serve` prints an address and answers there.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from werkzeug.serving import make_server

from dashboard.app import create_app
from dashboard.data import Shelf, facts
from dashboard.selection import default, to_search
from dashboard.views import head_card
from store.settings import Settings
from tests.components import components


def of_study(data: Path, name: str, number: str) -> dict[str, Any]:
    """What the parts of the page have of a number of a study's heads."""
    os.environ["HEADSCOPE_DATA"] = str(data)  # where the lines of an export find the study
    shelf = Shelf(data / "studies")
    known = facts(shelf.open(name))
    chosen = default(known)
    app = create_app(Settings(data=data))
    client, search = app.server.test_client(), to_search(chosen, known)
    study, picked = known.study, f"{search}&metric={number}"
    attention = np.array(
        [[study.layer_attention(image, layer) for layer in range(known.num_layers)] for image in range(2)], np.float64
    )
    lines: dict[str, Any] = {}
    exec(client.get(f"/export/head-importance.py{picked}").text, lines)
    return {
        "attributes": dict(study[number].attrs),
        "dims": study[number].metadata.dimension_names,
        "apart": float(np.abs(study.read(number)[:2] - attention.max(axis=-1).mean(axis=-1)).max()),
        "row": [vars(row) for row in head_card.rows(known, chosen) if row.name == number],
        "card": client.get(f"/export/head-card.csv{search}").text,
        "curve": client.get(f"/export/head-importance.csv{picked}").text.splitlines()[:2],
        "mean": float(lines["numbers"]["mean"][0]),
        "expected": float(study.read(number).astype(np.float64)[:, 0, 0].mean()),
        "about": {panel: client.get(f"/about/{panel}.md").text for panel in ("head-card", "head-importance")},
        "buttons": [
            each.children
            for each in components(app.layout())
            if getattr(each, "data-value", "") == json.dumps(["metric", number])
        ],
        "exports": {
            each: client.get(f"/export/{each}.{form}{picked}&colour=importance&map_colour=importance").status_code
            for each in ("image-overview", "head-card", "head-importance", "pattern-map")
            for form in ("csv", "py", "json")
        },
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if sys.argv[2] == "serve":
        server = make_server("127.0.0.1", 0, create_app(Settings(data=folder)).server, threaded=True)
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()
    sys.stdout.write(json.dumps(of_study(folder, *sys.argv[2:])))
