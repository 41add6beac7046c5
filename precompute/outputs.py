"""What do a model's outputs mean? Classes of which one is true, or something of which no probability can be had.

timm's configurations do not say it: a joint embedding of CLIP has as many outputs as some classifiers. Their number
tells, as no width of an embedding in use is the size of an ImageNet: of the 458 pretrained tags of plain ViTs, EVA and
BEiT this is right for all but `bamboo`, which is named below. Of a file of weights a person or a configuration can say
it, and is believed.
"""

from dataclasses import dataclass
from functools import cache

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor
from torch.nn import functional as F

from analyses.vocabulary import NAMED_CLASSES
from precompute.configuration import Configuration
from precompute.errors import ModelError

_BAMBOO = 115_217  # classes of bamboo's labels, which timm does not have


@dataclass(frozen=True)
class Outputs:
    """What the outputs of a model are.

    kind: "classes", one of which is true (softmax); "logit", one output whose sigmoid is P(class 1), with class 0
          implied; "other": anything else, or no head at all
    why:  what they are instead, for "other"; else how it is known that they are classes
    """

    kind: str
    why: str

    @property
    def are_classes(self) -> bool:
        return self.kind != "other"

    def num_classes(self, num_outputs: int) -> int:
        """Classes of a head with this number of outputs; 0 where they are no classes."""
        return {"classes": num_outputs, "logit": 2}.get(self.kind, 0)

    def logits(self, output: Tensor) -> Tensor:
        """Logits (image, class) from the head's output (image, output).

        Of one logit x these are (0, x), whose softmax is (1 − σ(x), σ(x)). What is no class is left as it is.
        """
        return F.pad(output, (1, 0)) if self.kind == "logit" else output


def is_size_of_classes(num_outputs: int) -> bool:
    """Whether this number of outputs, of weights that timm knows, is of classes and not of a joint embedding."""
    return num_outputs == _BAMBOO or infer_imagenet_subset({"num_classes": num_outputs}) is not None


def outputs_of_timm(name: str, num_outputs: int) -> Outputs:
    """What the outputs are of a model with timm's own weights, or with random ones."""
    if not num_outputs:
        return Outputs("other", f"{name} has no classifier")
    if is_size_of_classes(num_outputs) or name.startswith("headscope_demo"):
        return Outputs("classes", f"timm's {num_outputs:,} classes of {name}")
    return Outputs("other", f"the {num_outputs} outputs of {name} are an embedding, not classes")


def outputs_of_file(
    name: str,
    num_outputs: int,
    *,
    architectures_own: int,
    bias: Tensor | None,
    configuration: Configuration | None,
) -> tuple[Outputs, str]:
    """What the outputs are of weights from a file, as far as anything tells, and what had to be assumed.

    Args:
        architectures_own: Outputs of timm's own weights of this name.
        bias: Of the head.
        configuration: What lies beside the file.
    """
    if not num_outputs:
        return Outputs("other", f"{name} has no classifier"), ""
    if configuration is not None and configuration.one_class is False:
        return Outputs("other", f"the outputs are no classes of which one is true: {configuration.not_classes}"), ""
    if configuration is not None and configuration.one_class and num_outputs > 1:
        return Outputs("classes", "config.json beside the weights has the names of the classes"), ""
    if num_outputs == 1:
        if configuration is not None and len(configuration.class_names) == 2:
            return Outputs("logit", "config.json beside the weights names two classes of one logit"), ""
        why = (
            "the one output may be the logit of a binary classifier or a measured value, and nothing says which; "
            "two class names (--classes) say that it is a logit"
        )
        return Outputs("other", why), ""
    embeds = bool(architectures_own) and not is_size_of_classes(architectures_own)
    trained = bias is not None and bool(torch.any(bias != 0))  # a projection has no bias; timm fills in zeros
    if embeds and num_outputs == architectures_own and not trained:
        why = f"the {num_outputs} outputs are taken for an embedding, as those of timm's own {name} are"
        return Outputs(
            "other", why
        ), f"{why}; if they are classes, say so by class names (--classes) or outputs (--outputs classes)"
    return Outputs("classes", f"the head has {num_outputs:,} outputs"), ""


def outputs_as_said(said: str, num_outputs: int, num_names: int | None, name: str) -> Outputs | None:
    """What a person says that the outputs are; None where nothing is said.

    Args:
        said: One of vocabulary.OUTPUTS.
        num_names: How many class names were given; None if none were.
    Raises:
        ModelError: It cannot be.
    """
    if said == "other" and num_names is None:
        return Outputs("other", "--outputs other says that they are no classes of which one is true")
    if said == "other":
        raise ModelError("--outputs other and --classes exclude each other: what is no class has no class name")
    if said == "auto" and num_names is None:
        return None
    if not num_outputs:
        raise ModelError(
            f"{name} has no classifier, so there is nothing that --classes or --outputs classes could mean"
        )
    how = "--classes names them" if num_names is not None else "--outputs classes says so"
    expected = 2 if num_outputs == 1 else num_outputs
    if num_names is not None and num_names != expected:
        of_one = " (one logit stands for two)" if num_outputs == 1 else ""
        raise ModelError(
            f"--classes names {num_names} classes; {name} here has {expected}{of_one}. Give one name for each, in order"
        )
    return Outputs("logit" if num_outputs == 1 else "classes", how)


@cache
def named_classes(which: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and WordNet ids of the classes of one of NAMED_CLASSES, in timm's order of outputs."""
    info = ImageNetInfo(which)
    return tuple(info.label_descriptions(as_dict=False)), tuple(info.label_names())


def subset_of(num_outputs: int) -> str | None:
    """The one of NAMED_CLASSES that has this number of classes."""
    found = infer_imagenet_subset({"num_classes": num_outputs}) if num_outputs else None
    return found if found in NAMED_CLASSES and len(named_classes(found)[0]) == num_outputs else None
