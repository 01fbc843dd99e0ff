"""The record: every published nested figure against what the model predicts for it.

Prices are those of the processor's preset with its terms fitted to single-level figures and unit
costs (:mod:`workbench.record.calibration`).  Nothing is fitted to a nested figure; one that a price was derived
from by hand is marked (column ``informs``), and the summary is given without it as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from .. import simulate
from ..measure.frames import percent
from ..prices import PricePreset, load_preset
from ..study.point_store import PointStore
from .calibration import Calibration, calibrate, presets_with_rows, run_cases
from .published import (
    COUNTED,
    ITERATIONS,
    NESTED,
    SINGLE,
    Case,
    nested,
    per_operation,
    single_level,
)

WORST_FACTOR = 2.0
TARGET_ERROR = 0.15


def predictions(
    *, fitted: bool = True, progress: simulate.ProgressCallback | None = None,
    store: PointStore | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Predicted and measured cycles of every published nested row.

    Parameters
    ----------
    fitted : bool
        False: the presets as they are, without calibration.
    progress : callable, optional
        Called with a :class:`workbench.simulate.Progress` whose steps are rows.
    store : PointStore, optional
        Where runs are kept and found again; by default in the user's cache.

    Returns
    -------
    DataFrame
        One row per published nested figure: ``id, operation, processor, confidence, predicted,
        low, high, measured`` [cycles per operation], ``error`` (share of measured, signed),
        ``inside`` (measured within low and high), ``exits, exits_published`` (hardware exits per
        operation), ``counted`` (its confidence is one that the record is judged by), ``informs``
        (prices that rest on this very figure), ``l0, l1, features, prices, scenario`` (hash),
        ``sources`` (keys of the figure and of the prices that met a count), and ``remark``: what the scenario assumes, or why there is none.  Without a scenario the
        numbers are missing.
    """
    cases = nested()
    wanted = [case for case in cases if case.represented]
    presets = _fitted_presets(wanted, progress, store) if fitted else {}
    results = dict(
        zip([c.id for c in wanted], run_cases(wanted, presets, progress, store), strict=True)
    )
    return pd.DataFrame([_row(case, results.get(case.id)) for case in cases])


def _fitted_presets(
    cases: list[Case], progress: simulate.ProgressCallback | None, store: PointStore | None
) -> dict[str, PricePreset]:
    used = {case.preset for case in cases}
    fits: dict[str, Calibration] = {
        name: calibrate(name, progress=progress, store=store)
        for name in presets_with_rows() if name in used
    }  # fmt: skip
    return {name: found.preset for name, found in fits.items()}


def _row(case: Case, result: simulate.Result | None) -> dict[str, object]:
    head = {"id": case.id, "operation": case.operation, "processor": "",
            "confidence": case.confidence}  # fmt: skip
    tail = {"counted": case.represented and case.confidence in COUNTED,
            "informs": " ".join(case.informs)}  # fmt: skip
    if result is None:
        missing = dict.fromkeys(("predicted", "low", "high", "measured", "error"), math.nan)
        return head | missing | {
            "inside": None, "exits": math.nan, "exits_published": math.nan, **tail,
            "l0": "", "l1": "", "features": "", "prices": "", "scenario": "", "sources": case.source,
            "remark": case.why,
        }  # fmt: skip
    cycles, exits = per_operation(case, result)
    scenario = result.scenario
    inside = cycles["cycles_low"] <= case.measured <= cycles["cycles_high"]
    return head | {
        "processor": result.preset.core + ("" if case.processor_known else ", assumed"),
        "predicted": cycles["cycles"],
        "low": cycles["cycles_low"], "high": cycles["cycles_high"], "measured": case.measured,
        "error": cycles["cycles"] / case.measured - 1, "inside": bool(inside), "exits": exits,
        "exits_published": math.nan if case.exits is None else float(case.exits), **tail,
        "l0": scenario.l0, "l1": scenario.l1,
        "features": " ".join(f"{k}={v}" for k, v in scenario.features.items()),
        "prices": case.preset, "scenario": scenario.hash[:12],
        "sources": " ".join(dict.fromkeys((case.source, *result.sources))), "remark": case.why,
    }  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """How good the predictions are, over some rows.

    Attributes
    ----------
    rows : int
    median_error : float
        Median of the absolute relative errors.
    worst_factor : float
        Largest ratio between predicted and measured, either way.
    beyond : tuple of str
        Rows that are off by more than :data:`WORST_FACTOR`.
    inside : int
        Rows whose figure lies within the bounds.
    """

    rows: int
    median_error: float
    worst_factor: float
    beyond: tuple[str, ...]
    inside: int

    def __str__(self) -> str:
        beyond = ", ".join(self.beyond) or "none"
        return (
            f"{self.rows} rows: median error {self.median_error:.0%}, {self.inside} within their "
            f"bounds, worst factor {self.worst_factor:.1f}; beyond a factor of "
            f"{WORST_FACTOR:g}: {beyond}"
        )


def standing(table: pd.DataFrame, *, informed: bool = True) -> Standing:
    """The summary of :func:`predictions` over the rows that count.

    Parameters
    ----------
    informed : bool
        False leaves out the rows that a price was derived from.
    """
    rows = table[table["counted"]]
    if not informed:
        rows = rows[rows["informs"] == ""]
    ratio = rows["predicted"] / rows["measured"]
    factor = ratio.where(ratio >= 1, 1 / ratio)
    return Standing(
        len(rows), float(rows["error"].abs().median()), float(factor.max()),
        tuple(rows["id"][factor > WORST_FACTOR]), int(rows["inside"].astype(bool).sum()),
    )  # fmt: skip


def as_text(table: pd.DataFrame) -> str:
    """The record for a terminal: rows with a prediction, the summary, and rows without one."""
    lines = [f"{'row':<24}{'processor':<24}{'predicted':>10}{'from':>9}{'to':>9}{'measured':>10}"
             f"{'error':>8}  exits"]  # fmt: skip
    shown = table[table["predicted"].notna()]
    for row in shown.to_dict("records"):
        exits = f"{row['exits']:.4g}"
        if not math.isnan(row["exits_published"]):
            exits += f" ({row['exits_published']:.0f} published)"
        mark = "" if row["counted"] else f"  [{row['confidence']}, not counted]"
        mark += f"  [informs {row['informs']}]" if row["informs"] else ""
        lines.append(
            f"{row['id']:<24}{row['processor']:<24}{row['predicted']:>10,.0f}{row['low']:>9,.0f}"
            f"{row['high']:>9,.0f}{row['measured']:>10,.0f}{percent(row['error']):>8}  {exits}{mark}"
        )
    lines += ["", f"seen or read off a figure, {standing(table)}"]
    lines += [f"without the rows that a price rests on, {standing(table, informed=False)}", ""]
    lines += ["Without a scenario:"]
    lines += [f"  {row['id']}: {row['remark']}" for row in
              table[table["predicted"].isna()].to_dict("records")]  # fmt: skip
    return "\n".join(lines)


_SHADOWING: dict[str, bool | str] = {"vmcs_shadowing": True}
GENERATIONS: tuple[tuple[str, str, dict[str, bool | str], str], ...] = (
    ("nehalem", "kvm-87", {"full_vmcs_switch": True}, "no shadow VMCS"),
    ("sandybridge", "kvm-6.12", {}, "no shadow VMCS"),
    ("haswell", "kvm-6.12", _SHADOWING, "VMCS shadowing"),
    (
        "skylake",
        "kvm-6.12",
        _SHADOWING | {"full_vmcs_switch": True, "branch_barrier": "vmcs_switch"},
        "VMCS shadowing, barriers",
    ),
    (
        "cascadelake",
        "kvm-6.12",
        _SHADOWING | {"full_vmcs_switch": True},
        "VMCS shadowing",
    ),
    ("piledriver", "kvm-6.12", {}, "no virtual GIF"),
    ("zen", "kvm-6.12", {"virtual_gif": True, "virtual_vmload_vmsave": True}, "vGIF, vVMLOAD"),
    ("zen3", "kvm-6.12", {"virtual_gif": True, "virtual_vmload_vmsave": True}, "vGIF, vVMLOAD"),
)
"""Preset, L1 program, features and what they are called: KVM with what each processor offers, and of
the age at which it was measured there."""


def trend(
    *, progress: simulate.ProgressCallback | None = None, store: PointStore | None = None
) -> pd.DataFrame:
    """CPUID under KVM, and under KVM in KVM, on one processor after the other.

    Returns
    -------
    DataFrame
        processor, assist, then single and nested with ``_low`` and ``_high`` [cycles], and
        ``measured_single``, ``measured_nested`` where a CPUID or hypercall is published, and
        ``sources``, as in :func:`predictions`.
    """
    fits = {name: calibrate(name, progress=progress, store=store) for name in presets_with_rows()}
    known = [*single_level(), *nested()]
    made = []
    for name, l1, features, assist in GENERATIONS:
        found = fits.get(name)
        row: dict[str, object] = {"assist": assist}
        sources: list[str] = []
        for level, program in ((SINGLE, "none"), (NESTED, l1)):
            case = _cpuid_case(name, program, level, features)
            result = run_cases([case], {name: found.preset} if found else {}, progress, store)[0]
            cycles, _ = per_operation(case, result)
            sources += result.sources
            row["processor"] = result.preset.core
            row |= {level: cycles["cycles"], f"{level}_low": cycles["cycles_low"],
                    f"{level}_high": cycles["cycles_high"]}  # fmt: skip
            same = [c for c in known if c.represented and c.preset == name
                    and c.level == level and c.cause in ("CPUID", "HYPERCALL")
                    and c.measure.split()[0] in ("operation", "per_second")
                    and c.processor_known]  # fmt: skip
            row[f"measured_{level}"] = same[-1].measured if same else math.nan
            sources += [c.source for c in same[-1:]]
        made.append(row | {"sources": " ".join(dict.fromkeys(sources))})
    return pd.DataFrame(made)


def _cpuid_case(preset: str, l1: str, level: str, features: dict[str, bool | str]) -> Case:
    settings = {
        "backend": load_preset(preset).backend, "l0": "kvm", "l1": l1, "l2": "cpuid",
        "l1_params": dict.fromkeys(("with_host_rsp", "with_tpr_threshold"), 1)
        if l1 == "kvm-87" else {},
        "l2_params": {"iterations": ITERATIONS, "work": 0},
        "features": features if level == NESTED else {},
    }  # fmt: skip
    return Case("trend", "", "cpuid", "", "", level, math.nan, "operation CPUID", preset, "", None,
                False, (), "", settings)  # fmt: skip
