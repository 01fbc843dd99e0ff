"""Nested-HVM workbench: real x86-64 guests under a modelled nested hypervisor, counted and priced.

>>> import workbench as wb
>>> result = wb.run(wb.Scenario(backend="svm", l2="cpuid"))
>>> result.exits

The names below are the whole public interface.  They are imported when first used, so that
``import workbench`` itself costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import charts as charts
    from . import prices as prices
    from .errors import WorkbenchError as WorkbenchError
    from .measure.layout_tables import layout_totals as layout_totals
    from .measure.layout_tables import layout_traffic as layout_traffic
    from .measure.layout_tables import layouts as layouts
    from .measure.swings import sensitivity as sensitivity
    from .panels import panel as panel
    from .paths import data_dir as data_dir
    from .personality import deviations as deviations
    from .questions import experiment as experiment
    from .questions import experiments as experiments
    from .record.calibration import calibrate as calibrate
    from .record.nesting import depth as depth
    from .record.predictions import predictions as predictions
    from .result import Result as Result
    from .scenario import Scenario as Scenario
    from .simulate import run as run
    from .study.runs import compare as compare
    from .study.runs import factorial as factorial
    from .study.runs import one_at_a_time as one_at_a_time
    from .study.runs import sweep as sweep
    from .study.toggles import toggle_sensitivity as toggle_sensitivity

    __version__: str

_PUBLIC = {
    "Result": ".result:Result",
    "Scenario": ".scenario:Scenario",
    "WorkbenchError": ".errors:WorkbenchError",
    "__version__": ".provenance:workbench_version",
    "calibrate": ".record.calibration:calibrate",
    "charts": ".charts",
    "compare": ".study.runs:compare",
    "data_dir": ".paths:data_dir",
    "depth": ".record.nesting:depth",
    "deviations": ".personality:deviations",
    "experiment": ".questions:experiment",
    "experiments": ".questions:experiments",
    "factorial": ".study.runs:factorial",
    "layout_totals": ".measure.layout_tables:layout_totals",
    "layout_traffic": ".measure.layout_tables:layout_traffic",
    "layouts": ".measure.layout_tables:layouts",
    "load_result": ".result:Result",
    "one_at_a_time": ".study.runs:one_at_a_time",
    "panel": ".panels:panel",
    "predictions": ".record.predictions:predictions",
    "prices": ".prices",
    "run": ".simulate:run",
    "sensitivity": ".measure.swings:sensitivity",
    "sweep": ".study.runs:sweep",
    "toggle_sensitivity": ".study.toggles:toggle_sensitivity",
}
"""Public name -> module and the name in it."""

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    place = _PUBLIC.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, _, attribute = place.partition(":")
    found: Any = importlib.import_module(module_name, __name__)
    if attribute:
        found = getattr(found, attribute)
    if name == "load_result":
        found = found.load
    elif name == "__version__":
        found = found()
    elif name == "charts":
        importlib.import_module(".notebook", __name__).show_figures()
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
