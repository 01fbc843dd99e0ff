"""L2 CPUID round trips per second: L2 -> L0 -> L1 -> L0 -> L2, with every trap of L1 in between."""

from __future__ import annotations

from common import RUNS, row

import workbench as wb

CPUIDS = 500_000
ASSISTS = {
    "svm": {"virtual_gif": True, "virtual_vmload_vmsave": True},
    "vmx": {"vmcs_shadowing": True},
}


def round_trips(backend: str, features: dict[str, bool]) -> tuple[float, float]:
    """Round trips per second of one run, and hardware exits per round trip."""
    result = wb.run(
        wb.Scenario(
            backend=backend,
            l2="cpuid",
            l2_params={"iterations": CPUIDS, "work": 0},
            features=features,
        )
    )
    exits = int(result.summary()["exits"].iloc[0])
    return CPUIDS / result.run_seconds, exits / CPUIDS


def main() -> None:
    """Print a row per back-end, plain and with its hardware assists."""
    for backend, assists in ASSISTS.items():
        for name, features in {"plain": {}, "with assists": assists}.items():
            wb.run(wb.Scenario(backend=backend, features=features))
            runs = [round_trips(backend, features) for _ in range(RUNS)]
            speed, exits = max(runs)
            row(
                f"L2 CPUID round trips ({backend}, {name})",
                f"{speed / 1e6:.2f} million/s",
                "goal 0.50, then 1.50" if name == "plain" else "",
                f"{exits:.0f} exits each, {exits * speed / 1e6:.1f} million exits/s",
            )


if __name__ == "__main__":
    main()
