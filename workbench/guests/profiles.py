"""L1 hypervisors as they are: programs generated from the table of their virtualization operations.

``data/arch/l1_profiles.csv`` lists, for each hypervisor and kind of exit, the VMREADs, VMWRITEs and
other virtualization instructions that its handler executes, in order.  From it an assembly program
is made per hypervisor and back-end: each exit takes a path with exactly these operations, with
their real effect, so that L2 runs as under any other L1.  What they share (set-up, emulation of
L2's instructions) is in data/guests/include.  ``python -m workbench.guests.profiles NAME BACKEND``
prints a program.

Not modelled: the rest of a handler, for which ``handler_work`` plain instructions stand in;
operations that the table lists as optional, unless a parameter switches them on; exits that the
table has no row for take the path of the nearest kind, as a comment in the program says.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .profile_table import COMMON_PARAMS, Op, Param, Profile, Row, optional_fields, profiles
from .profiles_svm import svm_program
from .profiles_vmx import vmx_program

__all__ = [
    "COMMON_PARAMS",
    "Op",
    "Param",
    "Profile",
    "Row",
    "optional_fields",
    "profiles",
    "source",
]


def source(profile: Profile) -> str:
    """The program of a profile, as assembly text.

    Raises
    ------
    ValueError
        The table asks for something that no program can do, such as an operation that has no
        meaning in its place.
    """
    return (svm_program if profile.backend == "svm" else vmx_program)(profile)


def main(arguments: Sequence[str]) -> None:
    """Print the program of a profile."""
    for profile in profiles():
        if list(arguments) == [profile.name, profile.backend]:
            print(source(profile), end="")
            return
    known = ", ".join(f"{p.name} {p.backend}" for p in profiles())
    raise SystemExit(f"usage: python -m workbench.guests.profiles NAME BACKEND; there are: {known}")


if __name__ == "__main__":
    main(sys.argv[1:])
