"""Renders what tests/interop/check_differential_*.py have counted, each in an environment of its formats' libraries."""

from __future__ import annotations

from results import read

PARTS = {
    "differential-lerobot-v3": "LeRobot v3.0, and after lerobot's own merge, split, delete, edit tools",
    "differential-lerobot-v2": "LeRobot v2.1",
    "differential-arrays": "Minari, robomimic, zarr",
    "differential-rlds": "RLDS",
}


def render() -> str:
    """A row for each family of formats."""
    lines = ["| format | read by its own library | data sets | frames | values compared | differences |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    sets = differences = 0
    for name, what in PARTS.items():
        found = read(name)
        sets, differences = sets + found["cases"], differences + found["differences"]
        libraries = ", ".join(f"{library} {version}" for library, version in found["libraries"].items())
        counts = " | ".join(f"{found[key]:,}" for key in ("cases", "frames", "values", "differences"))
        lines.append(f"| {what} | {libraries} | {counts} |")
    return "\n".join(lines) + f"\n\n{sets} data sets in all, {differences} differences.\n"
