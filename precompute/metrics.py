"""How far apart are two outputs of a model? In float64, whatever came in."""

import torch
from torch import Tensor


def probabilities(logits: Tensor) -> Tensor:
    """softmax over the last dimension, float64."""
    return logits.double().softmax(dim=-1)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of distributions over the last dimension, in bits, in [0, 1] (Eq. 4).

    The divergence itself, in base 2, not its square root: the paper says "divergence" and gives no base.
    """
    p, q = p.double(), q.double()
    middle = (p + q) / 2
    halves = torch.special.xlogy(p, p / middle) + torch.special.xlogy(q, q / middle)
    # 0/0 where both are 0, or so small that their mean is: such a class adds nothing.
    halves = torch.where(middle == 0, 0.0, halves)
    return (halves.sum(dim=-1) / (2 * torch.log(torch.tensor(2.0, dtype=torch.float64)))).clamp(0, 1)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 − cos of the angle between vectors of the last dimension, float64, in [0, 2] (Eq. 5, 6).

    A vector is at exactly 0 from itself, zero vectors too; a zero vector and another have nothing in common (1).
    """
    a, b = a.double(), b.double()
    norms = a.norm(dim=-1) * b.norm(dim=-1)
    distance = (1 - (a * b).sum(dim=-1) / norms).clamp(0, 2)
    distance = torch.where(norms == 0, 1.0, distance)
    return torch.where((a == b).all(dim=-1), 0.0, distance)
