#!/usr/bin/env python3
"""Measures Ottla beside Apache Kafka in one run on one machine, and prints both with their ratio and the goal.

Needs Linux, cargo, a JDK of version 17 or later, Maven, 15 GiB of free disk; nothing of Python but its standard library. Kafka comes
from its public Maven artifacts (pom.xml), Ottla and the load generator from this repository. With --quick everything is shorter: to
see that it works, not to quote.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import machine
import report
from brokers import KAFKA_VERSION, Kafka, Ottla
from generator import Load
from measures import QUICK, Bench, Plan
from three_nodes import BOTH, ThreeNodes, ThreeNodesPlan
from three_nodes import QUICK as QUICK_THREE

ROOT = Path(__file__).resolve().parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about three minutes instead of a quarter of an hour")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="one node each, or three")
    parser.add_argument("--only-ottla", action="store_true", help="with --nodes 3: without Kafka, to see what a change did")
    parser.add_argument("--part", choices=("all", "gaps", "rest"), default="all", help="with --nodes 3: only failures, or all but those")
    parser.add_argument("--mode", choices=("memory", "disk", "both"), default="both", help="when records are acknowledged")
    parser.add_argument("--dir", type=Path, help="where the brokers keep their data [default: the directory for temporary files]")
    parser.add_argument("--json", type=Path, help="where the figures go [default: target/side-by-side/result.json]")
    parser.add_argument("--markdown", type=Path, help="where the table goes as Markdown")
    parser.add_argument("--ottla", type=Path, help="a binary to measure [default: build it]")
    return parser.parse_args()


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


def plan_of(options: argparse.Namespace) -> Plan | ThreeNodesPlan:
    if options.nodes == 3:
        return QUICK_THREE if options.quick else ThreeNodesPlan()
    return QUICK if options.quick else Plan()


def main() -> None:
    options = arguments()
    # A run that is stopped removes what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    release = build()
    cache = target() / "side-by-side"
    cache.mkdir(parents=True, exist_ok=True)
    if not options.only_ottla:
        Kafka.fetch(cache)
    Ottla.binary = (options.ottla or release / "ottla").resolve()
    plan = plan_of(options)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="side-by-side-", dir=options.dir) as scratch:
        about = {"machine": machine.description(Path(scratch)), "versions": versions(Ottla.binary), "plan": asdict(plan)}
        load = Load(release / "load")
        bench: Bench | ThreeNodes
        if isinstance(plan, ThreeNodesPlan):
            kinds = BOTH[1:] if options.only_ottla else BOTH
            bench, figures = ThreeNodes(plan, load, Path(scratch), kinds, options.part), report.figures_of_three(plan)
        else:
            bench, figures = Bench(plan, load, Path(scratch)), report.figures(plan)
        for on_disk in {"memory": (False,), "disk": (True,), "both": (False, True)}[options.mode]:
            bench.run(on_disk)
    table = report.rows(figures, bench.results)
    about["minutes"] = round((time.monotonic() - began) / 60, 1)
    output = options.json or cache / ("result.json" if options.nodes == 1 else "result-3.json")
    output.write_text(json.dumps({**about, "samples": bench.results.samples, "controls": bench.results.controls}, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(report.markdown_table(table) + "\n")
    print(json.dumps(about["machine"]), json.dumps(about["versions"]), sep="\n")
    print(report.text_table(table))
    print(f"{about['minutes']} minutes{', quick: not to be quoted' if options.quick else ''}; figures in {output}")


if __name__ == "__main__":
    main()
