"""Every chart at every size: texts stay apart and inside, axes have units, grey and colours are told
apart."""

import functools
import inspect
import itertools
import re
import tomllib

import matplotlib as mpl
import numpy as np
import pytest
from gallery import GALLERY
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

import workbench as wb
from workbench import charts
from workbench.charts import style
from workbench.charts.interrupts import NOTHING as NO_EVENT
from workbench.charts.kinds import _LINES
from workbench.charts.style import RC
from workbench.charts.tlb import NOTHING as NO_FLUSH

SIZES = list(charts.SIZES)
EVERY = pytest.mark.parametrize("name", list(GALLERY))
UNIT = re.compile(
    r"cycles|exits|%|per |instructions|bytes|refills|flushes|accesses|references|weight|level|period"
    r"|pages|tables|entries|reads|writes|events|changes"
)
NUMBER = re.compile(r"^[−+-]?[\d.]+[kMGT]?$|^\$")
LUMINANCE = 0.10
"""Least difference in luminance (0 black, 1 white) that a grey print shows."""
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
"""Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB."""


@functools.cache
def drawn(name, size):
    return GALLERY[name](size)


def test_the_gallery_has_every_chart():
    every = {
        name
        for name in charts.__all__
        if inspect.isfunction(getattr(charts, name))
        and inspect.signature(getattr(charts, name)).return_annotation in ("Figure", Figure)
    }
    assert every and every == {name.split(",")[0] for name in GALLERY}


# ---------------------------------------------------------------- texts


def texts_of(figure):
    """Every text that is seen: of the figure, its legends, and its axes with their ticks."""
    found = [*figure.texts, *(text for legend in figure.legends for text in
                              [legend.get_title(), *legend.get_texts()])]  # fmt: skip
    for name in ("_suptitle", "_supxlabel", "_supylabel"):
        found += [text for text in [getattr(figure, name)] if text and text not in found]
    for axes in figure.axes:
        found += axes.texts
        if axes.axison:
            found += [axes.title, axes._left_title, axes._right_title]
            for axis in (axes.xaxis, axes.yaxis):
                found += [axis.label, axis.get_offset_text()]
                low, high = sorted(axis.get_view_interval())
                which = int(axis is axes.yaxis)
                labels = axis.get_ticklabels()
                found += [text for text in labels if low <= text.get_position()[which] <= high]
        found += axes.get_legend().get_texts() if axes.get_legend() else []
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def ink(text, width, height, dpi):
    """Where a text alone leaves ink: an array of truth values."""
    renderer = RendererAgg(width, height, dpi)
    text.draw(renderer)
    return np.asarray(renderer.buffer_rgba())[..., 3] > 0


def overlaps(figure):
    """Pairs of texts that share ink, and texts that leave the figure."""
    charts.to_png(figure, dpi=style.LAYOUT_DPI)
    figure.set_dpi(style.LAYOUT_DPI)
    width, height = (int(edge) for edge in figure.bbox.size)
    texts = texts_of(figure)
    boxes = [text.get_window_extent() for text in texts]
    outside = [
        text.get_text()
        for text, box in zip(texts, boxes, strict=True)
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]
    touching = []
    for (one, first), (two, second) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        if first.overlaps(second):
            with mpl.rc_context(RC):
                both = [ink(text, width, height, style.LAYOUT_DPI) for text in (one, two)]
            if (both[0] & both[1]).any():
                touching.append((one.get_text(), two.get_text()))
    return touching, outside


@EVERY
@pytest.mark.parametrize("size", SIZES)
def test_no_text_lies_on_another_or_leaves_the_figure(name, size):
    figure = drawn(name, size)
    assert overlaps(figure) == ([], [])
    assert figure.get_figwidth() == charts.SIZES[size].width


@pytest.mark.parametrize("reason", [NO_FLUSH, NO_EVENT])
@pytest.mark.parametrize("size", SIZES)
def test_the_reason_for_an_empty_figure_stays_inside(reason, size):
    assert overlaps(style.empty("Nothing", reason, "a footer", size)) == ([], [])


def test_texts_that_do_overlap_are_found():
    figure = GALLERY["experiment, sharp"]("column")
    axes = figure.axes[0]
    axes.text(0.5, 0.5, "here", transform=axes.transAxes)
    axes.text(0.51, 0.5, "there", transform=axes.transAxes)
    axes.text(1.0, 0.5, "beyond the end of the panel", transform=axes.transAxes)
    touching, outside = overlaps(figure)
    assert ("here", "there") in touching and outside == ["beyond the end of the panel"]


@EVERY
@pytest.mark.parametrize("size", SIZES)
def test_letters_can_be_read_where_the_figure_is_used(name, size):
    """As wide as a column at least 5.5 points, on a slide of 13.3 inches at least 13 points."""
    shown = {"projector": 13.33}.get(size, charts.SIZES[size].width) / charts.SIZES[size].width
    least = {"projector": 13.0}.get(size, 5.5)
    assert min(t.get_fontsize() for t in texts_of(drawn(name, size))) * shown >= least


@EVERY
def test_numbers_beside_bars_stay_in_their_panel(name):
    figure = drawn(name, "column")
    figure.set_dpi(style.LAYOUT_DPI)
    for axes in figure.axes:
        for note in axes.texts:
            if isinstance(note, Annotation) and note.xycoords == "data":
                box = note.get_window_extent()
                assert axes.bbox.x0 - 1 <= box.x0 and box.x1 <= axes.bbox.x1 + 1, note.get_text()


# ---------------------------------------------------------------- units


@EVERY
@pytest.mark.parametrize("size", ["panel", "column"])
def test_every_axis_of_numbers_says_its_unit(name, size):
    figure = drawn(name, size)
    shared = " ".join(axes.get_ylabel() for axes in figure.axes)
    for axes in figure.axes:
        for axis, label in ((axes.xaxis, axes.get_xlabel()), (axes.yaxis, axes.get_ylabel())):
            ticks = [t.get_text() for t in axis.get_ticklabels() if t.get_text()]
            if axes.axison and ticks and all(NUMBER.match(tick) for tick in ticks):
                said = label or (shared if axis is axes.yaxis else "")
                assert UNIT.search(said.replace("\n", " ")), f"{name}: {ticks}: {label!r}"


@pytest.mark.parametrize("path", sorted((wb.data_dir() / "experiments").glob("*.toml")),
                         ids=lambda path: path.stem)  # fmt: skip
def test_labels_of_experiments_have_units(path):
    spec = tomllib.loads(path.read_text(encoding="utf-8"))
    assert UNIT.search(spec["measure"]["label"])
    if not all(isinstance(value, str) for value in spec["axis"]["values"]):
        assert UNIT.search(spec["axis"]["label"])


# ---------------------------------------------------------------- grey, and colour-blind readers


def linear(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(rgb):
    """Relative luminance of linear RGB, as the eye weighs it: its cube root is even to see."""
    return float(np.clip(rgb @ [0.2126, 0.7152, 0.0722], 0, 1)) ** (1 / 3)


def told_apart(one, two):
    """By pattern, or by lightness in grey and under each colour blindness."""
    (colour, pattern), (other, pattern_of_other) = one, two
    if pattern != pattern_of_other:
        return True
    pairs = [(linear(colour), linear(other))]
    pairs += [(np.array(m) @ pairs[0][0], np.array(m) @ pairs[0][1]) for m in BLINDNESS.values()]
    return all(abs(luminance(a) - luminance(b)) >= LUMINANCE for a, b in pairs)


def look_of(handle):
    if isinstance(handle, Line2D):
        pattern = (
            handle.get_marker(),
            handle.get_linestyle(),
            handle.get_markerfacecolor() == "none",
        )
        return handle.get_color(), pattern
    return handle.get_facecolor()[:3], handle.get_hatch() or ""


@EVERY
def test_what_a_legend_names_is_told_apart_without_colour(name):
    for legend in drawn(name, "paper").legends:
        looks = [look_of(handle) for handle in [*legend.get_patches(), *legend.get_lines()]]
        assert len(looks) == len(legend.get_texts())
        for one, two in itertools.combinations(looks, 2):
            assert told_apart(one, two), (one, two)


@pytest.mark.parametrize(
    "looks",
    [[(c, h) for c, h in style.SERIES_LOOKS], list(style.PART_LOOKS.values()),
     [(c, h) for _, c, h in style.ROUTE_LOOKS.values()],
     [(c, (m, d)) for c, m, d in _LINES]],
    ids=["series", "parts", "routes", "lines"],
)  # fmt: skip
def test_palettes_are_told_apart_without_colour(looks):
    for one, two in itertools.combinations(looks, 2):
        assert told_apart(one, two), (one, two)


def test_two_colours_of_the_same_grey_are_not_told_apart():
    assert not told_apart(("#ff0000", ""), ("#008000", ""))
    assert told_apart(("#ff0000", ""), ("#008000", "//"))
