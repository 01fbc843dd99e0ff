"""What there is, as text for the terminal: back-ends, guests, features, presets, experiments, sources."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .. import features, personality
from ..paths import data_dir

if TYPE_CHECKING:
    from ..guests.catalogue import Guest

_WIDTH = 96


def _wrapped(text: str, indent: int) -> str:
    pad = " " * indent
    return textwrap.fill(text, _WIDTH, initial_indent=pad, subsequent_indent=pad)


def backends() -> str:
    """The back-ends with their default prices."""
    from ..prices import DEFAULT_PRESET, load_preset

    lines = ["BACK-ENDS"]
    for name, title in features.BACKEND_TITLES.items():
        preset = load_preset(DEFAULT_PRESET[name])
        lines.append(f"  {name:<6} {title}; default prices {preset.name} ({preset.title})")
    return "\n".join(lines)


def guests() -> str:
    """Guest programs with their parameters."""
    from ..guests import catalogue

    lines = ["GUESTS"]
    for guest in (*catalogue.l1_guests(), catalogue.NO_HYPERVISOR, *catalogue.l2_guests()):
        lines.append(_guest(guest))
    return "\n".join(lines)


def _guest(guest: Guest) -> str:
    where = "" if len(guest.backends) > 1 else f" ({guest.backends[0]})"
    lines = [f"  L{guest.level} {guest.name}{where}: {guest.title}"]
    for p in guest.params:
        lines.append(f"       {p.name} = {p.default} {p.unit} [{p.minimum}..{p.maximum}]")
        lines.append(_wrapped(p.text, 10))
    return "\n".join(lines)


def toggles() -> str:
    """Features with values (the default first) and meaning."""
    lines = ["FEATURES"]
    for group, members in features.groups().items():
        lines.append(f"  {group}")
        for feature in members:
            others = [v for v in feature.values if v != feature.default]
            values = " | ".join([feature.default, *others])
            lines.append(f"    {feature.id} = {values}   [{', '.join(feature.backends)}]")
            lines.append(_wrapped(feature.meaning, 8))
    return "\n".join(lines)


def deviations() -> str:
    """What each personality of L0 does differently from the manuals."""
    lines = ["DEVIATIONS OF L0 (l0 = xen | kvm | manual; deviations.NAME = true | false)"]
    for deviation in personality.catalogue().values():
        lines.append(f"  {deviation.id}   [{deviation.l0}; {', '.join(deviation.backends)}]")
        lines.append(_wrapped(f"{deviation.does}. Manual: {deviation.manual}.", 6))
    return "\n".join(lines)


def presets() -> str:
    """Price presets."""
    from ..prices import list_presets, load_preset

    lines = ["PRICE PRESETS"]
    for name in list_presets():
        preset = load_preset(name)
        lines.append(f"  {name:<10} {preset.backend or 'both':<5} {preset.title}")
    return "\n".join(lines)


def scenarios() -> str:
    """Scenarios that come with the workbench, with the comment at their head."""
    lines = ["SCENARIOS"]
    for path in sorted((data_dir() / "scenarios").glob("*.toml")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        lines.append(f"  {path.stem:<14} {first.lstrip('# ')}")
    return "\n".join(lines)


def experiments() -> str:
    """Experiments: the question they answer, their claim and whose it is."""
    from .. import questions

    lines = ["EXPERIMENTS"]
    for row in questions.experiments().to_dict("records"):
        lines.append(f"  {row['name']}   [{row['answers']}] {row['question']}")
        lines.append(_wrapped(f"Claim ({row['claim_of']}): {row['claim']}", 6))
    return "\n".join(lines)


TOPICS: dict[str, Callable[[], str]] = {
    "backends": backends,
    "guests": guests,
    "features": toggles,
    "deviations": deviations,
    "presets": presets,
    "scenarios": scenarios,
    "experiments": experiments,
}


# ---------------------------------------------------------------- sources


def all_sources() -> list[str]:
    """Every bibliography key."""
    from ..tables import bibliography

    return list(bibliography())


def sources_text(keys: Iterable[str], bibtex: bool) -> str:
    """References, one per line, or their BibTeX entries."""
    from ..tables import bibliography, reference

    if not bibtex:
        return "\n".join(map(reference, keys))
    known = bibliography()
    return "\n".join(
        known[key]["bibtex"] if key in known else f"% {reference(key)}" for key in keys
    )
