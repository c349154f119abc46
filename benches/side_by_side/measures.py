"""What is measured of one node, each figure on both brokers in turn."""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from brokers import Broker, Kafka, Ottla
from generator import DRAIN_S, Load

BOTH: tuple[type[Broker], ...] = (Kafka, Ottla)
GIB = 2**30
RECORD_BYTES = 1024
BATCH_BYTES = 16 * 1024
OPEN_LOOP_RATE = 100_000
OPEN_LOOP_BATCH_BYTES = 4 * 1024
# Large batches fill a log quickly where each is synced.
FILL_BATCH_BYTES = {False: 64 * 1024, True: 512 * 1024}
# Topics that are removed leave the disk this soon.
GONE_SOON = ["--topic-config", "file.delete.delay.ms=200"]
GONE_S = 0.7
PARTS = ("start", "load", "latency", "partitions", "memory", "recovery")


@dataclass(frozen=True)
class Shape:
    """Records as they are sent at full load."""

    key: str
    record_bytes: int
    batch_bytes: int
    records: int


@dataclass(frozen=True)
class Plan:
    """How much is measured. Records of one round at full load differ by mode, for syncing them takes Kafka ten times as long."""

    start_runs: int = 5
    idle_s: int = 12
    warmup_s: int = 40
    native_warmup_s: int = 3
    cpu_rounds: int = 3
    shapes: tuple[Shape, ...] = (
        Shape("", RECORD_BYTES, BATCH_BYTES, 1_000_000),
        Shape("_100_b", 100, BATCH_BYTES, 5_000_000),
        Shape("_64_kib", RECORD_BYTES, 64 * 1024, 2_000_000),
    )
    shapes_on_disk: tuple[Shape, ...] = (Shape("", RECORD_BYTES, BATCH_BYTES, 300_000),)
    fetch_rounds: int = 3
    fetch_gib: float = 1
    fetch_s: int = 4
    fetch_warmup_s: int = 10
    latency_rounds: int = 3
    latency_s: int = 5
    follow_warmup_s: int = 10
    open_loop_rounds: int = 3
    open_loop_s: int = 5
    control_s: int = 2
    topic_rounds: int = 3
    topics: int = 1_000
    idle_cpu_s: int = 20
    memory_records: int = 1_000_000
    recovery_gib: tuple[float, ...] = (1, 4)
    recovery_runs: int = 1


QUICK = Plan(
    start_runs=1, idle_s=5, warmup_s=8, native_warmup_s=1, cpu_rounds=1,
    shapes=(
        Shape("", RECORD_BYTES, BATCH_BYTES, 500_000),
        Shape("_100_b", 100, BATCH_BYTES, 2_000_000),
        Shape("_64_kib", RECORD_BYTES, 64 * 1024, 500_000),
    ),
    shapes_on_disk=(Shape("", RECORD_BYTES, BATCH_BYTES, 50_000),),
    fetch_rounds=1, fetch_gib=0.25, fetch_s=2, fetch_warmup_s=2, latency_rounds=1, latency_s=3, follow_warmup_s=2, open_loop_rounds=1,
    open_loop_s=3, control_s=1, topic_rounds=1, idle_cpu_s=6, memory_records=200_000, recovery_gib=(0.25,),
)  # fmt: skip


class Results:
    """Samples by figure, mode and broker; controls by mode."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        self.controls: dict[str, list[dict]] = defaultdict(list)
        self.began = time.monotonic()

    def add(self, figure: str, broker: Broker, value: float) -> None:
        self.samples[figure][mode(broker.on_disk)][broker.name].append(round(value, 4))
        print(f"{time.monotonic() - self.began:5.0f} s  {broker.name:<6} {figure}: {value:.3f}", file=sys.stderr, flush=True)

    def add_latency(self, key: str, broker: Broker, figures: dict) -> None:
        """p50 and p99. Where requests failed because nothing answered them, the percentile that they stand for is as long as they waited."""
        failed = sum(figures["errors"].values())
        share = failed / (failed + figures["requests"])
        for percentile, rest in (("p50", 0.5), ("p99", 0.01)):
            milliseconds = figures["latency"][f"{percentile}_us"] / 1e3
            self.add(f"{percentile}{key}_ms", broker, DRAIN_S * 1e3 if share > rest else milliseconds)


def mode(on_disk: bool) -> str:
    return "disk" if on_disk else "memory"


class Bench:
    def __init__(self, plan: Plan, load: Load, scratch: Path, kinds: tuple[type[Broker], ...] = BOTH, part: str = "all"):
        self.plan, self.load, self.scratch, self.kinds, self.part = plan, load, scratch, kinds, part
        self.results = Results()
        self.made = 0

    @contextmanager
    def node(self, kind: type[Broker], on_disk: bool) -> Iterator[Broker]:
        """A node that does not run yet, in a fresh directory."""
        self.made += 1
        broker = kind(self.scratch / f"{kind.name.lower()}-{self.made}", on_disk)
        try:
            broker.prepare()
            yield broker
        finally:
            broker.remove()

    @contextmanager
    def running(self, on_disk: bool) -> Iterator[list[Broker]]:
        """One of each kind, both at once."""
        with self.node(self.kinds[0], on_disk) as first:
            self.serve(first, "ready")
            if len(self.kinds) == 1:
                yield [first]
                return
            with self.node(self.kinds[1], on_disk) as second:
                self.serve(second, "ready")
                yield [first, second]

    def serve(self, broker: Broker, topic: str, existing: bool = False) -> dict[str, float]:
        """Starts the process; milliseconds from just before that to each of its first successes."""
        first = self.load.begin_first(broker.address, topic, existing)
        return first.milliseconds_since(broker.spawn())

    def produce(self, broker: Broker, topic: str, *arguments: object) -> dict:
        return self.on_topic("produce", broker, topic, *arguments)

    def on_topic(self, does: str, broker: Broker, topic: str, *arguments: object) -> dict:
        figures = self.load.run(does, "--bootstrap-server", broker.address, "--topic", topic, *map(str, arguments))
        broker.check_alive()
        return figures

    def settle(self, brokers: list[Broker], topic: str, count: int | None = None) -> None:
        """Removes the topics of what was measured, and lets the disk come to rest: what one leaves behind is not another's burden.
        With `count` they are so many, whose names are `topic` and a number."""
        for broker in brokers:
            self.on_topic("remove", broker, topic, *([] if count is None else ["--count", count]))
        time.sleep(GONE_S)
        os.sync()

    def measures(self, part: str) -> bool:
        return self.part in ("all", part)

    def run(self, on_disk: bool) -> None:
        print(f"acknowledged from {mode(on_disk)}", file=sys.stderr)
        if self.measures("start"):
            self.starts(on_disk)
            self.size(on_disk)
        if self.part in ("all", "start", "load", "latency", "partitions"):
            with self.running(on_disk) as brokers:
                self.at_work(brokers)
        if self.measures("memory") and not on_disk:
            self.memory_after_load()
        if self.measures("recovery"):
            for gib in self.plan.recovery_gib:
                self.recovery(on_disk, gib)

    def at_work(self, brokers: list[Broker]) -> None:
        on_disk = brokers[0].on_disk
        if self.measures("start"):
            self.idle_memory(brokers)
        if self.part == "start":
            return
        self.warm_up(brokers)
        if self.measures("load"):
            for shape in self.plan.shapes_on_disk if on_disk else self.plan.shapes:
                self.full_load(brokers, shape)
            if not on_disk:
                self.fetch(brokers)
        if self.measures("latency"):
            self.latency(brokers)
            if not on_disk:
                self.open_loop(brokers)
        if self.measures("partitions"):
            self.topics(brokers)
            if not on_disk:
                self.idle_cpu(brokers)

    def starts(self, on_disk: bool) -> None:
        for _ in range(self.plan.start_runs):
            for kind in self.kinds:
                with self.node(kind, on_disk) as broker:
                    self.results.add("start_ms", broker, self.serve(broker, "first")["acknowledged"])

    def size(self, on_disk: bool) -> None:
        """All that must be installed, but for a JVM."""
        if not on_disk:
            for kind in self.kinds:
                self.results.samples["size_mb"][mode(on_disk)][kind.name].append(kind.size_bytes() / 1e6)

    def idle_memory(self, brokers: list[Broker]) -> None:
        time.sleep(self.plan.idle_s)
        for broker in brokers:
            self.results.add("idle_mib", broker, broker.rss_anon_mib())

    def warm_up(self, brokers: list[Broker]) -> None:
        """A cold JVM costs several times more; its topic is gone, and the disk quiet, before anything is counted."""
        for broker in brokers:
            seconds = self.plan.warmup_s if broker.name == "Kafka" else self.plan.native_warmup_s
            self.produce(broker, "warm-up", *full_load(self.plan.shapes[0]), "--duration", seconds, *GONE_SOON)
        self.settle(brokers, "warm-up")

    def full_load(self, brokers: list[Broker], shape: Shape) -> None:
        topic = f"cpu{shape.key}-"
        # What records of the first shape take is warm; of others, a first round does not count.
        uncounted = 0 if shape.key == "" else 1
        rounds = uncounted + self.plan.cpu_rounds
        for number in range(rounds):
            for broker in brokers:
                before = broker.cpu_seconds()
                figures = self.produce(broker, f"{topic}{number}", *full_load(shape), "--records", shape.records, *GONE_SOON)
                taken, millions = broker.cpu_seconds() - before, figures["records"] / 1e6
                # What is written stays in memory until the disk has it: neither pays for the other's, nor for that of a round before.
                self.settle([broker], f"{topic}{number}")
                if number >= uncounted:
                    self.results.add(f"cpu{shape.key}_s", broker, taken / millions)
                    self.results.add(f"mib_per_s{shape.key}", broker, figures["mib_per_second"])
                    self.results.add(f"generator_cpu{shape.key}_s", broker, figures["generator_cpu_seconds"] / millions)

    def fetch(self, brokers: list[Broker]) -> None:
        """From the page cache, by as many consumers as there are partitions, each asking for 1 MiB at a time."""
        shape = Shape("", RECORD_BYTES, BATCH_BYTES, int(self.plan.fetch_gib * GIB / RECORD_BYTES))
        reads = ["--size", shape.record_bytes, "--batch", shape.batch_bytes, "--connections", 4, "--duration"]
        for broker in brokers:
            self.produce(broker, "read", *full_load(shape), "--records", shape.records, *GONE_SOON)
        os.sync()
        for broker in brokers:
            seconds = self.plan.fetch_warmup_s if broker.name == "Kafka" else self.plan.native_warmup_s
            self.on_topic("fetch", broker, "read", *reads, seconds)
        for _ in range(self.plan.fetch_rounds):
            for broker in brokers:
                before = broker.cpu_seconds()
                figures = self.on_topic("fetch", broker, "read", *reads, self.plan.fetch_s)
                gigabytes = figures["mib_per_second"] * figures["seconds"] * 2**20 / 1e9
                self.results.add("fetch_cpu_s", broker, (broker.cpu_seconds() - before) / gigabytes)
                self.results.add("fetch_mib_per_s", broker, figures["mib_per_second"])
                self.results.add("fetch_generator_cpu_s", broker, figures["generator_cpu_seconds"] / gigabytes)
        self.settle(brokers, "read")

    def latency(self, brokers: list[Broker]) -> None:
        # Several producers: Kafka takes one request of a connection at a time, and where each is synced, one would fall behind.
        offered = ["--size", RECORD_BYTES, "--batch", RECORD_BYTES, "--partitions", 8, "--connections", 8, "--rate", 1_000]
        offered += [*GONE_SOON, "--warmup", 1, "--duration"]
        for broker in brokers:
            seconds = self.plan.follow_warmup_s if broker.name == "Kafka" else self.plan.native_warmup_s
            self.produce(broker, "follow-0", *offered, seconds, "--follow")
        for number in range(self.plan.latency_rounds):
            for broker in brokers:
                figures = self.produce(broker, f"latency-{number}", *offered, self.plan.latency_s)
                self.results.add_latency("", broker, figures)
            for broker in brokers:
                figures = self.produce(broker, f"follow-{number + 1}", *offered, self.plan.latency_s, "--follow")
                self.results.add_latency("_end_to_end", broker, figures)
            control = self.load.run("control", "--dir", str(self.scratch), "--duration", str(self.plan.control_s))
            self.results.controls[mode(brokers[0].on_disk)].append(control)
        self.settle(brokers, "latency-", self.plan.latency_rounds)
        self.settle(brokers, "follow-", self.plan.latency_rounds + 1)

    def open_loop(self, brokers: list[Broker]) -> None:
        offered = ["--size", RECORD_BYTES, "--batch", OPEN_LOOP_BATCH_BYTES, "--partitions", 8, "--connections", 8]
        offered += ["--rate", OPEN_LOOP_RATE, "--warmup", 2, "--duration", self.plan.open_loop_s, "--count-errors", *GONE_SOON]
        for number in range(self.plan.open_loop_rounds):
            for broker in brokers:
                figures = self.produce(broker, f"open-{number}", *offered)
                self.settle([broker], f"open-{number}")
                self.results.add("reached_open_loop", broker, figures["records_per_second"])
                self.results.add_latency("_open_loop", broker, figures)

    def topics(self, brokers: list[Broker]) -> None:
        many = str(self.plan.topics)
        for number in range(self.plan.topic_rounds):
            for broker in brokers:
                where = ["topics", "--bootstrap-server", broker.address, "--led", "--prefix"]
                figures = self.load.run(*where, f"many-{number}-", "--count", many)
                self.results.add("topics_ms", broker, figures["answered_ms"])
                self.results.add("topics_led_ms", broker, figures["led_ms"])
                figures = self.load.run(*where, f"large-{number}-", "--count", "1", "--partitions", many)
                self.results.add("partitions_led_ms", broker, figures["led_ms"])
            for prefix, count in ((f"many-{number}-", self.plan.topics), (f"large-{number}-", 1)):
                for broker in brokers:
                    self.on_topic("remove", broker, prefix, "--count", count)
            time.sleep(GONE_S)

    def idle_cpu(self, brokers: list[Broker]) -> None:
        shape = ["--count", "1", "--prefix", "rest-", "--partitions", str(self.plan.topics), "--led"]
        for broker in brokers:
            self.load.run("topics", "--bootstrap-server", broker.address, *shape)
        time.sleep(self.plan.idle_s)
        before, began = [broker.cpu_seconds() for broker in brokers], time.monotonic()
        time.sleep(self.plan.idle_cpu_s)
        for broker, seconds in zip(brokers, before, strict=True):
            share = (broker.cpu_seconds() - seconds) / (time.monotonic() - began)
            self.results.add("idle_cpu_percent", broker, 100 * share)

    def memory_after_load(self) -> None:
        """Nodes that did nothing else: a heap that has grown before would be Kafka's loss."""
        spread = ["--size", RECORD_BYTES, "--batch", BATCH_BYTES, "--partitions", self.plan.topics, "--connections", 8]
        with self.running(False) as brokers:
            for broker in brokers:
                self.produce(broker, "spread", *spread, "--records", self.plan.memory_records)
            time.sleep(self.plan.idle_s)
            for broker in brokers:
                self.results.add("loaded_mib", broker, broker.rss_anon_mib())

    def recovery(self, on_disk: bool, gib: float) -> None:
        records = int(gib * GIB / RECORD_BYTES)
        fill = ["--existing", "--size", RECORD_BYTES, "--batch", FILL_BATCH_BYTES[on_disk], "--records", records]
        for _ in range(self.plan.recovery_runs):
            for kind in self.kinds:
                with self.node(kind, on_disk) as broker:
                    self.serve(broker, "log")
                    self.produce(broker, "log", *fill)
                    broker.kill()
                    moments = self.serve(broker, "log", existing=True)
                    self.results.add(f"recovery_{gib:g}_gib_ms", broker, moments["acknowledged"])
                    self.results.add(f"recovery_{gib:g}_gib_read_ms", broker, moments["fetched"])


def full_load(shape: Shape) -> list[object]:
    """As fast as it goes, by 4 connections with 5 requests in flight."""
    return ["--size", shape.record_bytes, "--batch", shape.batch_bytes, "--partitions", 4, "--connections", 4]
