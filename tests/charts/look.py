"""Pictures that guard the look: drawn small, kept as files, compared with a tolerance.

Renew them after a wanted change with ``make baselines``, look at the difference, commit it.  Only
charts of made-up tables are here: other prices change no baseline.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent / "baselines"
DRAWN = (
    ("exit_frequency", "panel"), ("timeline", "panel"), ("effects", "paper"),
    ("experiment", "column"), ("experiment, sharp", "projector"), ("predictions", "column"),
    ("trend", "paper"), ("depth", "projector"),
)  # fmt: skip
DOTS = 60
CELL = 6
"""Pictures are compared in cells of so many pixels, of which half a letter fills one."""
SHIFT = 4
"""How far a cell may lie elsewhere [pixels]."""
TOLERANCE = 25.0
"""Most that a cell's mean may differ, of 255: matplotlib 3.9 instead of 3.11 makes 19."""


def file_of(name: str, size: str) -> Path:
    return FOLDER / f"{name.replace(', ', '-')}.{size}.png"


def picture(figure) -> Image.Image:
    """A figure at low resolution, without its footer: versions and hashes may change.

    Letters are drawn without hinting, which would move them by pixels from version to version.
    """
    from workbench import charts

    figure._supxlabel.set_visible(False)
    with mpl.rc_context({"text.hinting": "none"}):
        image = Image.open(io.BytesIO(charts.to_png(figure, DOTS))).convert("RGB")
    return image.quantize(32, Image.Quantize.MAXCOVERAGE)


def difference(one: Image.Image, other: Image.Image) -> float:
    """The largest difference of the means of a cell, of 255; infinite for other measures.

    A cell may lie some pixels elsewhere: layouts differ by that between versions of matplotlib.
    """
    if max(abs(a - b) for a, b in zip(one.size, other.size, strict=True)) > 1:
        return float("inf")
    width, height = (min(a, b) for a, b in zip(one.size, other.size, strict=True))
    before, now = (
        np.pad(np.asarray(image.convert("RGB"), float)[:height, :width],
               ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
        for image in (one, other)
    )  # fmt: skip
    wanted = _cells(before[SHIFT:-SHIFT, SHIFT:-SHIFT])
    shifts = range(2 * SHIFT + 1)
    found = [
        np.abs(wanted - _cells(now[down : down + height, right : right + width])).max(axis=2)
        for down in shifts
        for right in shifts
    ]
    return float(np.min(found, axis=0).max())


def _cells(pixels: np.ndarray) -> np.ndarray:
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    cut = pixels[: rows * CELL, : columns * CELL]
    return cut.reshape(rows, CELL, columns, CELL, 3).mean(axis=(1, 3))


def renew() -> None:
    from gallery import GALLERY

    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.png"):
        old.unlink()
    for name, size in DRAWN:
        picture(GALLERY[name](size)).save(file_of(name, size), optimize=True)
        print(file_of(name, size))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "measure"))
    renew()
