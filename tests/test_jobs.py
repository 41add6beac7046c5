from pathlib import Path

import pytest

from analyses.pruning import PruneRequest
from analyses.request import result_key
from jobs import requests as jobs
from jobs.requests import PriceRequest, StudyRequest, UploadRequest

STUDY = StudyRequest("deit_tiny_patch16_224", Path("/photos"), image_size=(224, 336), skip=frozenset({"patterns"}))
PRUNE = PruneRequest(study="demo", content="abc", images=("a", "b"), heads=((0, 1), (2, 0)))


def changed(**changes):
    """PRUNE with other fields, validated."""
    return PruneRequest(**(PRUNE.model_dump() | changes))


@pytest.mark.parametrize("asked", [STUDY, PriceRequest(STUDY), PRUNE, UploadRequest("0" * 24, "birds")])
def test_a_askedcomes_back_from_json_as_it_went(asked):
    assert jobs.from_json(jobs.kind_of(asked), jobs.to_json(asked)) == asked


def test_the_same_question_has_one_key_however_it_is_put():
    same = changed(heads=((2, 0), (0, 1), (2, 0)), images=("a", "b", "a"))
    assert jobs.key_of(same) == jobs.key_of(PRUNE)
    assert jobs.to_json(same) == jobs.to_json(PRUNE)
    assert jobs.key_of(changed(content="another")) != jobs.key_of(PRUNE)
    assert result_key("prune", changed(study="a copy")) == result_key("prune", PRUNE) != result_key("x", PRUNE)
    assert jobs.key_of(PriceRequest(STUDY)) != jobs.key_of(STUDY)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": ()}, "0 images; give 1 to 5,000"),
        ({"images": tuple(map(str, range(5001)))}, "5,001 images"),
        ({"heads": ()}, "0 heads"),
        ({"regions": ()}, "0 sets of regions"),
        ({"regions": (16,)}, "not of 0 to 15"),
        ({"regions": (-1,)}, "not of 0 to 15"),
    ],
)
def test_a_pruning_of_nothing_or_of_too_much_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        jobs.from_json("prune", jobs.to_json(PRUNE) | change)
    with pytest.raises(ValueError, match=said):
        changed(**change)


@pytest.mark.parametrize(
    ("kind", "plain", "said"),
    [
        ("study", {"model": "x"}, "images of a study job: Field required"),
        ("study", {"model": "x", "images": "y", "per_class": "many"}, "per_class"),
        ("prune", [], "the request of a prune job"),
        ("prune", {**jobs.to_json(PRUNE), "heads": [[0]]}, "heads.0"),
        ("explode", {}, "no kind of job; there are study, price, upload, image, prune"),
    ],
)
def test_what_is_no_askedis_refused_by_the_field_that_is_wrong(kind, plain, said):
    with pytest.raises(ValueError, match=said):
        jobs.from_json(kind, plain)


def test_a_pruning_of_many_images_is_cut_and_joined():
    many = changed(images=tuple(map(str, range(10))))
    steps = jobs.steps_of(many)
    assert [step.images for step in steps] == [4, 4, 2, 0]
    assert [step.name for step in steps] == ["images 0 to 3", "images 4 to 7", "images 8 to 9", "join"]
    assert [(step.phase, step.number) for step in steps] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert len(jobs.steps_of(changed(images=many.images[:4]))) == 1


def test_studies_wait_in_another_queue_than_what_a_person_waits_for():
    assert {kind: jobs.queue_of(kind) for kind in jobs.kinds()} == {
        "study": jobs.BULK,
        "price": jobs.INTERACTIVE,
        "prune": jobs.INTERACTIVE,
        "upload": jobs.BULK,
        "image": jobs.INTERACTIVE,
    }
