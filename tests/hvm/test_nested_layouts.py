"""The three layouts of nested state: their tables against the ABI, and the bytes in memory."""

from __future__ import annotations

import ctypes

import pytest

from tests.oracle.svm_machine import SvmMachine
from tests.oracle.vmx_machine import VmxMachine
from workbench import nested_layouts
from workbench.core.hvm import memory_map, nested_state
from workbench.core.ledger import STATE_FIELDS
from workbench.tables import data_table

BACKENDS = ("svm", "vmx")
C_TYPES = {
    "bool_t": ctypes.c_uint8,
    "u8": ctypes.c_uint8,
    "u32": ctypes.c_uint32,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "paddr_t": ctypes.c_uint64,
    "lbrctrl_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "unsigned long": ctypes.c_ulong,
    "void *[2]": ctypes.c_void_p * 2,
    "unsigned long [5]": ctypes.c_ulong * 5,
    "struct list_head": ctypes.c_void_p * 2,
}


def c_type(name: str) -> type:
    return ctypes.c_void_p if name.endswith("*") else C_TYPES[name]


def structure(rows: list[dict[str, str]]) -> type[ctypes.Structure]:
    """The rows as a C structure; members ``a.b`` make a structure ``a``, bits share a word."""
    members: list[tuple] = []
    for row in rows:
        head, dot, tail = row["name"].partition(".")
        if dot and members and members[-1][0] == head:
            members[-1][1].append((tail, row))
        elif dot:
            members.append((head, [(tail, row)]))
        else:
            members.append((head, c_type(row["c_type"])))
    fields = []
    for head, kind in members:
        if isinstance(kind, list):
            inner = [
                (tail, c_type(row["c_type"]), 1) if row["bit"] else (tail, c_type(row["c_type"]))
                for tail, row in kind
            ]
            kind = type(head, (ctypes.Structure,), {"_fields_": inner})
        fields.append((head, kind))
    return type("S", (ctypes.Structure,), {"_fields_": fields})


def offset_in(made: type[ctypes.Structure], name: str) -> int:
    head, dot, tail = name.partition(".")
    outer = getattr(made, head).offset
    return outer + getattr(dict(made._fields_)[head], tail).offset if dot else outer


def check(rows: list[dict[str, str]], base: int = 0) -> int:
    made = structure(rows)
    for row in rows:
        assert int(row["offset"]) == base + offset_in(made, row["name"]), row["name"]
        assert int(row["size"]) == ctypes.sizeof(c_type(row["c_type"])), row["name"]
    return ctypes.sizeof(made)


def rows_of(layout: str, struct: str) -> list[dict[str, str]]:
    table = data_table("nested_layouts").rows
    return [r for r in table if (r["layout"], r["struct"]) == (layout, struct)]


@pytest.mark.parametrize(
    "layout, struct",
    [
        ("generic-2010", "nestedhvm"),
        ("generic-2010", "nh_arch (SVM)"),
        ("generic-2010", "nh_arch (VMX)"),
        ("minimal-2010", "nested_vcpu"),
        ("minimal-2010", "nested_svm"),
        ("minimal-2010", "nested_vmx"),
    ],
)
def test_offsets_and_sizes_are_those_of_the_abi(layout, struct):
    check(rows_of(layout, struct))


def test_the_merged_layout_is_a_structure_with_a_union_in_it():
    top = rows_of("merged-2011", "nestedvcpu")
    union = [rows_of("merged-2011", f"nestedvcpu.u.{name}") for name in ("nsvm", "nvmx")]
    cut = next(i for i, row in enumerate(top) if row["name"] == "nv_flushp2m")
    base = check(top[:cut])
    sizes = [check(rows, base) for rows in union]
    check(top[cut:], base + max(sizes))


def test_every_field_has_a_place_in_every_layout_or_none_at_all():
    for layout in nested_layouts.LAYOUTS:
        for backend in BACKENDS:
            rows = [r for r in nested_layouts.rows(layout, backend) if r["field"]]
            names = [r["field"] for r in rows]
            assert len(names) == len(set(names)) and set(names) <= set(STATE_FIELDS)
            assert {"n2_guest", "vmcx12", "n2p_to_l0m", "vmexit_pending"} <= set(names)


def test_shapes_are_what_the_kernel_takes_them_for():
    kernel = nested_state
    assert nested_layouts.BYTES == {
        1: kernel.BYTES_1, 2: kernel.BYTES_2, 4: kernel.BYTES_4, 8: kernel.BYTES_8,
    }  # fmt: skip
    assert (nested_layouts.BIT, nested_layouts.IN_ARCH) == (kernel.BIT, kernel.IN_ARCH)
    assert (nested_layouts.ABSENT, nested_layouts.FETCHED) == (kernel.ABSENT, kernel.FETCHED)


@pytest.mark.parametrize("layout", nested_layouts.LAYOUTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_two_fields_share_bytes_and_all_fit(layout, backend):
    taken: set[tuple[int, int]] = set()
    for row in nested_layouts.rows(layout, backend):
        if row["place"] == "fetched":
            continue
        start = nested_layouts._offset(row)
        for byte in range(start, start + int(row["size"])):
            bits = [int(row["bit"])] if row["bit"] else range(32)
            places = {(byte, bit) for bit in bits}
            assert not places & taken, row["name"]
            taken |= places
    assert max(byte for byte, _ in taken) < 4096


def test_svm_state_stands_at_the_offsets_of_the_merged_layout():
    machine = SvmMachine()
    machine.start_vmrun(machine.good_vmcb12())
    page = machine.ram[memory_map.NESTED_STATE_MA :]
    offsets = {r["field"]: int(r["offset"]) for r in nested_layouts.rows("merged-2011", "svm")}
    assert page[offsets["n2_guest"]] == 1
    at = offsets["vmcx12_addr"]
    assert int.from_bytes(page[at : at + 8].tobytes(), "little") == machine.state["vmcx12_addr"]
    page[offsets["n2_guest"]] = 0  # the kernel reads exactly this byte
    machine.call("svm_exit_n2")
    reads = machine.m["ledger"]["state"][0]
    assert reads[:, STATE_FIELDS.index("n2_guest") * 2 + 1].sum() > 0


def test_vmx_state_stands_at_the_offsets_of_the_merged_layout():
    made = VmxMachine()
    made.state["guest_tag"] = 0x1234
    at = memory_map.NESTED_STATE_MA + 116
    assert made.ram[at : at + 2].tobytes() == b"\x34\x12"
    with pytest.raises(KeyError):
        made.state["gif"]
