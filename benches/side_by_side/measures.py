"""What is measured, each figure on both brokers in turn."""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from brokers import Broker, Kafka, Ottla
from generator import Load

BOTH: tuple[type[Broker], ...] = (Kafka, Ottla)
GIB = 2**30
RECORD_BYTES = 1024
BATCH_BYTES = 16 * 1024
# Large batches fill a log quickly where each is synced.
FILL_BATCH_BYTES = {False: 64 * 1024, True: 512 * 1024}


@dataclass(frozen=True)
class Plan:
    """How much is measured. Records of one CPU round differ by mode, for syncing them takes Kafka ten times as long."""

    start_runs: int = 5
    idle_s: int = 12
    warmup_s: int = 40
    native_warmup_s: int = 3
    cpu_rounds: int = 3
    cpu_records: int = 1_000_000
    cpu_records_on_disk: int = 300_000
    latency_rounds: int = 3
    latency_s: int = 5
    control_s: int = 2
    topic_rounds: int = 3
    topics: int = 1_000
    recovery_gib: tuple[float, ...] = (1, 4)
    recovery_runs: int = 1


QUICK = Plan(
    start_runs=2, idle_s=10, warmup_s=8, native_warmup_s=1, cpu_rounds=1, cpu_records=500_000, cpu_records_on_disk=50_000,
    latency_rounds=1, latency_s=3, control_s=1, topic_rounds=1, recovery_gib=(0.25, 1),
)  # fmt: skip


class Results:
    """Samples by figure, mode and broker; controls by mode."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        self.controls: dict[str, list[dict]] = defaultdict(list)

    def add(self, figure: str, broker: Broker, value: float) -> None:
        self.samples[figure][mode(broker.on_disk)][broker.name].append(round(value, 4))
        print(f"  {broker.name:<6} {figure}: {value:.3f}", file=sys.stderr, flush=True)


def mode(on_disk: bool) -> str:
    return "disk" if on_disk else "memory"


class Bench:
    def __init__(self, plan: Plan, load: Load, scratch: Path):
        self.plan, self.load, self.scratch, self.results = plan, load, scratch, Results()
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

    def serve(self, broker: Broker, topic: str, existing: bool = False) -> dict[str, float]:
        """Starts the process; milliseconds from just before that to each of its first successes."""
        first = self.load.begin_first(broker.address, topic, existing)
        return first.milliseconds_since(broker.spawn())

    def produce(self, broker: Broker, topic: str, *arguments: object) -> dict:
        address = ["--bootstrap-server", broker.address, "--topic", topic, "--size", str(RECORD_BYTES)]
        figures = self.load.run("produce", *address, *map(str, arguments))
        broker.check_alive()
        return figures

    def run(self, on_disk: bool) -> None:
        print(f"acknowledged from {mode(on_disk)}", file=sys.stderr)
        self.starts(on_disk)
        with self.node(Kafka, on_disk) as kafka, self.node(Ottla, on_disk) as ottla:
            pair = (kafka, ottla)
            for broker in pair:
                self.serve(broker, "ready")
            self.idle_memory(pair)
            self.cpu(pair)
            self.latency(pair)
            self.topics(pair)
        for gib in self.plan.recovery_gib:
            self.recovery(on_disk, gib)

    def starts(self, on_disk: bool) -> None:
        for _ in range(self.plan.start_runs):
            for kind in BOTH:
                with self.node(kind, on_disk) as broker:
                    self.results.add("start_ms", broker, self.serve(broker, "first")["acknowledged"])

    def idle_memory(self, pair: tuple[Broker, ...]) -> None:
        time.sleep(self.plan.idle_s)
        for broker in pair:
            self.results.add("idle_mib", broker, broker.rss_anon_mib())

    def cpu(self, pair: tuple[Broker, ...]) -> None:
        full = ["--batch", BATCH_BYTES, "--partitions", 4, "--connections", 4]
        # A cold JVM costs several times more; its topic is gone, and the disk quiet, before anything is counted.
        for broker in pair:
            seconds = self.plan.warmup_s if broker.name == "Kafka" else self.plan.native_warmup_s
            gone = ["--delete", "--topic-config", "file.delete.delay.ms=1000"]
            self.produce(broker, "warm-up", *full, "--duration", seconds, *gone)
        time.sleep(5)
        records = self.plan.cpu_records_on_disk if pair[0].on_disk else self.plan.cpu_records
        for number in range(self.plan.cpu_rounds):
            for broker in pair:
                before = broker.cpu_seconds()
                figures = self.produce(broker, f"cpu-{number}", *full, "--records", records)
                millions = figures["records"] / 1e6
                self.results.add("cpu_s", broker, (broker.cpu_seconds() - before) / millions)
                self.results.add("mib_per_s", broker, figures["mib_per_second"])
                self.results.add("generator_cpu_s", broker, figures["generator_cpu_seconds"] / millions)

    def latency(self, pair: tuple[Broker, ...]) -> None:
        # Several producers: Kafka takes one request of a connection at a time, and where each is synced, one would fall behind.
        offered = ["--batch", RECORD_BYTES, "--partitions", 8, "--connections", 8, "--rate", 1_000]
        offered += ["--warmup", 1, "--duration", self.plan.latency_s]
        for number in range(self.plan.latency_rounds):
            for broker in pair:
                latency = self.produce(broker, f"latency-{number}", *offered)["latency"]
                self.results.add("p50_ms", broker, latency["p50_us"] / 1e3)
                self.results.add("p99_ms", broker, latency["p99_us"] / 1e3)
            control = self.load.run("control", "--dir", str(self.scratch), "--duration", str(self.plan.control_s))
            self.results.controls[mode(pair[0].on_disk)].append(control)

    def topics(self, pair: tuple[Broker, ...]) -> None:
        for number in range(self.plan.topic_rounds):
            for broker in pair:
                many = ["--count", str(self.plan.topics), "--prefix", f"many-{number}-"]
                figures = self.load.run("topics", "--bootstrap-server", broker.address, *many)
                self.results.add("topics_ms", broker, figures["answered_ms"])

    def recovery(self, on_disk: bool, gib: float) -> None:
        records = int(gib * GIB / RECORD_BYTES)
        fill = ["--existing", "--batch", FILL_BATCH_BYTES[on_disk], "--records", records]
        for _ in range(self.plan.recovery_runs):
            for kind in BOTH:
                with self.node(kind, on_disk) as broker:
                    self.serve(broker, "log")
                    self.produce(broker, "log", *fill)
                    broker.kill()
                    moments = self.serve(broker, "log", existing=True)
                    self.results.add(f"recovery_{gib:g}_gib_ms", broker, moments["acknowledged"])
                    self.results.add(f"recovery_{gib:g}_gib_read_ms", broker, moments["fetched"])
