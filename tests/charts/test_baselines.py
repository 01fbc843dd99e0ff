"""A few charts look as they did: see ``look.py``; renew the pictures with ``make baselines``."""

import pytest
from gallery import GALLERY
from look import DRAWN, FOLDER, TOLERANCE, difference, file_of, picture
from PIL import Image


@pytest.mark.parametrize(("name", "size"), DRAWN)
def test_it_looks_as_before(name, size, tmp_path):
    now = picture(GALLERY[name](size))
    now.save(tmp_path / "now.png")
    with Image.open(file_of(name, size)) as before:
        found = difference(before, now)
    assert found <= TOLERANCE, f"{tmp_path / 'now.png'}: see it, then make baselines if it is meant"


def test_each_picture_is_small_and_used():
    files = set(FOLDER.glob("*.png"))
    assert files == {file_of(name, size) for name, size in DRAWN}
    assert max(file.stat().st_size for file in files) < 60_000


@pytest.mark.parametrize(
    "change",
    [lambda axes: axes.lines[0].set_color("#d55e00"),
     lambda axes: axes.xaxis.label.set_text(""), lambda axes: axes.set_ylim(0, 20_000),
     lambda axes: axes.figure.legends[0].set_visible(False),
     lambda axes: axes.figure.set_figheight(axes.figure.get_figheight() + 0.2)],
    ids=["colour", "label", "limits", "legend", "height"],
)  # fmt: skip
def test_a_change_of_the_look_is_noticed(change):
    figure = GALLERY["experiment"]("column")
    change(figure.axes[0])
    with Image.open(file_of("experiment", "column")) as before:
        assert difference(before, picture(figure)) > TOLERANCE
