"""A computing process does not fetch the same memory again and again."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from workers.memory import keep_freed_memory
keep_freed_memory()
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for block in range(8):
        np.ones(4 << 20, np.float64)  # 32 MiB: 8192 pages
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc gives memory back at once")
def test_freed_memory_is_there_for_the_next_array():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # without, more than 4000
