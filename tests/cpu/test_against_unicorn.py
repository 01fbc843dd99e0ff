"""Results and flags of every instruction form agree with unicorn on random operands."""

from __future__ import annotations

import random

import pytest

from . import forms
from .emulator import Pair

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
