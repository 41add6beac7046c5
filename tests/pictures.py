"""Small folders of pictures, drawn in place."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture_folder(folder: Path, classes=("0", "1", "2"), each=3, size=48) -> Path:
    """A folder a class of noisy pictures of one colour a class."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = rng.integers(0, 80, (size, size, 3)) + np.eye(3, dtype=int)[number % 3] * 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")
    return folder
