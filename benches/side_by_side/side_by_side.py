#!/usr/bin/env python3
"""Measures Ottla beside Apache Kafka in one run on one machine, and prints both with their ratio and the goal.

Needs Linux, cargo, a JDK of version 17 or later, Maven, 15 GiB of free disk (35 with --tables all or flat); nothing of Python but its
standard library. Kafka comes from its public Maven artifacts (pom.xml), Ottla and the load generator from this repository. With --quick
everything is shorter: to see that it works, not to quote.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import flat
import machine
import measures
import report
import three_nodes
from brokers import KAFKA_VERSION, Kafka, Ottla
from flat import Flat, FlatPlan
from generator import Load
from measures import Bench, Plan
from three_nodes import ThreeNodes, ThreeNodesPlan

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
TABLES = ("one", "three", "flat")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few minutes instead of a quarter of an hour")
    parser.add_argument("--tables", choices=("all", *TABLES), default="one", help="one node each; three nodes; what must not grow; or all")
    parser.add_argument("--nodes", type=int, choices=(1, 3), help="the same as --tables one or three")
    parser.add_argument("--only-ottla", action="store_true", help="without Kafka, to see what a change did")
    parser.add_argument(
        "--part", default="all", choices=("all", *measures.PARTS, "gaps", "rest", "flat"),
        help="some of the figures: of one node start, load, latency, partitions, memory or recovery; of three gaps (only failures) or "
        "rest (all but those); flat is the same as --tables flat",
    )  # fmt: skip
    parser.add_argument("--mode", choices=("memory", "disk", "both"), default="both", help="when records are acknowledged")
    parser.add_argument("--log-gib", type=float, default=20, help="the largest log of the table of what must not grow")
    parser.add_argument("--dir", type=Path, help="where the brokers keep their data [default: the directory for temporary files]")
    parser.add_argument("--json", type=Path, help="where the figures go [default: a file for each table in target/side-by-side]")
    parser.add_argument("--markdown", type=Path, help="where the tables go as Markdown")
    parser.add_argument("--docs", action="store_true", help="puts them in their places in docs/benchmarks.md")
    parser.add_argument("--ottla", type=Path, help="a binary to measure [default: build it]")
    options = parser.parse_args()
    if options.nodes is not None:
        options.tables = {1: "one", 3: "three"}[options.nodes]
    if options.part == "flat":
        options.tables, options.part = "flat", "all"
    parts = {"one": measures.PARTS, "three": ("gaps", "rest")}.get(options.tables, ())
    if options.part != "all" and options.part not in parts:
        parser.error(f"--part {options.part}: there is no such part of --tables {options.tables}")
    if options.json is not None and options.tables == "all":
        parser.error("--json names one file: give it with one table")
    return options


def build() -> Path:
    subprocess.run(["cargo", "build", "--release", "-p", "ottla", "-p", "ottla-benches"], cwd=ROOT, check=True)
    return target() / "release"


def target() -> Path:
    metadata = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    found = subprocess.run(metadata, cwd=ROOT, check=True, capture_output=True, text=True)
    return Path(json.loads(found.stdout)["target_directory"])


def versions(ottla: Path) -> dict[str, str]:
    says = subprocess.run([str(ottla), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr.splitlines()[0]
    return {"ottla": says, "commit": commit, "kafka": KAFKA_VERSION, "java": java}


@dataclass
class Outcome:
    """What became of one table's measuring."""

    plan: Plan | ThreeNodesPlan | FlatPlan
    samples: dict
    table: list[list[str]]
    notes: list[str]
    controls: dict


def one(options: argparse.Namespace, load: Load, scratch: Path) -> Outcome:
    plan = measures.QUICK if options.quick else Plan()
    bench = Bench(plan, load, scratch, measures.BOTH[1:] if options.only_ottla else measures.BOTH, options.part)
    for on_disk in modes(options):
        bench.run(on_disk)
    results = bench.results
    return Outcome(plan, results.samples, report.rows(report.figures(plan), results), [], results.controls)


def three(options: argparse.Namespace, load: Load, scratch: Path) -> Outcome:
    plan = three_nodes.QUICK if options.quick else ThreeNodesPlan()
    bench = ThreeNodes(plan, load, scratch, three_nodes.BOTH[1:] if options.only_ottla else three_nodes.BOTH, options.part)
    for on_disk in modes(options):
        bench.run(on_disk)
    results = bench.results
    return Outcome(plan, results.samples, report.rows(report.figures_of_three(plan), results), [], results.controls)


def at_rest(options: argparse.Namespace, load: Load, scratch: Path) -> Outcome:
    plan = flat.at_most(flat.QUICK if options.quick else FlatPlan(), options.log_gib)
    bench = Flat(plan, load, scratch)
    bench.run()
    return Outcome(plan, bench.samples(), bench.table(), bench.notes, {})


MEASURE: dict[str, Callable[[argparse.Namespace, Load, Path], Outcome]] = {"one": one, "three": three, "flat": at_rest}


def modes(options: argparse.Namespace) -> tuple[bool, ...]:
    """Whether records are acknowledged on disk."""
    return {"memory": (False,), "disk": (True,), "both": (False, True)}[options.mode]


def measured(name: str, options: argparse.Namespace, load: Load, cache: Path) -> str:
    """Measures one table, prints it, keeps its samples; the table as Markdown."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="side-by-side-", dir=options.dir) as scratch:
        about = {"machine": machine.description(Path(scratch)), "versions": versions(Ottla.binary)}
        outcome = MEASURE[name](options, load, Path(scratch))
    minutes = round((time.monotonic() - began) / 60, 1)
    output = options.json or cache / f"{name}.json"
    kept = {"samples": outcome.samples, "controls": outcome.controls, "notes": outcome.notes}
    output.write_text(json.dumps({**about, "plan": asdict(outcome.plan), "minutes": minutes, **kept}, indent=1) + "\n")
    print(json.dumps(about["machine"]), json.dumps(about["versions"]), report.text_table(outcome.table), *outcome.notes, sep="\n")
    print(f"{minutes} minutes{', quick: not to be quoted' if options.quick else ''}; figures in {output}", flush=True)
    about_it = report.caption(about, minutes, options.quick)
    return "\n\n".join([about_it, report.markdown_table(outcome.table), *outcome.notes])


def main() -> None:
    options = arguments()
    # A run that is stopped removes what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    release = build()
    cache = target() / "side-by-side"
    cache.mkdir(parents=True, exist_ok=True)
    if options.tables != "flat" and not options.only_ottla:
        Kafka.fetch(cache)
    Ottla.binary = (options.ottla or release / "ottla").resolve()
    load = Load(release / "load")
    names = TABLES if options.tables == "all" else (options.tables,)
    tables = {name: measured(name, options, load, cache) for name in names}
    if options.markdown:
        options.markdown.write_text("\n\n".join(tables.values()) + "\n")
    if options.docs:
        page = PAGE.read_text()
        for name, text in tables.items():
            page = report.put_into(page, name, text)
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
