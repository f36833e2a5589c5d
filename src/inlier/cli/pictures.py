"""Images on their way out: 8-bit PNG files under the names they came with."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from inlier.files import write_bytes
from inlier.types import Images

__all__ = ["write_pictures"]


def write_pictures(folder: Path, names: Sequence[str], images: Images) -> None:
    """Round to 8 bit and write `folder/name.png`, whole files or none."""
    for name, image in zip(names, images, strict=True):
        pixels = (image.detach().permute(1, 2, 0).clamp(0, 1) * 255).round().to("cpu").numpy().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        write_bytes((folder / name).with_suffix(".png"), file.getvalue())
