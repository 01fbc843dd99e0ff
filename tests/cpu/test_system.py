"""Platform instructions: MSRs, control registers, descriptor tables, ports, CPUID, time."""

from __future__ import annotations

import struct

import pytest

from workbench.arch import msr
from workbench.core import layout as lay

from .bare import CODE, DATA, HANDLERS, STACK, Bare

GP = 13
RDMSR, WRMSR, HLT = b"\x0f\x32", b"\x0f\x30", b"\xf4"


@pytest.fixture
def bare() -> Bare:
    made = Bare()
    made.set(lay.RSP, STACK)
    made.halt_handlers()
    return made


@pytest.mark.parametrize(
    "name",
    ["STAR", "LSTAR", "CSTAR", "SFMASK", "FS_BASE", "GS_BASE", "KERNEL_GS_BASE", "TSC_AUX",
     "IA32_SYSENTER_CS", "IA32_SYSENTER_ESP", "IA32_SYSENTER_EIP", "IA32_TSC_ADJUST"],
)  # fmt: skip
def test_msr_keeps_what_is_written(bare, name):
    bare.set(lay.RCX, getattr(msr, name))
    bare.set(lay.RAX, 0x12345678)
    bare.set(lay.RDX, 0)
    assert bare.execute(WRMSR + b"\x31\xc0" + RDMSR + HLT) == lay.ST_HALT
    assert bare.rip < HANDLERS
    assert bare.get(lay.RAX) == 0x12345678


@pytest.mark.parametrize(
    ("number", "value"),
    [(0x9000, 0), (msr.LSTAR, 1 << 60), (msr.EFER, 1 << 20), (msr.EFER, 0), (msr.IA32_PAT, 0x02)],
)
def test_bad_msr_write_is_general_protection(bare, number, value):
    bare.set(lay.RCX, number)
    bare.set(lay.RAX, value & 0xFFFFFFFF)
    bare.set(lay.RDX, value >> 32)
    bare.execute(WRMSR + HLT)
    assert bare.vector_taken() == GP


@pytest.mark.parametrize(
    ("register", "value"),
    [(0, 0x33), (0, 1 << 32 | 0x80000033), (0, 0xA0000033), (4, 0), (4, 1 << 40 | 0x20),
     (3, 1 << 60), (8, 0x10)],
)  # fmt: skip
def test_bad_control_register_write_is_general_protection(bare, register, value):
    bare.set(lay.RAX, value)
    rex = b"\x44" if register == 8 else b""
    bare.execute(rex + b"\x0f\x22" + bytes((0xC0 | (register & 7) << 3,)) + HLT)
    assert bare.vector_taken() == GP


def test_control_registers_read_back(bare):
    bare.set(lay.RBX, 0x80010033 | 8)
    code = b"\x0f\x22\xc3\x0f\x20\xc0\x0f\x06\x0f\x20\xc1\x0f\x01\xe2" + HLT  # clts; smsw edx
    assert bare.execute(code) == lay.ST_HALT
    assert bare.get(lay.RAX) & 8
    assert bare.get(lay.RCX) & 8 == 0
    assert bare.get(lay.RDX) & 0xFFFF == 0x33


def test_cr3_switch_changes_what_is_read(bare):
    words = bare.machine.words
    words[0x40000 >> 3 : (0x40000 >> 3) + 0x600] = words[0x10000 >> 3 : (0x10000 >> 3) + 0x600]
    words[0x40000 >> 3] = 0x41007
    words[0x41000 >> 3] = 0x42007
    words[(0x42000 >> 3) + 1] = words[(0x12000 >> 3) + 2]  # 2 MB shows what is at 4 MB
    bare.write(DATA, b"\x01")
    bare.write(4 << 20, b"\x02")
    bare.set(lay.RBX, 0x40000)
    bare.set(lay.RSI, DATA)
    assert bare.execute(b"\x8a\x06\x0f\x22\xdb\x8a\x0e" + HLT) == lay.ST_HALT
    assert (bare.get(lay.RAX) & 0xFF, bare.get(lay.RCX) & 0xFF) == (1, 2)


def test_invlpg_drops_a_stale_translation(bare):
    bare.write(DATA, b"\x01")
    bare.write(4 << 20, b"\x02")
    entry = (0x12000 >> 3) + 1
    bare.set(lay.RSI, DATA)
    bare.set(lay.RDI, entry << 3)
    bare.set(lay.RAX, int(bare.machine.words[entry + 1]))
    code = b"\x8a\x16\x48\x89\x07\x8a\x1e\x0f\x01\x3e\x8a\x0e" + HLT
    assert bare.execute(code) == lay.ST_HALT
    assert bare.get(lay.RDX) & 0xFF == 1
    assert bare.get(lay.RBX) & 0xFF == 1  # still the old translation
    assert bare.get(lay.RCX) & 0xFF == 2


def test_descriptor_tables_are_stored_as_loaded(bare):
    bare.write(DATA, struct.pack("<HQ", 0x1234, 0x5678))
    bare.set(lay.RSI, DATA)
    code = b"\x0f\x01\x1e\x0f\x01\x4e\x10\x0f\x01\x46\x20\x0f\x00\xc8" + HLT
    assert bare.execute(code) == lay.ST_HALT
    assert bare.read(DATA + 0x10, 10) == bare.read(DATA, 10)
    assert struct.unpack("<HQ", bare.read(DATA + 0x20, 10)) == (0x37, 0x6000)
    assert bare.get(lay.RAX) == 0x28


def test_serial_line_is_captured_and_debug_exit_stops(bare):
    text = b"hello"
    bare.write(DATA, text)
    bare.set(lay.RSI, DATA)
    bare.set(lay.RCX, len(text))
    bare.set(lay.RDX, 0x3F8)
    assert bare.execute(b"\xf3\x6e\xb0\x2a\xe6\xf4") == lay.ST_STOP
    assert int(bare.record["stop_code"][0]) == 0x2A
    count = int(bare.record["serial_count"][0])
    assert bare.record["serial"][0, :count].tobytes() == text


def test_unknown_port_reads_ones(bare):
    bare.execute(b"\x31\xc0\xe5\x60" + HLT)
    assert bare.get(lay.RAX) == 0xFFFFFFFF


def test_cpuid_names_a_vendor_and_only_what_exists(bare):
    bare.execute(b"\x31\xc0\x0f\xa2\x89\xdf\x89\xd6\xb8\x01\x00\x00\x00\x31\xc9\x0f\xa2" + HLT)
    assert struct.pack("<I", bare.get(lay.RDI)) == b"Genu"
    assert struct.pack("<I", bare.get(lay.RSI)) == b"ineI"
    sse = 1 << 25
    assert bare.get(lay.RDX) & sse == 0


def test_time_advances_with_priced_instructions(bare):
    bare.record["ledger"]["price"] = 1024
    code = b"\x0f\x31\x89\xc3" + b"\x90" * 50 + b"\x0f\x31" + HLT
    assert bare.execute(code) == lay.ST_HALT
    assert bare.get(lay.RAX) - bare.get(lay.RBX) >= 52


def test_steps_are_counted_and_folded(bare):
    bare.execute(b"\x90" * 10 + HLT)
    assert int(bare.record["steps"][0]) == 11
    assert int(bare.record["ledger"]["counts"][0].sum()) >= 11


def test_counts_do_not_depend_on_the_chunk_size():
    code = b"\x48\xb9\x40\x00\x00\x00\x00\x00\x00\x00\xff\xc0\x50\x58\xff\xc9\x75\xf8" + HLT
    totals = []
    for chunk in (1 << 20, 7):
        bare = Bare()
        bare.set(lay.RSP, STACK)
        bare.write(CODE, code)
        bare.rip = CODE
        while bare.run(chunk) == lay.ST_OK:
            pass
        totals.append((int(bare.record["steps"][0]), bare.record["ledger"]["counts"][0].sum(0)))
    assert totals[0][0] == totals[1][0]
    assert (totals[0][1] == totals[1][1]).all()


def test_swapgs_and_debug_registers(bare):
    bare.cpu["kernel_gs_base"] = 0x1234
    bare.set(lay.RAX, 0x5678)
    assert bare.execute(b"\x0f\x01\xf8\x0f\x23\xc8\x0f\x21\xcb" + HLT) == lay.ST_HALT
    assert int(bare.cpu["seg_base"][0, lay.GS]) == 0x1234
    assert bare.get(lay.RBX) == 0x5678


def test_a_looping_guest_uses_up_its_budget(bare):
    bare.cpu["idtr_limit"] = 0xFFF
    bare.set_gate(6, CODE)  # #UD whose handler is #UD: deliveries must count as steps
    assert bare.execute(b"\x0f\x0b", 1000) in (lay.ST_OK, lay.ST_HALT, lay.ST_SHUTDOWN)
    bare.set(lay.RSP, STACK)
    assert bare.execute(b"\xeb\xfe", 1000) == lay.ST_OK
