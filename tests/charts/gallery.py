"""Every chart of the library with made-up results of a realistic extent, for tests of their look."""

from __future__ import annotations

import itertools
import math

import pandas as pd
from synthetic import result

from workbench import Scenario, charts
from workbench.charts.anatomy import operation_span
from workbench.study.effects import FACTORIAL, ONE_AT_A_TIME, Effects, factors

PROCESSORS = {"Nehalem": "no shadow VMCS", "Sandy Bridge": "no shadow VMCS",
              "Haswell": "VMCS shadowing", "Skylake server": "VMCS shadowing",
              "Cascade Lake": "VMCS shadowing", "Piledriver": "no virtual GIF",
              "Zen": "vGIF, vVMLOAD", "Zen 3": "vGIF, vVMLOAD"}  # fmt: skip
SOURCES = (
    "turtles-osdi10 intel-sdm3 agesen-atc12 hansen-2017 sagepte linux-c992384bde mynavi-haswell"
)
PREDICTED = {
    "turtles-cpuid": (52294, 36213, 68695, 58497), "turtles-eptviol": (52848, 37226, 69846, 49438),
    "turtles-pio": (64830, 46323, 85094, 183375), "turtles-cr": (64118, 45980, 83424, 90963),
    "agesen-snb": (15062, 10273, 20371, 9794), "dvh-hypercall": (18509, 9122, 28962, 37733),
    "pvm-hypercall": (17825, 8467, 28318, 18575), "pvm-cpuid": (17819, 8462, 28312, 17750),
    "hyperturtle-hypercall": (9668, 4592, 15359, 5922),
    "kut-2019-inl-kernel": (17955, 8534, 28543, 13518), "milan-cpuid-rate": (8105, 6560, 11505, 11106),
}  # fmt: skip
ASSISTS = ["virtual_gif", "virtual_vmload_vmsave", "nrip_save", "decode_assists"]


def four():
    return [result(backend, assisted=on) for backend in ("svm", "vmx") for on in (False, True)]


def predictions_table():
    rows = [
        {"id": name, "processor": "Cascade Lake, assumed", "predicted": value, "low": low, "high": high,
         "measured": measured, "error": value / measured - 1, "counted": "dvh" not in name,
         "scenario": "52293a", "sources": SOURCES}
        for name, (value, low, high, measured) in PREDICTED.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def trend_table():
    rows = []
    for number, (processor, assist) in enumerate(PROCESSORS.items()):
        single, nested = 2500.0 - 150 * number, 52e3 / (1 + number)
        rows.append({
            "processor": processor, "assist": assist, "single": single, "single_low": 0.8 * single,
            "single_high": 1.4 * single, "nested": nested, "nested_low": 0.6 * nested,
            "nested_high": 1.5 * nested, "measured_single": single if number % 3 == 0 else math.nan,
            "measured_nested": 1.2 * nested if number % 3 == 0 else math.nan, "sources": SOURCES,
        })  # fmt: skip
    return pd.DataFrame(rows)


def depth_tables():
    def table(factor):
        cycles = [1500 * factor**level for level in range(4)]
        return pd.DataFrame({
            "level": [1, 2, 3, 4], "cycles": cycles, "exits": [1.3**2 * c / 1500 for c in cycles],
            "ratio": factor, "simulated": [cycles[0], cycles[1], math.nan, math.nan],
        })  # fmt: skip

    return {"KVM 2.6.35, Nehalem": table(20), "KVM with VMCS shadowing": table(9),
            "KVM, SVM without assists": table(14)}  # fmt: skip


def found_effects(design):
    def cycles(gif, vls, nrip, decode):
        return 21e3 - 5e3 * gif - 7e3 * vls + 2e3 * (not nrip) + 900 * (gif and vls) + 300 * decode

    chosen = factors(Scenario(), ASSISTS)
    levels = itertools.product(*((f.low, f.high) for f in chosen))
    rows = [dict(zip([f.name for f in chosen], values, strict=True)) for values in levels]
    if design == ONE_AT_A_TIME:
        low = {f.name: f.low for f in chosen}
        rows = [low, *({**low, f.name: f.high} for f in chosen)]
    measure = "cycles_per_operation"
    table = pd.DataFrame([row | {measure: cycles(*row.values())} for row in rows])
    return Effects(design, measure, chosen, table, result("svm"))


def toggles_table():
    swings = {"virtual_vmload_vmsave": -7000, "virtual_gif": -5000, "l2_tag_policy": 3100,
              "paging_structure_caches": 2500, "state_layout": 1200, "np2m_flush": 0,
              "vmexit_delivery": -300}  # fmt: skip
    table = pd.DataFrame({"toggle": list(swings), "value": "on", "status": "stopped",
                          "base": 21e3, "swing": [float(s) for s in swings.values()]})  # fmt: skip
    table["per_operation"] = table["base"] + table["swing"]
    table.attrs["provenance"] = (
        "workbench 0.1.0; scenario 0123abcd; prices zen; sources turtles-osdi10"
    )
    return table


LAYOUTS = ("generic-2010", "minimal-2010", "merged-2011")


def series_frame(axis, spread=0.2):
    rows = []
    for backend, (number, name) in itertools.product(("SVM", "VMX"), enumerate(LAYOUTS)):
        for step, place in enumerate(axis):
            value = 1000.0 * (1 + 0.4 * number) * (1 + 0.5 * step)
            rows.append((backend, place, name, value, value * (1 - spread), value * (1 + spread)))
    return pd.DataFrame(rows, columns=["panel", "x", "series", "value", "low", "high"])


def crowded_frame():
    """One panel of many bars with long numbers."""
    programs = ["cpuid", "msr", "hypercall", "ctxsw", "touch", "mixed"]
    rows = [
        ("", program, name, 5.99 - 0.41 * n)
        for program in programs
        for n, name in enumerate(("SVM", "SVM, assists", "VMX", "VMX, assists"))
    ]
    frame = pd.DataFrame(rows, columns=["panel", "x", "series", "value"])
    return frame.assign(low=frame["value"], high=frame["value"])


def latency_frame():
    """Shares of a waiting time's bins, which double."""
    rows = [
        (backend, 2**power, 2 ** (power + 1), name, 40.0 / (1 + abs(power - 10 - number)))
        for backend, (number, name), power in itertools.product(
            ("SVM", "VMX"), enumerate(("deferred", "immediate")), range(7, 15))
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["panel", "x", "x_end", "series", "value"])


FIELDS = [
    "hostsave",
    "guestmode",
    "vm address",
    "cached msrpm",
    "merged msrpm",
    "vm guest cr3",
    "vm host cr3",
    "guest asid",
    "flush p2m",
    "force exit code",
    "force exit info1",
    "hap enabled",
]
EVENTS = ["VMRUN", "exit kept by L0", "exit to L1", "nested page fault", "interrupt", "reset"]  # fmt: skip


def heat_frame():
    """Accesses to fields by event; one field is never used, one is stale."""
    rows = [
        (backend, event, field, 0.0 if row == 7 else (3.0 * row * (column + 1)) % 41,
         {7: "unused", 3: "stale"}.get(row, ""))
        for backend in ("SVM", "VMX")
        for row, field in enumerate(FIELDS)
        for column, event in enumerate(EVENTS)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["panel", "x", "y", "value", "mark"])


def gains_frame():
    rates = [0.5, 5.2, 20, 83, 1.2e3]
    rows = [
        (backend, rate, period, 60.0 - 12 * i * (j + 1), "open" if i == 2 else "")
        for backend in ("SVM", "VMX")
        for i, rate in enumerate(rates)
        for j, period in enumerate([10, 100, 1000])
    ]
    return pd.DataFrame(rows, columns=["panel", "x", "y", "value", "mark"])


def experiment(kind, frame, x, value, size, y=""):
    svm, vmx = result("svm"), result("vmx")
    note = charts.inputs.footer([("SVM", svm), ("VMX", vmx)], size, True, "Claim supported.")
    labels = charts.Labels("Cached or fetched nested state", x, y, value, note)
    crossings = None
    if kind == "heat" and (frame["value"] < 0).any():
        crossings = pd.DataFrame({"panel": "SVM", "y": [10, 100, 1000], "x": [4.0, 30.0, 100.0],
                                  "low": [2.0, 9.0, 40.0], "high": [7.0, 60.0, 500.0]})  # fmt: skip
    pairs = [("SVM", svm), ("VMX", vmx)]
    return charts.experiment(frame, kind, labels, pairs, size, crossings)


def timeline(backend, size):
    found = result(backend)
    return charts.timeline(found, *operation_span(found, "CPUID", 1), size=size)


CYCLES = "cycles per 1000 instructions of L2"
GALLERY = {
    "exit_frequency": lambda size: charts.exit_frequency(four(), size),
    "exit_frequency, one": lambda size: charts.exit_frequency(result("svm"), size),
    "cost": lambda size: charts.cost(four(), size),
    "tlb_flushes": lambda size: charts.tlb_flushes(four(), size),
    "interrupts": lambda size: charts.interrupts(four(), size),
    "interrupts, one": lambda size: charts.interrupts(result("vmx"), size),
    "differences": lambda size: charts.differences(four(), size),
    "effects": lambda size: charts.effects(found_effects(FACTORIAL), size),
    "effects, one at a time": lambda size: charts.effects(found_effects(ONE_AT_A_TIME), size),
    "timeline": lambda size: timeline("svm", size),
    "timeline, vmx": lambda size: timeline("vmx", size),
    "tornado": lambda size: charts.tornado(result("svm"), size=size),
    "tornado, groups": lambda size: charts.tornado(result("vmx"), by="group", size=size),
    "toggle_tornado": lambda size: charts.toggle_tornado(toggles_table(), size=size),
    "predictions": lambda size: charts.predictions(predictions_table(), size),
    "trend": lambda size: charts.trend(trend_table(), size),
    "depth": lambda size: charts.depth(depth_tables(), size),
    "experiment": lambda size: experiment("lines", series_frame([0, 10, 20, 40, 80, 160, 320]), "weight of MSR accesses (all others: 80)", CYCLES, size),
    "experiment, bars": lambda size: experiment("bars", series_frame(["cpuid", "ctxsw", "mixed"]), "L2 program", CYCLES, size),
    "experiment, sharp": lambda size: experiment("bars", series_frame(["cpuid", "msr", "mixed", "touch"], 0), "L2 program", CYCLES, size),
    "experiment, crowded": lambda size: experiment("bars", crowded_frame(), "L2 program", "hardware exits per exit of L2", size),
    "experiment, stacked": lambda size: experiment("stacked", series_frame(["cpuid", "hypercall", "ctxsw", "mixed"]), "L2 program", CYCLES, size),
    "experiment, distribution": lambda size: experiment("distribution", latency_frame(), "cycles from raise to taking", "events (% of all)", size),
    "experiment, heat": lambda size: experiment("heat", heat_frame(), "event", "accesses per exit of L2", size, "field"),
    "experiment, gains": lambda size: experiment("heat", gains_frame(), "MSR accesses per 1000 instructions of L2", "saved (%)", size, "instructions between two switches"),
}  # fmt: skip
"""Name, and what draws it at a size; the part before a comma is the chart's function."""
