"""What is measured of three nodes, each figure on both kinds in turn."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clusters import Cluster, KafkaCluster, Node, OttlaCluster
from generator import Load
from measures import BATCH_BYTES, OPEN_LOOP_BATCH_BYTES, RECORD_BYTES, Results, mode

COPIES = ["--replication-factor", "3"]
HEAL_LIMIT_S = 120


@dataclass(frozen=True)
class ThreeNodesPlan:
    """How much is measured. A round of a failure takes Kafka half a minute, so it gets fewer."""

    start_runs: int = 3
    idle_s: int = 12
    warmup_s: int = 100
    native_warmup_s: int = 3
    cpu_rounds: int = 3
    cpu_records: int = 500_000
    cpu_records_on_disk: int = 150_000
    latency_rounds: int = 3
    latency_s: int = 5
    partition_rounds: int = 3
    partitions: int = 1_000
    idle_cpu_s: int = 20
    gap_rounds: int = 15
    kafka_gap_rounds: int = 3


QUICK = ThreeNodesPlan(
    start_runs=1, idle_s=8, warmup_s=15, native_warmup_s=1, cpu_rounds=1, cpu_records=200_000, cpu_records_on_disk=50_000,
    latency_rounds=1, latency_s=3, partition_rounds=1, gap_rounds=3, kafka_gap_rounds=1,
)  # fmt: skip


class ThreeNodes:
    def __init__(self, plan: ThreeNodesPlan, load: Load, scratch: Path, kinds: tuple[type[Cluster], ...], part: str):
        self.plan, self.load, self.scratch, self.kinds, self.results = plan, load, scratch, kinds, Results()
        self.made, self.part = 0, part

    @contextmanager
    def cluster(self, kind: type[Cluster], on_disk: bool) -> Iterator[Cluster]:
        """Three nodes that do not run yet, in a fresh directory."""
        self.made += 1
        cluster = kind(self.scratch / f"{kind.name.lower()}-{self.made}", on_disk)
        try:
            cluster.prepare()
            yield cluster
        finally:
            cluster.remove()

    def serve(self, cluster: Cluster, topic: str) -> float:
        """Starts the processes; milliseconds from just before that to the first record on all three."""
        first = self.load.begin_first(cluster.address, topic, False, *COPIES)
        return first.milliseconds_since(cluster.spawn())["acknowledged"]

    def produce(self, cluster: Cluster, topic: str, *arguments: object) -> dict:
        where = ["--bootstrap-server", cluster.address, "--topic", topic, "--size", str(RECORD_BYTES), *COPIES]
        figures = self.load.run("produce", *where, *map(str, arguments))
        cluster.check_alive()
        return figures

    def run(self, on_disk: bool) -> None:
        print(f"three nodes, acknowledged from {mode(on_disk)}", file=sys.stderr)
        # Not both at once: what three idle nodes of one kind take would be missing to the other.
        if self.part != "gaps":
            for _ in range(self.plan.start_runs):
                for kind in self.kinds:
                    with self.cluster(kind, on_disk) as cluster:
                        self.results.add("start_ms", cluster, self.serve(cluster, "first"))
            for kind in self.kinds:
                with self.cluster(kind, on_disk) as cluster:
                    self.at_work(cluster)
        if self.part != "rest":
            for kind in self.kinds:
                with self.cluster(kind, on_disk) as cluster:
                    self.serve(cluster, "ready")
                    self.gaps(cluster)

    def at_work(self, cluster: Cluster) -> None:
        self.serve(cluster, "ready")
        time.sleep(self.plan.idle_s)
        self.results.add("idle_mib", cluster, cluster.rss_anon_mib())
        self.cpu(cluster)
        self.latency(cluster)
        self.partitions(cluster)

    def cpu(self, cluster: Cluster) -> None:
        full = ["--batch", BATCH_BYTES, "--partitions", 4, "--connections", 4]
        # A cold JVM costs several times more.
        seconds = self.plan.warmup_s if cluster.name == "Kafka" else self.plan.native_warmup_s
        self.produce(cluster, "warm-up", *full, "--duration", seconds, "--delete", "--topic-config", "file.delete.delay.ms=1000")
        time.sleep(5)
        records = self.plan.cpu_records_on_disk if cluster.on_disk else self.plan.cpu_records
        for number in range(self.plan.cpu_rounds):
            before = cluster.cpu_seconds()
            figures = self.produce(cluster, f"cpu-{number}", *full, "--records", records)
            # What followers still do for it belongs to it.
            time.sleep(1)
            millions = figures["records"] / 1e6
            self.results.add("cpu_s", cluster, (cluster.cpu_seconds() - before) / millions)
            self.results.add("mib_per_s", cluster, figures["mib_per_second"])
            self.results.add("generator_cpu_s", cluster, figures["generator_cpu_seconds"] / millions)

    def latency(self, cluster: Cluster) -> None:
        spread = ["--partitions", 8, "--connections", 8, "--warmup", 1, "--duration", self.plan.latency_s]
        for number in range(self.plan.latency_rounds):
            for rate, batch in ((1_000, RECORD_BYTES), (20_000, OPEN_LOOP_BATCH_BYTES)):
                offered = ["--rate", rate, "--batch", batch, "--count-errors"]
                figures = self.produce(cluster, f"latency-{rate}-{number}", *spread, *offered)
                self.results.add(f"reached_{rate}", cluster, figures["records_per_second"])
                self.results.add_latency(f"_{rate}", cluster, figures)

    def partitions(self, cluster: Cluster) -> None:
        for number in range(self.plan.partition_rounds):
            shape = ["--count", "1", "--prefix", f"many-{number}-", "--partitions", str(self.plan.partitions), *COPIES, "--led"]
            figures = self.load.run("topics", "--bootstrap-server", cluster.address, *shape)
            self.results.add("partitions_ms", cluster, figures["led_ms"])
            if number == 0:
                time.sleep(self.plan.idle_s)
                before, began = cluster.cpu_seconds(), time.monotonic()
                time.sleep(self.plan.idle_cpu_s)
                share = (cluster.cpu_seconds() - before) / (time.monotonic() - began)
                self.results.add("idle_cpu_percent", cluster, 100 * share)
            self.load.run("remove", "--bootstrap-server", cluster.address, "--topic", f"many-{number}-0")
            time.sleep(2)

    def gaps(self, cluster: Cluster) -> None:
        failures: list[tuple[str, Callable[[Cluster, int, dict], None]]] = [
            ("none", lambda cluster, partition, leaders: None),
            ("kill", self.kill_leader),
            ("controller", self.kill_controller),
            ("both", self.kill_both),
            ("hang", self.hang_leader),
            ("stop", self.stop_leader),
        ]
        rounds = self.plan.kafka_gap_rounds if cluster.name == "Kafka" else self.plan.gap_rounds
        for number in range(rounds):
            for name, fail in failures:
                # A new topic has a leader on every node, whatever failed before.
                prefix = f"gap-{name}-{number}-"
                where, topic = ["--bootstrap-server", cluster.address], ["--topic", f"{prefix}0"]
                self.load.run("topics", *where, "--count", "1", "--prefix", prefix, "--partitions", "3", *COPIES, "--led")
                leaders = self.load.run("leaders", *where, *topic)
                partition = partition_for(name, leaders)
                gap = self.load.begin_gap(*where, *topic, "--partition", str(partition))
                time.sleep(0.3)
                self.round = number
                fail(cluster, partition, leaders)
                # Whatever failed has had its effect by now; the client goes on until records go through again.
                time.sleep(2)
                figures = gap.end()
                if not figures["recovered"]:
                    print(f"  {cluster.name}: not recovered", file=sys.stderr)
                self.results.add(f"gap_{name}_ms", cluster, figures["longest_ms"])
                self.mend(cluster)
                self.wait_healed(cluster, topic)
                self.load.run("remove", *where, *topic)

    def kill_leader(self, cluster: Cluster, partition: int, leaders: dict) -> None:
        self.fail(cluster, cluster.node(leaders["partitions"][partition]["leader"]), signal.SIGKILL)

    def kill_controller(self, cluster: Cluster, partition: int, leaders: dict) -> None:
        node = cluster.node(leaders["controller"])
        waiting = self.load.begin_first(cluster.address_without(node), f"again-{self.round}", False, "--no-record", hold=True)
        moment = self.fail(cluster, node, signal.SIGKILL)
        waiting.go()
        self.results.add("create_again_ms", cluster, waiting.milliseconds_since(moment)["created"])

    def kill_both(self, cluster: Cluster, partition: int, leaders: dict) -> None:
        self.fail(cluster, cluster.node(leaders["controller"]), signal.SIGKILL)

    def hang_leader(self, cluster: Cluster, partition: int, leaders: dict) -> None:
        self.fail(cluster, cluster.node(leaders["partitions"][partition]["leader"]), signal.SIGSTOP)

    def stop_leader(self, cluster: Cluster, partition: int, leaders: dict) -> None:
        self.fail(cluster, cluster.node(leaders["partitions"][partition]["leader"]), signal.SIGTERM)

    def fail(self, cluster: Cluster, node: Node, how: signal.Signals) -> int:
        self.failed = (node, how)
        return cluster.signal(node, how)

    def mend(self, cluster: Cluster) -> None:
        """Has the node that failed take part again."""
        if self.failed is None:
            return
        (node, how), self.failed = self.failed, None
        if how == signal.SIGSTOP:
            cluster.signal(node, signal.SIGCONT)
        else:
            cluster.wait_gone(node)
            cluster.start(node)

    failed: tuple[Node, signal.Signals] | None = None
    round = 0

    def wait_healed(self, cluster: Cluster, topic: list[str]) -> None:
        """Waits until all replicas are in sync and somebody decides."""
        limit = time.monotonic() + HEAL_LIMIT_S
        while time.monotonic() < limit:
            leaders = self.load.run("leaders", "--bootstrap-server", cluster.address, *topic)
            if leaders["controller"] > 0 and all(p["in_sync"] == 3 and p["leader"] > 0 for p in leaders["partitions"]):
                # Not in the middle of anything else.
                time.sleep(0.5)
                return
            time.sleep(0.1)
        raise SystemExit(f"{cluster.name}'s replicas were not in sync again within {HEAL_LIMIT_S} s; see {cluster.directory}")


def partition_for(failure: str, leaders: dict) -> int:
    """One that the controller leads, where both are to fail; else one that another node leads."""
    both = failure == "both"
    led = enumerate(its["leader"] for its in leaders["partitions"])
    return next(partition for partition, leader in led if (leader == leaders["controller"]) == both)


BOTH: tuple[type[Cluster], ...] = (KafkaCluster, OttlaCluster)
