"""Price presets: complete, sourced, bounded, and equal to the kernel's own clock."""

import os

import numpy as np
import pandas as pd
import pytest

from workbench.cli.listing import sources_text
from workbench.core.ledger import EVENTS, N_EVENTS, TIME_SCALE
from workbench.errors import PriceError
from workbench.features import catalogue
from workbench.geometry import list_cores, load_tlb_geometry
from workbench.prices import KINDS, PARTS, list_presets, load_preset, part_of, preset_from_frame
from workbench.scenario import Scenario
from workbench.simulate import run
from workbench.tables import bibliography, data_table, source_key, source_keys

PRESETS = list_presets()


@pytest.mark.parametrize("name", PRESETS)
def test_every_event_has_a_price_within_its_bounds_and_a_source(name):
    rows = load_preset(name).frame
    assert list(rows["event"]) == list(EVENTS)
    assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()
    for row in rows.itertuples():
        keys = source_keys(row.source)
        assert keys and set(keys) <= set(bibliography()), row.event
        assert row.note and row.kind in KINDS


def test_no_price_rests_on_a_figure_from_memory():
    recalled = {r["source_key"] for r in data_table("published/published").rows
                if r["confidence"] == "recalled"}  # fmt: skip
    for name in PRESETS:
        assert not recalled & set(load_preset(name).sources)


def test_every_source_is_used_and_every_use_is_listed():
    used = {r["source_key"] for r in data_table("published/published").rows}
    used |= {key for name in PRESETS for cell in load_preset(name).frame["source"]
             for key in source_keys(cell)}  # fmt: skip
    used |= {key for f in catalogue().values() for key in source_keys(f.source)}
    used |= {source_key(load_preset(name).clock_source) for name in PRESETS} - {""}
    used |= {key for r in data_table("tlb_geometry").rows for key in source_keys(r["source"])}
    used |= {key for r in data_table("cache_geometry").rows for key in source_keys(r["source"])}
    used |= {key for r in data_table("nested_layouts").rows for key in source_keys(r["source"])}
    used |= {word.strip("(),;") for r in data_table("published/scenarios").rows
             for word in r["why"].split()} & set(bibliography())  # fmt: skip
    assert used == set(bibliography())


def test_each_backend_has_a_preset_of_its_own():
    assert "zen" in list_presets("svm") and "nehalem" in list_presets("vmx")
    assert "zen" not in list_presets("vmx")
    assert load_preset("nehalem").clock_ghz == 2.9 and load_preset("zen").clock_ghz == 2.2
    assert load_preset("zen").core == "Zen"


@pytest.mark.parametrize("name", PRESETS)
def test_kernel_prices_are_the_same_numbers(name):
    preset = load_preset(name)
    kernel = preset.kernel_prices()
    assert kernel.dtype == np.int64 and kernel.shape == (N_EVENTS,)
    assert (kernel / TIME_SCALE == preset.vector()).all()
    assert not kernel[len(EVENTS) :].any()


def test_every_event_belongs_to_a_part():
    assert {part_of(event) for event in EVENTS} == set(PARTS) - {"walks after flushes"}


def test_changed_prices_make_a_new_preset():
    before = load_preset("zen")
    after = before.with_values({"HW_EXIT": 500, "HW_ENTRY": (100, 200.5, 300)})
    assert (before.price("HW_EXIT"), after.price("HW_EXIT")) == (370, 500)
    row = after.frame.set_index("event").loc["HW_ENTRY"]
    assert (row["low"], row["value"], row["high"], row["source"]) == (100, 200.5, 300, "user")
    assert after.name == "zen*" and after.with_values({"HW_EXIT": 1}).name == "zen*"
    assert before.hash != after.hash and before.with_values({}) is before
    assert "user" not in after.sources


def test_a_preset_survives_its_own_csv(tmp_path):
    path = tmp_path / "mine.csv"
    mine = load_preset("nehalem").with_values({"HW_EXIT": 123.25})
    path.write_text(mine.to_csv(), encoding="utf-8")
    again = load_preset(path)
    assert again.hash == mine.hash and again.core == "Nehalem" and again.name == "mine"
    assert again.frame.equals(mine.frame)


def test_a_frame_of_events_and_values_suffices():
    frame = pd.DataFrame({"event": EVENTS, "value": range(len(EVENTS))})
    preset = preset_from_frame(frame, "ramp", backend="vmx")
    assert preset.price(EVENTS[5]) == 5 and preset.core == "Nehalem"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.drop(columns="value"), "column 'value'"),
        (lambda f: f.iloc[1:], "no price for L1_INSTRUCTION"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "two prices"),
        (lambda f: f.replace("HW_EXIT", "HW_EXITS"), "HW_EXIT"),
        (lambda f: f.assign(value=-1), "is -1"),
        (lambda f: f.assign(value="cheap"), "'cheap'"),
        (lambda f: f.assign(high=0), "low <= value <= high"),
        (lambda f: f.assign(unit="seconds"), "unit of"),
        (lambda f: f.assign(kind="guess"), "kind of"),
    ],
)
def test_a_wrong_price_table_gets_one_clear_error(change, said):
    frame = load_preset("zen").frame
    with pytest.raises(PriceError, match=said):
        preset_from_frame(change(frame))


def test_unknown_presets_files_and_events_are_errors(tmp_path):
    with pytest.raises(PriceError, match="Did you mean zen"):
        load_preset("zeno")
    with pytest.raises(PriceError, match="cannot read"):
        load_preset(tmp_path / "none.csv")
    with pytest.raises(PriceError, match="HW_ENTRY"):
        load_preset("zen").with_values({"HW_ENTRIES": 1})
    with pytest.raises(PriceError, match="HW_EXIT is 'dear'"):
        load_preset("zen").with_values({"HW_EXIT": "dear"})


@pytest.mark.parametrize("core", list_cores())
def test_tlb_geometry_keeps_its_entries_in_a_power_of_two_of_sets(core):
    shape = load_tlb_geometry(core)
    row = next(r for r in data_table("tlb_geometry").rows if r["core"] == core)
    assert shape.sets1 * shape.ways1 == int(row["l1_dtlb_entries"])
    assert shape.sets2 * shape.ways2 == int(row["l2_tlb_entries"])
    assert shape.sets1_large * shape.ways1_large == int(row["l1_dtlb_2m"] or 0)
    for sets in (shape.sets1, shape.sets2):
        assert sets & (sets - 1) == 0


def test_an_unknown_core_is_an_error():
    with pytest.raises(PriceError, match="Zen"):
        load_tlb_geometry("Zenn")


# ---------------------------------------------------------------- bases, units, the user's own


def own(tmp_path, monkeypatch, name, text):
    monkeypatch.setenv("WORKBENCH_PRICES", str(tmp_path))
    (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")


def test_every_processor_of_the_list_has_a_preset_with_its_own_tlb():
    cores = {
        "nehalem": "Nehalem", "sandybridge": "Sandy Bridge", "haswell": "Haswell",
        "skylake": "Skylake server", "cascadelake": "Cascade Lake",
        "cascadelake-4216": "Cascade Lake", "piledriver": "Piledriver",
        "zen": "Zen", "zen2": "Zen 2", "zen3": "Zen 3",
    }  # fmt: skip
    assert {name: load_preset(name).core for name in PRESETS} == cores
    assert set(cores.values()) <= set(list_cores())
    assert all(load_preset(name).clock_ghz and load_preset(name).clock_source for name in PRESETS)


def test_a_file_in_the_users_directory_overrides_single_rows_of_its_base(tmp_path, monkeypatch):
    text = "# base: skylake\n# core: Haswell\nevent,value,low,high\nHW_EXIT,100,50,200\n"
    own(tmp_path, monkeypatch, "mine", text)
    assert "mine" in list_presets("vmx") and "mine" not in list_presets("svm")
    mine, base = load_preset("mine"), load_preset("skylake")
    assert (mine.price("HW_EXIT"), mine.core, mine.clock_ghz) == (100, "Haswell", 2.2)
    changed = [e for e in EVENTS if mine.price(e) != base.price(e)]
    assert changed == ["HW_EXIT"]


def test_a_changed_file_is_read_again(tmp_path, monkeypatch):
    own(tmp_path, monkeypatch, "mine", "# base: zen\nevent,value\nHW_EXIT,1\n")
    assert load_preset("mine").price("HW_EXIT") == 1
    own(tmp_path, monkeypatch, "mine", "# base: zen\nevent,value\nHW_EXIT,2.5\n")
    os.utime(tmp_path / "mine.csv", ns=(1, 1))
    assert load_preset("mine").price("HW_EXIT") == 2.5


def test_units_become_cycles(tmp_path, monkeypatch):
    head = "# base: nehalem\n# clock_ghz: 2\n# software_scale: 0.5\n# line_cycles: 1 10 100\n"
    body = "event,value,low,high,unit\nHW_EXIT,0.2,0.1,0.3,us\nHW_ENTRY,300,300,300,ns\n"
    body += "L0_VMPTRLD,2,2,2,lines\nL0_EXIT_DISPATCH,100,10,200,work\n"
    own(tmp_path, monkeypatch, "mine", head + body)
    rows = load_preset("mine").frame.set_index("event")
    assert list(rows.loc["HW_EXIT", ["low", "value", "high"]]) == pytest.approx([200, 400, 600])
    assert rows.loc["HW_ENTRY", "value"] == 600
    assert list(rows.loc["L0_VMPTRLD", ["low", "value", "high"]]) == [2, 20, 200]
    assert list(rows.loc["L0_EXIT_DISPATCH", ["low", "value", "high"]]) == [5, 50, 100]
    assert set(rows["unit"]) == {"cycles"} and rows.loc["L0_VMPTRLD", "note"].startswith("2 lines")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# base: nehalems\nevent,value\n", "Did you mean nehalem"),
        ("# base: mine\nevent,value\n", "leads back"),
        ("# base: zen\n# clock_ghz:\nevent,value,unit\nHW_EXIT,1,ns\n", "no clock_ghz"),
        ("# base: zen\n# clock_ghz: fast\nevent,value\n", "clock_ghz is 'fast'"),
        ("# base: zen\n# line_cycles: 4 1 2\nevent,value\n", "line_cycles is '4 1 2'"),
        ("# base: zen\nevent,value,highest\n", "no column called 'highest'"),
        ("# base: zen\nevent,value,low\nHW_EXIT,1,cheap\n", "low of HW_EXIT is 'cheap'"),
        ("# base: zen\nevent,value\nHW_EXIT,cheap\n", "value of HW_EXIT is 'cheap'"),
        ("# base: zen\nevent,value\nHW_EXIT,1,2,3\n", "'HW_EXIT' has more cells than"),
    ],
)
def test_a_wrong_file_of_the_users_gets_one_clear_error(tmp_path, monkeypatch, text, said):
    own(tmp_path, monkeypatch, "mine", text)
    with pytest.raises(PriceError, match=said):
        load_preset("mine")


def test_a_source_of_the_users_own_is_named_in_bill_and_citation(tmp_path, monkeypatch):
    text = "# base: zen\nevent,value,kind,source\nHW_EXIT,100,measured,lab-2026\n"
    own(tmp_path, monkeypatch, "mine", text)
    scenario = Scenario(backend="svm", l2="cpuid", l2_params={"iterations": 5}, prices="mine")
    result = run(scenario)
    assert "lab-2026" in result.sources
    for shown in (result.explain("CPUID"), result.cite()):
        assert "[lab-2026] as a price file of one's own says" in shown
    by_hand = result.reprice(result.preset.with_values({"HW_ENTRY": 7}))
    assert "[user] prices set by hand" in by_hand.explain("CPUID")
    assert "% [lab-2026]" in sources_text(result.sources, bibtex=True)


def test_a_file_cannot_take_the_name_of_a_shipped_preset(tmp_path, monkeypatch):
    own(tmp_path, monkeypatch, "zen", "# base: zen\nevent,value\nHW_EXIT,1\n")
    with pytest.raises(PriceError, match="rename the file"):
        load_preset("zen")


def test_a_frame_with_a_base_needs_only_what_differs():
    mine = preset_from_frame(pd.DataFrame({"event": ["HW_EXIT"], "value": [7]}), base="haswell")
    assert (mine.price("HW_EXIT"), mine.backend, mine.core) == (7, "vmx", "Haswell")


# ---------------------------------------------------------------- bounds of sums


def test_prices_of_one_group_move_together_and_groups_apart():
    rows = pd.DataFrame({"event": EVENTS, "value": 10.0, "low": 10.0, "high": 10.0, "group": ""})
    rows = rows.set_index("event")
    rows.loc["HW_EXIT", ["low", "high", "group"]] = 7.0, 14.0, "switch"
    rows.loc["HW_ENTRY", ["low", "high", "group"]] = 9.0, 12.0, "switch"
    rows.loc["L0_VMREAD", ["low", "high"]] = 7.0, 18.0
    preset = preset_from_frame(rows.reset_index(), backend="vmx")
    counts = np.zeros(N_EVENTS)
    for event in ("HW_EXIT", "HW_ENTRY", "L0_VMREAD", "L0_VMWRITE"):
        counts[EVENTS.index(event)] = 1
    found = preset.spread(counts)
    assert found["cycles"] == 40
    assert found["cycles_low"] == pytest.approx(40 - 5)  # (3 + 1) and 3
    assert found["cycles_high"] == pytest.approx(40 + 10)  # (4 + 2) and 8


@pytest.mark.parametrize("name", PRESETS)
def test_a_spread_is_never_wider_than_all_lows_and_all_highs(name):
    preset = load_preset(name)
    counts = np.random.default_rng(1).integers(0, 1000, (20, N_EVENTS))
    found = preset.spread(counts)
    assert (found["cycles_low"] >= counts @ preset.vector("low") - 1e-6).all()
    assert (found["cycles_high"] <= counts @ preset.vector("high") + 1e-6).all()
    assert (found["cycles_low"] < found["cycles"]).all()


def test_a_broken_file_of_ones_own_is_left_out_of_the_list_with_a_warning(tmp_path, monkeypatch):
    own(tmp_path, monkeypatch, "mine", "nonsense")
    with pytest.warns(UserWarning, match="mine"):
        assert "mine" not in list_presets("svm")
    with pytest.raises(PriceError):
        load_preset("mine")
