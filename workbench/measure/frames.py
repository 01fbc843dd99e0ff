"""Tidy tables of a run: counts with names, and cycles where a price applies.

Every function takes raw counts (and a price preset) and returns a fresh DataFrame; nothing is
simulated here.  Column names carry units; their meaning is documented with :class:`Result`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..arch import check_name, exit_code, exit_name, svm, vmcb, vmcs
from ..core.ledger import (
    BLOCK_REASONS,
    CAUSES,
    EVENTS,
    FIELD_PHASES,
    FLUSH_REASONS,
    FLUSH_SCOPES,
    N_EVENTS,
    N_LATENCY_BINS,
    STATE_EVENTS,
    STATE_FIELDS,
    TIME_SCALE,
    TIMELINE_KINDS,
)
from ..nested_layouts import places
from ..prices import PARTS, PricePreset, part_of
from .counts import BOOT, TIMELINE_COLUMNS, RawCounts

LEVELS = ("L0", "L1", "L2")
EVENT_KINDS = ("interrupt", "nmi")
BOUNDS = {"cycles": "value", "cycles_low": "low", "cycles_high": "high"}
_PARTS_OF_EVENTS = np.array([part_of(event) for event in EVENTS])
_WALKS = [EVENTS.index(f"WALK_FROM_{place}") for place in ("L1_CACHE", "L2_CACHE", "LLC", "MEMORY")]
_SWITCH = [EVENTS.index(name) for name in ("HW_EXIT", "HW_ENTRY", "L0_EXIT_DISPATCH")]


def percent(share: float) -> str:
    """A signed share in whole percent; none has no sign."""
    text = f"{share:+.0%}"
    return "0%" if text in ("+0%", "-0%") else text


def rows(frame: pd.DataFrame) -> list[Any]:
    """The rows of a frame as named tuples."""
    return list(frame.itertuples())


def cause_name(index: int) -> str:
    """Name of a ledger cause."""
    return CAUSES[index] if index < len(CAUSES) else f"cause {index}"


def field_name(backend: str, number: int) -> str:
    """The manual's name of a field of vmcx12."""
    return vmcb.field_name(number) if backend == "svm" else vmcs.field_name(number)


def guest_instructions(raw: RawCounts, level: int) -> int:
    """Instructions retired by the guest whose operations are looked at: L2, or L1 without one."""
    return raw.event(f"L{level}_INSTRUCTION")


def counts_frame(raw: RawCounts, preset: PricePreset, level: int = 2) -> pd.DataFrame:
    """One row per cause and event that was counted: cause, event, category, count, cycles.

    ``level``: where the L2 program ran; 1 without a hypervisor in between.
    """
    cause, event = np.nonzero(raw.counts[: len(CAUSES), : len(EVENTS)])
    count = raw.counts[cause, event]
    frame = pd.DataFrame(
        {
            "cause": np.array(CAUSES)[cause],
            "event": np.array(EVENTS)[event],
            "category": _PARTS_OF_EVENTS[event],
            "count": count,
        }
    )
    if level == 1:
        frame.loc[frame["event"] == "L1_INSTRUCTION", "category"] = part_of("L2_INSTRUCTION")
    for column, bound in BOUNDS.items():
        frame[column] = count * preset.vector(bound)[event]
    return frame


def exits_frame(
    raw: RawCounts, backend: str, preset: PricePreset, guest_level: int = 2
) -> pd.DataFrame:
    """Hardware exits. Their cycles are those of the exit alone: exit, entry and L0's dispatch."""
    level, index, handler, cause = np.nonzero(raw.exits)
    count = raw.exits[level, index, handler, cause]
    instructions = guest_instructions(raw, guest_level) or np.nan
    frame = pd.DataFrame(
        {
            "exit": [exit_name(backend, int(i)) for i in index],
            "code": [exit_code(backend, int(i)) for i in index],
            "from_level": [LEVELS[i] for i in level],
            "handled_by": [LEVELS[i] for i in handler],
            "cause": [cause_name(int(i)) for i in cause],
            "count": count,
            "per_l2_kinstr": count * 1000.0 / instructions,
        }
    )
    one_of_each = np.zeros(N_EVENTS)
    one_of_each[_SWITCH] = 1
    for column, cycles in preset.spread(one_of_each).items():
        frame[column] = count * cycles
    order = ["from_level", "count", "exit", "cause"]
    return frame.sort_values(order, ascending=[False, False, True, True], ignore_index=True)


def counts_by_part(raw: RawCounts, level: int = 2) -> np.ndarray:
    """Counts [part, cause, event]; a walk that re-fetched what a flush had dropped counts there.

    ``level``: where the L2 program ran; 1 without a hypervisor in between.
    """
    cube = np.zeros((len(PARTS), *raw.counts.shape))
    for event, name in enumerate(EVENTS):
        guest = level == 1 and name == "L1_INSTRUCTION"
        part = part_of("L2_INSTRUCTION" if guest else name)
        cube[PARTS.index(part), :, event] = raw.counts[:, event]
    for place, event in enumerate(_WALKS):
        moved = raw.refill_walks[:, place]
        cube[PARTS.index(part_of(EVENTS[event])), :, event] -= moved
        cube[PARTS.index("walks after flushes"), :, event] += moved
    return cube


def costs_frame(raw: RawCounts, preset: PricePreset, level: int = 2) -> pd.DataFrame:
    """Cycles by part of the work and cause; their ``cycles`` add up to all cycles of the run.

    'walks after flushes' are the walk references that re-fetched what a flush had dropped.  Bounds
    are those of each row alone (:meth:`PricePreset.spread`): they do not add up.
    """
    cube = counts_by_part(raw, level)[:, : len(CAUSES)]
    part, cause = np.nonzero(cube.any(axis=2))
    counts = cube[part, cause]
    names = {"category": np.array(PARTS)[part], "cause": np.array(CAUSES)[cause]}
    return pd.DataFrame(names | {"count": counts.sum(axis=1).astype(int)} | preset.spread(counts))


def parts_frame(raw: RawCounts, preset: PricePreset, level: int = 2) -> pd.DataFrame:
    """Cycles by part without the set-up before the first entry to L2; one row per part, and 'all'.

    Index: part. Columns: cycles, cycles_low, cycles_high; those of 'all' belong to the sum.
    """
    running = counts_by_part(raw, level)
    running[:, BOOT] = 0
    counts = running.sum(axis=1)
    rows = np.vstack([counts, counts.sum(axis=0)])
    return pd.DataFrame(preset.spread(rows), index=pd.Index([*PARTS, "all"], name="part"))


def tlb_frame(raw: RawCounts) -> pd.DataFrame:
    """Flushes by reason and scope, entries dropped, and the refills they caused.

    Refills are counted per reason; where a reason flushed with several scopes they stand in the
    row of the scope that dropped most.
    """
    lines = []
    for reason, name in enumerate(FLUSH_REASONS):
        scopes = np.nonzero(raw.flushes[reason] | raw.dropped[reason])[0]
        refills = int(raw.refills[reason]), int(raw.refill_references[reason])
        if not len(scopes) and not any(refills):
            continue
        chief = int(np.argmax(raw.dropped[reason] * 2 + (raw.flushes[reason] > 0)))
        for scope in scopes if len(scopes) else [chief]:
            mine = refills if scope == chief else (0, 0)
            flushed = int(raw.flushes[reason, scope]), int(raw.dropped[reason, scope])
            lines.append((name, FLUSH_SCOPES[scope], *flushed, *mine))
    columns = ["reason", "scope", "flushes", "entries_dropped", "refills", "refill_references"]
    return pd.DataFrame(lines, columns=columns)


def fields_frame(raw: RawCounts, backend: str, layout: str) -> pd.DataFrame:
    """Reads and writes of fields of vmcx12, and of L0's nested state, by event.

    ``place`` of a field of vmcx12 is the control structure itself; of the nested state it says
    where ``layout`` has the field: ``generic``, ``vendor``, or ``fetched`` from vmcx12, which then
    shows up in that structure's rows too.
    """
    pairs = raw.fields.reshape(len(raw.fields), -1, 2)
    number, phase = np.nonzero(pairs.sum(axis=2))
    vmcx12 = pd.DataFrame(
        {
            "layout": layout,
            "field": [field_name(backend, int(i)) for i in number],
            "place": "vmcb12" if backend == "svm" else "vmcs12",
            "event": [FIELD_PHASES[i] for i in phase],
            "reads": pairs[number, phase, 0],
            "writes": pairs[number, phase, 1],
        }
    )
    return pd.concat([vmcx12, _state_frame(raw, backend, layout)], ignore_index=True)


def _state_frame(raw: RawCounts, backend: str, layout: str) -> pd.DataFrame:
    pairs = raw.state.reshape(len(raw.state), -1, 2)
    number, event = np.nonzero(pairs.sum(axis=2).T)
    names = [STATE_FIELDS[i] for i in number]
    where = places(layout, backend)
    return pd.DataFrame(
        {
            "layout": layout,
            "field": names,
            "place": [where[name] for name in names],
            "event": [STATE_EVENTS[i] for i in event],
            "reads": pairs[event, number, 0],
            "writes": pairs[event, number, 1],
        }
    )


def interrupts_frame(raw: RawCounts) -> pd.DataFrame:
    """Interrupts and NMIs that had to wait, by what blocked them, and how long they waited."""
    reasons = slice(len(BLOCK_REASONS))
    return pd.DataFrame(
        {
            "reason": list(BLOCK_REASONS),
            "blocked": raw.blocked[reasons],
            "cycles": raw.blocked_time[reasons] / TIME_SCALE,
        }
    )


def _taken(raw: RawCounts) -> tuple[np.ndarray, np.ndarray]:
    """(level, kind) pairs for which something was delivered or taken."""
    level, kind = np.nonzero(raw.delivered + raw.latency.sum(axis=2))
    return level, kind


def deliveries_frame(raw: RawCounts) -> pd.DataFrame:
    """Interrupts and NMIs by level: handlers entered, events taken, mean cycles from raise to taking."""
    level, kind = _taken(raw)
    taken = raw.latency.sum(axis=2)[level, kind]
    waited = raw.latency_time[level, kind] / TIME_SCALE
    return pd.DataFrame(
        {
            "level": [LEVELS[i] for i in level],
            "kind": [EVENT_KINDS[i] for i in kind],
            "delivered": raw.delivered[level, kind],
            "taken": taken,
            "latency_cycles": np.divide(
                waited, taken, out=np.full(len(taken), np.nan), where=taken > 0
            ),
        }
    )


def latency_frame(raw: RawCounts) -> pd.DataFrame:
    """The distribution of the cycles from raise to taking, four bins for each power of two.

    ``share`` counts from the shortest up, within each level and kind.
    """
    level, kind, place = np.nonzero(raw.latency)
    edges = latency_edges()
    counts = raw.latency[level, kind, place]
    frame = pd.DataFrame(
        {
            "level": [LEVELS[i] for i in level],
            "kind": [EVENT_KINDS[i] for i in kind],
            "from_cycles": edges[place],
            "below_cycles": edges[place + 1],
            "count": counts,
        }
    )
    grouped = frame.groupby(["level", "kind"])["count"]
    return frame.assign(share=grouped.cumsum() / grouped.transform("sum"))


def latency_edges() -> np.ndarray:
    """Bounds of the bins of a latency [cycles], shape (N_LATENCY_BINS + 1,)."""
    number = np.arange(N_LATENCY_BINS)
    return np.concatenate([[0.0], 2.0 ** (number // 4) * (1 + number % 4 / 4)])


def latency_quantiles(frame: pd.DataFrame, shares: Sequence[float]) -> np.ndarray:
    """Cycles that the given shares of events waited no longer than, NaN where none did.

    Parameters
    ----------
    frame : DataFrame
        Rows of :func:`latency_frame`; several levels and kinds are taken together.
    shares : sequence of float
        From 0 to 1.

    Returns
    -------
    ndarray, shape (len(shares),)
        Within a bin events are taken to lie evenly, so a value is off by a quarter at most.
    """
    if frame.empty:
        return np.full(len(shares), np.nan)
    bins = frame.groupby(["from_cycles", "below_cycles"], as_index=False)["count"].sum()
    reached = bins["count"].cumsum() / bins["count"].sum()
    found = []
    for share in shares:
        place = int(np.searchsorted(reached, share - 1e-12))
        before = reached[place - 1] if place else 0.0
        part = (share - before) / (reached[place] - before)
        low, high = bins.loc[place, ["from_cycles", "below_cycles"]]
        found.append(low + part * (high - low))
    return np.array(found)


def timeline_frame(raw: RawCounts, backend: str) -> pd.DataFrame:
    """What happened in which order, as far as recorded; cycles are simulated time of that run."""
    entry = {name: raw.timeline[:, i] for i, name in enumerate(TIMELINE_COLUMNS)}
    pairs = zip(entry["kind"].tolist(), entry["code"].tolist(), strict=True)
    return pd.DataFrame(
        {
            "step": entry["step"],
            "cycles": entry["time"] / TIME_SCALE,
            "from_level": [LEVELS[i] for i in entry["from_level"]],
            "to_level": [LEVELS[i] for i in entry["to_level"]],
            "kind": [TIMELINE_KINDS[i] for i in entry["kind"]],
            "reason": [timeline_reason(backend, TIMELINE_KINDS[k], c) for k, c in pairs],
            "cause": [cause_name(int(i)) for i in entry["cause"]],
            "info": entry["info"],
            "rip": entry["rip"],
        }
    )


def exit_place(backend: str, code: int) -> int:
    """Place of an exit code in the ledger's exit table (inverse of ``arch.exit_code``)."""
    if backend == "vmx":
        return code & 0x7F
    if code < 0:
        return svm.INVALID_INDEX
    return svm.NPF_INDEX + (code & 3) if code >= 0x400 else code


def timeline_reason(backend: str, kind: str, code: int) -> str:
    """What a timeline entry's ``code`` means: exit code, field number, flush reason, failed check."""
    if kind in ("field_read", "field_write"):
        return field_name(backend, code)
    if kind == "flush":
        return FLUSH_REASONS[code] if 0 <= code < len(FLUSH_REASONS) else f"reason {code}"
    if kind == "entry_refused":
        return check_name(backend, code)
    return "" if kind.endswith("entry") else exit_name(backend, exit_place(backend, code))


def operations_frame(raw: RawCounts, preset: PricePreset, level: int = 2) -> pd.DataFrame:
    """The bill of one L2 operation: exits and cycles per exit of L2, by its cause."""
    operations = raw.exits[level].sum(axis=(0, 1))[: len(CAUSES)]
    used = np.nonzero(operations)[0]
    times = operations[used]
    frame = pd.DataFrame(
        {
            "cause": np.array(CAUSES)[used],
            "operations": times,
            "exits_per_operation": raw.exits.sum(axis=(0, 1, 2))[used] / times,
        }
    )
    for column, cycles in preset.spread(raw.counts[used]).items():
        frame[f"{column}_per_operation"] = cycles / times
    return frame


def without_boot(raw: RawCounts) -> np.ndarray:
    """Counts [cause, event] with the set-up before the first entry to L2 set to zero."""
    counts = raw.counts.copy()
    counts[BOOT] = 0
    return counts
