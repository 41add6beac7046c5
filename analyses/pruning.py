"""What changes when parts of some heads are switched off? Computed when a person asks for it."""

from pydantic import field_validator

from analyses.analysis import Analysis
from analyses.arrays import ArraySpec
from analyses.request import AnalysisRequest, some
from analyses.vocabulary import MODES, REGION_SETS

MOST_HEADS = 4096
BY_REGIONS = ("region_set", "image")
BY_LAYER = ("region_set", "layer", "image")


class PruneRequest(AnalysisRequest):
    """Parts of some heads switched off, on some images of a study.

    Attributes:
        heads: As (layer, head), 1 to MOST_HEADS, sorted; all are switched off at once.
        regions: Sets of regions, each 0 to 15 as a sum of CLS→CLS 1, CLS→patches 2, patches→CLS 4 and patches→patches
            8; each is a variant of its own.
    """

    heads: tuple[tuple[int, int], ...]
    regions: tuple[int, ...] = MODES

    @field_validator("heads")
    @classmethod
    def _some_heads(cls, heads: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        return some("heads", tuple(sorted(set(heads))), MOST_HEADS)

    @field_validator("regions")
    @classmethod
    def _some_regions(cls, regions: tuple[int, ...]) -> tuple[int, ...]:
        if not set(regions) <= set(REGION_SETS):
            raise ValueError(f"{regions} are not of 0 to 15, sums of 1, 2, 4 and 8")
        return some("sets of regions", tuple(dict.fromkeys(regions)), len(REGION_SETS))

    @property
    def title(self) -> str:
        """What people call the job."""
        layer, head = self.heads[0]
        heads = f"L{layer}·H{head}" if len(self.heads) == 1 else f"{len(self.heads)} heads"
        return f"{heads} of {super().title}"

    def in_words(self) -> list[tuple[str, str]]:
        """The request for people, as rows of a term and what is said of it."""
        heads = ", ".join(f"L{layer}·H{head}" for layer, head in self.heads[:8])
        more = f" and {len(self.heads) - 8:,} more" if len(self.heads) > 8 else ""
        study, *others = super().in_words()
        return [study, ("Heads", heads + more), *others, ("Sets of regions", f"{len(self.regions)}")]


ANALYSIS = Analysis(
    name="prune",
    title="Pruning",
    when="request",
    request=PruneRequest,
    function="precompute.pruning:of_unit",
    cut=("image",),
    needs=("model",),
    reads=(
        *("image", "pixels", "metric", "target", "logits", "probability"),
        *("importance", "pruned_probability", "pruned_top_class", "pruned_top_probability"),
    ),
    arrays={
        "image": ArraySpec(
            ("image",), "string", "Ids of the images.", computed_by="precompute.pruning:of_unit", chunking="whole"
        ),
        "region_set": ArraySpec(
            ("region_set",),
            "int32",
            "What is switched off: a sum of CLS→CLS 1, CLS→patches 2, patches→CLS 4, patches→patches 8 (query → key).",
            equation="Fig. 4",
            computed_by="precompute.pruning:of_unit",
            chunking="whole",
        ),
        "layer": ArraySpec(
            ("layer",),
            "int32",
            "Layers with a pruned head.",
            computed_by="precompute.pruning:of_unit",
            chunking="whole",
        ),
        "probability_drop": ArraySpec(
            BY_REGIONS,
            "float64",
            "P[target] - P_pruned[target], with the regions of all heads set to 0 after the softmax, nothing "
            "renormalised. target is the study's: the true class, or without a label the predicted one.",
            unit="probability, -1 to 1",
            equation="Eq. 3",
            computed_by="precompute.pruning:prune",
            needs=("classifier",),
            chunking="whole",
        ),
        "pruned_probability": ArraySpec(
            BY_REGIONS,
            "float64",
            "P_pruned[target].",
            unit="probability",
            equation="Eq. 3",
            computed_by="precompute.pruning:prune",
            needs=("classifier",),
            chunking="whole",
        ),
        "jsd": ArraySpec(
            BY_REGIONS,
            "float64",
            "Jensen-Shannon divergence of P and P_pruned, no root taken.",
            unit="bits, 0 to 1",
            equation="Eq. 4",
            computed_by="precompute.metrics:jensen_shannon",
            needs=("classifier",),
            chunking="whole",
        ),
        "cls_distance": ArraySpec(
            BY_LAYER,
            "float64",
            "Cosine distance of the CLS row of the layer's z from that of the pruned z, z being the attention layer's "
            "output after its output projection.",
            unit="0 to 2",
            equation="Eq. 5",
            computed_by="precompute.importance:z_distances",
            needs=("cls",),
            chunking="whole",
        ),
        "patch_distance": ArraySpec(
            BY_LAYER,
            "float64",
            "The same of each patch, mean over patches.",
            unit="0 to 2",
            equation="Eq. 6",
            computed_by="precompute.importance:z_distances",
            chunking="whole",
        ),
        "top_class": ArraySpec(
            (*BY_REGIONS, "rank"),
            "int32",
            "The most probable classes with the regions switched off, best first.",
            unit="class",
            computed_by="precompute.pruning:likeliest",
            needs=("classifier",),
            chunking="whole",
        ),
        "top_probability": ArraySpec(
            (*BY_REGIONS, "rank"),
            "float64",
            "Probabilities of top_class.",
            unit="probability",
            computed_by="precompute.pruning:likeliest",
            needs=("classifier",),
            chunking="whole",
        ),
    },
)
