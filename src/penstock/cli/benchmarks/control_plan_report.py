"""What the comparison of `penstock plan` with everything that could be is told as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.cli.benchmarks.control_plan import Choosing


def tables(report: Choosing) -> dict[str, list[dict[str, Any]]]:
    """Tables for people, by their titles."""
    return {
        "What always doing the same would give": [
            {
                "rule": each.name,
                "holds what is wanted": f"{each.holds:.1%}",
                "dearer, median": f"{each.dearer_p50:+.0%}",
                "dearer, mean": f"{each.dearer_mean:+.0%}",
            }
            for each in report.rivals
        ],
        "Where functions cost as much, in millions of requests a day": [
            {
                "GiB × s": each.gb_s,
                "against": each.cluster,
                "formula": each.formula_m_a_day,
                "simulated": each.simulated_m_a_day,
                "off": f"{each.off:+.2%}",
            }
            for each in report.break_evens
        ],
    }


def words(report: Choosing) -> Sequence[str]:
    """Sentences for people."""
    chosen = ", ".join(f"{option} {count:,}" for option, count in report.chosen.items())
    whole = report.rehearsed
    return (
        f"Of {report.workloads:,} workloads {report.possible:,} can be had; the choice breaks a hard limit in "
        f"{report.violations:,} of them, and nothing is found in {report.none_found:,}.",
        *(f"Broken: {each}" for each in report.violated),
        f"It costs {report.regret_p50:.1%} more than the best of an exhaustive simulation in the median, "
        f"{report.regret_p95:.1%} in 95 of 100, and {report.regret_max:.0%} at most.",
        f"Chosen: {chosen}; {report.unscaled:,} times machines that are not scaled, though the traffic changes.",
        f"On whole clusters {whole.holds} of {whole.workloads} choices hold; p99 is {whole.p99_off_p50:.1%} off the "
        f"quick simulation in the median and {whole.p99_off_max:.0%} at most, the bill {whole.usd_off_p50:.1%} and "
        f"{whole.usd_off_max:.0%}.",
    )
