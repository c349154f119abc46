"""What must not grow with what is at rest: Ottla alone, under the same load, beside ever more that does nothing.

Nodes of a series stand side by side, each with more at rest than the one before, and are put under load in turn, so that what changes
on the machine meanwhile touches all of them alike.
"""

import os
import resource
import shutil
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from brokers import Broker, Ottla
from generator import Idle, Load
from measures import BATCH_BYTES, GIB, GONE_SOON, RECORD_BYTES, Bench, Plan
from report import short

WRITERS = ["--size", RECORD_BYTES, "--batch", BATCH_BYTES, "--connections", 4]
# Of the disk this much stays free.
SPARE_GIB = 4
# Descriptors that a broker with its connections, and the generator with its own, may need.
DESCRIPTORS = 65_536


@dataclass(frozen=True)
class FlatPlan:
    """How much is at rest, and how often it is measured."""

    partitions: tuple[int, ...] = (10, 100, 1_000, 10_000)
    log_gib: tuple[float, ...] = (0.1, 1, 5, 20)
    connections: tuple[int, ...] = (10, 100, 1_000, 5_000)
    rounds: int = 3
    records: int = 500_000
    # Fewer, for logs take room enough.
    log_records: int = 250_000
    idle_s: int = 10


QUICK = FlatPlan(partitions=(10, 1_000), log_gib=(0.1, 1), connections=(10, 500), rounds=1, records=300_000, log_records=100_000, idle_s=5)


def at_most(plan: FlatPlan, log_gib: float) -> FlatPlan:
    return replace(plan, log_gib=tuple(gib for gib in plan.log_gib if gib <= log_gib))


@dataclass
class Member:
    """A node of a series: what is at rest there, and which topic is written to."""

    at_rest: str
    broker: Broker
    topic: str
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, figure: str, value: float) -> None:
        self.samples[figure].append(round(value, 4))
        print(f"  {self.at_rest}: {figure} {value:.3f}", file=sys.stderr, flush=True)


class Flat:
    def __init__(self, plan: FlatPlan, load: Load, scratch: Path):
        self.plan, self.load, self.scratch = plan, load, scratch
        self.bench = Bench(Plan(), load, scratch)
        self.series: list[list[Member]] = []
        self.notes: list[str] = []

    def run(self) -> None:
        raise_descriptor_limit()
        print("what is at rest", file=sys.stderr)
        self.partitions()
        self.log()
        self.connections()

    def partitions(self) -> None:
        """Twice: the others do nothing, and all are written to."""
        with ExitStack() as nodes:
            resting, written = [], []
            for count in self.plan.partitions:
                broker = self.start(nodes)
                # Each has a record, and so a file.
                some = ["--partitions", count, "--connections", 4, "--size", 100, "--batch", 100, "--records", 2 * count]
                self.bench.produce(broker, "many", *some)
                self.bench.produce(broker, "work", *WRITERS, "--partitions", 4, "--records", 1_000, *GONE_SOON)
                resting.append(Member(f"{count:,} partitions, 4 others written to", broker, "work"))
                written.append(Member(f"{count:,} partitions, all written to", broker, "many"))
            self.measure(resting, self.plan.records)
            self.idle(resting)
            self.bench.settle([member.broker for member in resting], "work")
            self.measure(written, self.plan.records)

    def log(self) -> None:
        """Also what a start after kill -9 takes."""
        with ExitStack() as nodes:
            members = []
            for gib in self.plan.log_gib:
                free_gib = shutil.disk_usage(self.scratch).free / GIB
                # The rounds write too.
                needed_gib = gib + len(self.plan.log_gib) * (self.plan.rounds + 1) * self.plan.log_records * RECORD_BYTES / GIB
                if free_gib < needed_gib + SPARE_GIB:
                    self.note(f"{gib:g} GiB of log left out: {free_gib:.0f} GiB are free, {needed_gib + SPARE_GIB:.0f} would be needed")
                    continue
                broker = self.start(nodes)
                fill = ["--partitions", 4, "--connections", 4, "--size", RECORD_BYTES, "--batch", 64 * 1024]
                self.bench.produce(broker, "work", *fill, "--records", int(gib * GIB / RECORD_BYTES))
                members.append(Member(f"{gib:g} GiB of log", broker, "work"))
            os.sync()
            self.measure(members, self.plan.log_records)
            self.idle(members)
            for member in members:
                os.sync()
                member.broker.kill()
                started = self.bench.serve(member.broker, member.topic, existing=True)
                member.add("restart_ms", max(started["acknowledged"], started["fetched"]))

    def connections(self) -> None:
        held: list[Idle] = []
        try:
            with ExitStack() as nodes:
                members = []
                for count in self.plan.connections:
                    broker = self.start(nodes)
                    idle = self.load.begin_idle(broker.address, count)
                    held.append(idle)
                    if idle.open < count:
                        self.note(f"{idle.open:,} instead of {count:,} idle connections: {idle.limited_by}")
                    self.bench.produce(broker, "work", *WRITERS, "--partitions", 4, "--records", 1_000)
                    members.append(Member(f"{idle.open:,} idle connections", broker, "work"))
                self.measure(members, self.plan.records)
                self.idle(members)
        finally:
            for idle in held:
                idle.end()

    def start(self, nodes: ExitStack) -> Broker:
        broker = nodes.enter_context(self.bench.node(Ottla, on_disk=False))
        self.bench.serve(broker, "ready")
        return broker

    def measure(self, members: list[Member], records: int) -> None:
        self.series.append(members)
        # A first round makes files and finds memory; it does not count.
        for number in range(self.plan.rounds + 1):
            for member in members:
                before = member.broker.cpu_seconds()
                figures = self.bench.produce(member.broker, member.topic, *WRITERS, "--existing", "--records", records)
                if number > 0:
                    taken = member.broker.cpu_seconds() - before
                    member.add("cpu_s", taken / (figures["records"] / 1e6))
                    member.add("mib_per_s", figures["mib_per_second"])

    def idle(self, members: list[Member]) -> None:
        """What nodes take that nobody asks for anything, and their memory then."""
        time.sleep(self.plan.idle_s)
        before, began = [member.broker.cpu_seconds() for member in members], time.monotonic()
        time.sleep(self.plan.idle_s)
        for member, seconds in zip(members, before, strict=True):
            share = (member.broker.cpu_seconds() - seconds) / (time.monotonic() - began)
            member.add("idle_percent", 100 * share)
            member.add("rss_mib", member.broker.rss_anon_mib())

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(f"  {text}", file=sys.stderr, flush=True)

    def samples(self) -> dict[str, dict[str, list[float]]]:
        return {member.at_rest: dict(member.samples) for members in self.series for member in members}

    def table(self) -> list[list[str]]:
        """A line for each member; its CPU also as a share of its series' first one."""
        table = [["at rest", "CPU per million", "to the first", "throughput", "memory (RssAnon)", "CPU when idle", "start after kill -9"]]
        for members in self.series:
            first = median(members[0].samples["cpu_s"]) if members else 0
            for member in members:
                cpu = median(member.samples["cpu_s"])
                cells = [f"{short(cpu)} s", f"{cpu / first:.2f}"]
                others = (("mib_per_s", "MiB/s"), ("rss_mib", "MiB"), ("idle_percent", "% of a core"), ("restart_ms", "ms"))
                for figure, unit in others:
                    values = member.samples.get(figure)
                    cells.append(f"{short(median(values))} {unit}" if values else "")
                table.append([member.at_rest, *cells])
        return table


def raise_descriptor_limit() -> None:
    """For children too: as far as this user may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, DESCRIPTORS), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return
        except (ValueError, OSError):
            continue
