"""Where walk references hit: agreement with the oracle, and what walks count."""

from __future__ import annotations

import numpy as np
import pytest

from tests.mmu.machines import events, load, mapped_machine, pending
from tests.oracle.lines import Caches
from workbench.core.units import entry
from workbench.geometry import list_cores, load_cache_geometry
from workbench.tables import data_table

PLACES = ("WALK_FROM_L1_CACHE", "WALK_FROM_L2_CACHE", "WALK_FROM_LLC", "WALK_FROM_MEMORY")


def by_place(made) -> list[int]:
    counted = events(made)
    return [counted.get(place, 0) for place in PLACES]


def references(made) -> int:
    counted = events(made)
    return counted.get("WALK_REFERENCE_GUEST", 0) + counted.get("WALK_REFERENCE_NESTED", 0)


def with_caches(backend):
    made = mapped_machine(backend)
    made.record["feat"]["walk_caches"] = 1
    return made


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shapes", [[(2, 2), (4, 2), (8, 4)], [(64, 8), (512, 8), (8192, 16)]])
def test_lines_are_found_where_the_oracle_finds_them(seed, shapes):
    made = mapped_machine("none")
    lines = made.record["lines"]
    lines["sets"][0], lines["ways"][0] = zip(*shapes, strict=True)
    oracle, find = Caches(shapes), entry("find_line")
    random = np.random.default_rng(seed)
    span = sum(sets * ways for sets, ways in shapes) * 2
    wanted = np.concatenate([random.integers(0, s, 1500) for s in (20, span // 4, span)])
    random.shuffle(wanted)
    seen = [(find(made.address, int(n) * 64 + 8), oracle.find(int(n) * 64 + 8)) for n in wanted]
    assert all(ours == theirs for ours, theirs in seen)
    assert len({ours for ours, _ in seen}) >= 3


@pytest.mark.parametrize("backend", ["none", "svm", "vmx"])
def test_each_walk_reference_hits_in_one_place(backend):
    made = with_caches(backend)
    for va in (0x201008, 0x202000, 0x305000, 0x201800):
        load(made, va)
        assert pending(made) == 0
    assert sum(by_place(made)) == references(made) > 0


def test_a_first_walk_comes_from_memory_and_its_neighbour_from_the_first_level():
    made = with_caches("none")
    load(made, 0x201008)
    assert by_place(made) == [0, 0, 0, 4]
    load(made, 0x202008)  # the entry beside it: the same line in each table
    assert by_place(made) == [4, 0, 0, 4]


def test_the_access_behind_a_walk_brings_its_own_line():
    made = with_caches("none")
    load(made, 0x201008)
    assert entry("find_line")(made.address, 0x201000) == 0
    assert entry("find_line")(made.address, 0x201040) == 3


def test_without_the_model_every_reference_is_in_the_second_level():
    made = mapped_machine("svm")
    load(made, 0x201008)
    assert by_place(made) == [0, references(made), 0, 0] and references(made) == 24
    assert not made.record["lines"]["line"].any()


@pytest.mark.parametrize("core", list_cores())
def test_cache_geometry_keeps_its_size_in_a_power_of_two_of_sets(core):
    row = next(r for r in data_table("cache_geometry").rows if r["core"] == core)
    sizes = [int(row[f"{level}_kb"]) for level in ("l1d", "l2", "llc")]
    for (sets, ways), size in zip(load_cache_geometry(core), sizes, strict=True):
        assert sets & (sets - 1) == 0
        assert 0.9 * size <= sets * ways / 16 <= size
