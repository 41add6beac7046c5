"""What does a working process keep between two units, so that the next one need not make it again?"""

import os
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from cachetools import LRUCache

Value = TypeVar("Value")


def memory_cache(nbytes: Callable[[Value], int], most_bytes: int, share: float) -> LRUCache[Hashable, Value]:
    """A cache of at most `most_bytes`, and at most this share of the memory of the machine or its GPU.

    The newest value stays whatever its size. One unit is done at a time, so there is no lock.
    """
    most = min(most_bytes, int(share * _memory()))
    return LRUCache(most, lambda value: min(nbytes(value), most))


def device() -> str:
    """Where this process computes what a person waits for: on the GPU, if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
