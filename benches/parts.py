#!/usr/bin/env python3
"""The benchmarks of the parts as a table, from what `cargo bench -p ottla-benches` left in target/criterion: medians."""

import argparse
import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
MARKS = ("<!-- table: parts -->", "<!-- end of table: parts -->")
UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baseline", default="new", help="as it was saved with --save-baseline [default: the last run]")
    parser.add_argument("--beside", help="another baseline, which the first is compared to")
    parser.add_argument("--docs", action="store_true", help="puts the table in its place in docs/benchmarks.md")
    return parser.parse_args()


def criterion() -> Path:
    metadata = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    found = subprocess.run(metadata, cwd=ROOT, check=True, capture_output=True, text=True)
    return Path(json.loads(found.stdout)["target_directory"]) / "criterion"


def medians(baseline: str) -> dict[str, tuple[float, str]]:
    """Nanoseconds by benchmark, and how much went through."""
    found = {}
    for estimates in sorted(criterion().rglob(f"{baseline}/estimates.json")):
        about = json.loads((estimates.parent / "benchmark.json").read_text())
        nanoseconds = json.loads(estimates.read_text())["median"]["point_estimate"]
        found[about["full_id"].replace("/", ": ", 1)] = (nanoseconds, through(about["throughput"], nanoseconds))
    return found


def through(throughput: dict[str, int] | None, nanoseconds: float) -> str:
    if not throughput:
        return ""
    [(kind, amount)] = throughput.items()
    if kind == "Bytes":
        return f"{amount / nanoseconds * 1e9 / 2**20:,.0f} MiB/s"
    return f"{nanoseconds / amount:,.0f} ns each"


def time(nanoseconds: float) -> str:
    size, unit = next((size, unit) for size, unit in UNITS if nanoseconds >= size or size == 1)
    return f"{nanoseconds / size:.3g} {unit}"


def main() -> None:
    options = arguments()
    first = medians(options.baseline)
    if options.beside is None:
        rows = [["part", "median", "through"], *([name, time(took), much] for name, (took, much) in first.items())]
    else:
        second = medians(options.beside)
        both = [name for name in first if name in second]
        rows = [["part", options.baseline, options.beside, "ratio"]]
        rows += [[name, time(first[name][0]), time(second[name][0]), f"{first[name][0] / second[name][0]:.2f}"] for name in both]
    rows.insert(1, ["---", *("--:" for _ in rows[0][1:])])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    print(table)
    if options.docs:
        before, rest = PAGE.read_text().split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        PAGE.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
