"""Measures, and writes the report: `python -m benchmarks [NAME ...] [--small] [-o docs/performance.md]`.

`--small` takes seconds: everything is run once with little data, for the checks alone.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks import copying, giant, headers, measure, scoring, sharing, startup
from benchmarks.measure import machine

ALL = {
    "startup": startup, "copying": copying, "sharing": sharing, "headers": headers, "giant": giant, "scoring": scoring,
}  # fmt: skip
PEERS = ("llama-quantize", "mergekit-yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*ALL, []], help="what to measure; all unless said")
    parser.add_argument("--small", action="store_true", help="little data, once: for the checks alone")
    parser.add_argument("--rounds", type=int, help="how many runs the medians are of, instead of 5 to 21")
    parser.add_argument("--folder", type=Path, help="where to make the data (some 10 GB)")
    parser.add_argument("-o", "--output", type=Path, help="write the report there")
    asked = parser.parse_args()
    measure.ROUNDS = asked.rounds
    parts = [report_head(Path(asked.folder or tempfile.gettempdir()))]
    for name in asked.names or ALL:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            for section in ALL[name].sections(Path(folder), asked.small):
                parts.append(str(section))
                print(section, flush=True)
    if asked.output:
        asked.output.write_text("\n".join(parts))


def report_head(folder: Path) -> str:
    missing = [name for name in PEERS if shutil.which(name) is None]
    lines = [
        "# How fast it is",
        "",
        "Made by `python -m benchmarks -o docs/performance.md`, which makes its own data, runs ours and the peers in",
        "turns, checks every output, and writes this page. Times depend on the machine and on who else uses it: look",
        "at the ratios.",
        "",
        *machine(folder),
    ]
    lines += [f"- not installed, so not measured: {', '.join(missing)}"] if missing else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
