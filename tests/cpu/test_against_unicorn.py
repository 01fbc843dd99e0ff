"""Results and flags of every instruction form agree with unicorn on random operands."""

from __future__ import annotations

import random

import pytest

from . import forms
from .bare import AF
from .emulator import Pair, Template

ROUNDS = 6
FAMILIES = (
    forms.arithmetic, forms.shifts, forms.multiply_divide, forms.bits, forms.moves,
    forms.stack_and_branches, forms.strings,
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_instructions_agree_with_unicorn(family):
    pair = Pair()
    rng = random.Random(family.__name__)
    for template in family():
        at = pair.place(template.code)
        for _ in range(ROUNDS):
            pair.compare(rng, template, at)


def test_streams_of_instructions_agree_with_unicorn():
    """Lazy flags carry over from one instruction to the next, through every kind of reader."""
    pair = Pair()
    rng = random.Random(77)
    kept = [
        t
        for family in (forms.arithmetic, forms.moves)
        for t in family()
        if t.name.split()[-1] in ("reg", "mem", "sib", "imm", "imm8", "same", "0", "2")
        and not t.preset
    ]
    for _ in range(400):
        code = b"".join(rng.choice(kept).code for _ in range(30))
        stream = Template("stream", code, AF, (), 30)
        at = pair.place(code)
        pair.next_code += len(code)
        pair.compare(rng, stream, at)
