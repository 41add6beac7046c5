"""Workers killed, the queue wiped and the server killed, in one small study. The long form: `python -m tests.chaos`."""

from precompute.demo.model import WEIGHTS
from precompute.demo.pictures import write_picture_set
from tests.chaos import chaos

KILLS = 4


def test_a_disturbed_study_has_the_manifest_of_an_undisturbed_one(tmp_path):
    write_picture_set(tmp_path / "pictures")
    pictures = str(tmp_path / "pictures" / "images")
    study = ["headscope_demo", pictures, "--checkpoint", str(WEIGHTS), "--per-class", "4"]
    outcome = chaos(study, "disturbed", tmp_path, kills=KILLS, wipes=1, restarts=1, every=2.0, seed=1)
    assert outcome.disturbed == outcome.undisturbed
    assert (outcome.kills, outcome.wipes, outcome.restarts) == (KILLS, 1, 1)
    assert outcome.outcomes.get("failed", 0) == outcome.doubled == outcome.damage == 0
    assert outcome.left == []
