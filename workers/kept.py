"""What does a working process keep between two units, so that the next one need not make it again?"""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """What was made lately, up to some bytes of it; what was not asked for longest goes first.

    The newest is kept whatever its size. One unit is done at a time, so there is no lock.
    """

    def __init__(self, nbytes: Callable[[Value], int], most_bytes: int, share: float) -> None:
        """At most `most_bytes`, and at most this share of the memory of the machine or its GPU."""
        self._nbytes = nbytes
        self._most_bytes = most_bytes
        self._share = share
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()  # each with its bytes
        self._held = 0

    def get(self, key: Hashable) -> Value | None:
        """What is kept under that key, if it still is."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: Hashable, value: Value) -> None:
        """Keep it under that key."""
        self._held -= self._values.pop(key, (value, 0))[1]
        self._values[key] = value, self._nbytes(value)
        self._held += self._values[key][1]
        most = min(self._most_bytes, int(self._share * _memory()))
        while len(self._values) > 1 and self._held > most:
            self._held -= self._values.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Keep nothing."""
        self._values.clear()
        self._held = 0


def device() -> str:
    """Where this process computes what a person waits for: on the GPU, if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
