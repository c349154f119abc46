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

ROOT = Path(__file__).resolve().parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about three minutes instead of a quarter of an hour")
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


def main() -> None:
    options = arguments()
    # A run that is stopped removes what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    release = build()
    cache = target() / "side-by-side"
    cache.mkdir(parents=True, exist_ok=True)
    Kafka.fetch(cache)
    Ottla.binary = options.ottla or release / "ottla"
    plan = QUICK if options.quick else Plan()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="side-by-side-", dir=options.dir) as scratch:
        about = {"machine": machine.description(Path(scratch)), "versions": versions(Ottla.binary), "plan": asdict(plan)}
        bench = Bench(plan, Load(release / "load"), Path(scratch))
        for on_disk in {"memory": (False,), "disk": (True,), "both": (False, True)}[options.mode]:
            bench.run(on_disk)
    table = report.rows(plan, bench.results)
    about["minutes"] = round((time.monotonic() - began) / 60, 1)
    output = options.json or cache / "result.json"
    output.write_text(json.dumps({**about, "samples": bench.results.samples, "controls": bench.results.controls}, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(report.markdown_table(table) + "\n")
    print(json.dumps(about["machine"]), json.dumps(about["versions"]), sep="\n")
    print(report.text_table(table))
    print(f"{about['minutes']} minutes{', quick: not to be quoted' if options.quick else ''}; figures in {output}")


if __name__ == "__main__":
    main()
