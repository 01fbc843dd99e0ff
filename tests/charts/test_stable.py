"""The same inputs give the same bytes: in another process, with another order of hashes."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CODE = """
import hashlib, sys
sys.path[:0] = sys.argv[1:3]
from gallery import GALLERY
import workbench as wb
from workbench import charts

figures = {name: draw("paper") for name, draw in GALLERY.items()}
found = wb.experiment("tags")
figures["experiment tags"] = found.figure
for name, figure in figures.items():
    print(name, hashlib.sha256(charts.to_svg(figure).encode()).hexdigest(), sep=": ")
print("text", hashlib.sha256(found.text.encode()).hexdigest(), sep=": ")
"""


def drawn(seed):
    command = [sys.executable, "-c", CODE, str(HERE), str(HERE.parent / "measure")]
    environment = os.environ | {"PYTHONHASHSEED": seed}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_every_chart_is_the_same_svg_in_another_process():
    both = [drawn(seed) for seed in ("1", "2")]
    said = [process.communicate(timeout=300)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(said[0]) > 20 and said[0] == said[1]
