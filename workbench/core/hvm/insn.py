"""Instructions that a hypervisor may intercept, by a number of our own common to both vendors."""

NAMES = (
    "CPUID", "HLT", "RDTSC", "RDTSCP", "RDPMC", "PAUSE", "INVD", "WBINVD", "INVLPG", "IRET",
    "PUSHF", "POPF", "SWINT", "ICEBP", "MONITOR", "MWAIT", "XSETBV", "SGDT", "SIDT", "LGDT",
    "LIDT", "SLDT", "STR", "LLDT", "LTR", "INVPCID", "RSM", "RDRAND", "RDSEED",
    "RDPRU",
)  # fmt: skip

globals().update({f"I_{name}": i for i, name in enumerate(NAMES)})


def __getattr__(name: str) -> int:
    raise AttributeError(name)
