"""Three nodes of either kind: how they are started, and how one of them is made to fail. Everything else is done to both alike."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from brokers import NEVER, STOP_LIMIT_S, Kafka, Ottla, free_port
from machine import alive, cpu_seconds, rss_anon_mib

NODES = 3
PORT_STEP = 1000


@dataclass
class Node:
    id: int
    port: int
    pid: int = 0


class Cluster:
    """Three nodes in one directory. `name` is how the table calls them."""

    name: str

    def __init__(self, directory: Path, on_disk: bool):
        self.directory, self.on_disk = directory, on_disk
        first = free_ports()
        self.nodes = [Node(number + 1, first + PORT_STEP * number) for number in range(NODES)]
        directory.mkdir(parents=True)

    @property
    def address(self) -> str:
        return self.address_without(None)

    def address_without(self, gone: Node | None) -> str:
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes if node is not gone)

    def settings(self) -> dict[str, str]:
        """Said to both alike: the durability mode of the run."""
        return {"log.flush.interval.messages": "1" if self.on_disk else NEVER}

    def node(self, node_id: int) -> Node:
        return next(node for node in self.nodes if node.id == node_id)

    def prepare(self) -> None:
        """What must be done once before the first start."""

    def spawn(self) -> int:
        """Starts all; gives the moment just before, of the clock that `load` reads too."""
        raise NotImplementedError

    def start(self, node: Node) -> None:
        """Starts one again."""
        raise NotImplementedError

    def check_alive(self) -> None:
        for node in self.nodes:
            if not alive(node.pid):
                raise SystemExit(f"{self.name}'s node {node.id} ended; see {self.directory}")

    def cpu_seconds(self) -> float:
        return sum(cpu_seconds(node.pid) for node in self.nodes)

    def rss_anon_mib(self) -> float:
        return sum(rss_anon_mib(node.pid) for node in self.nodes)

    def signal(self, node: Node, how: signal.Signals) -> int:
        """Gives the moment just before."""
        moment = time.monotonic_ns()
        os.kill(node.pid, how)
        return moment

    def wait_gone(self, node: Node) -> None:
        limit = time.monotonic() + STOP_LIMIT_S
        while alive(node.pid):
            if time.monotonic() > limit:
                os.kill(node.pid, signal.SIGKILL)
            time.sleep(0.005)

    def remove(self) -> None:
        """Ends the processes that run, and removes their data."""
        for node in self.nodes:
            if node.pid and alive(node.pid):
                os.kill(node.pid, signal.SIGKILL)
        for node in self.nodes:
            if node.pid:
                self.wait_gone(node)
        shutil.rmtree(self.directory, ignore_errors=True)


class OttlaCluster(Cluster):
    name = "Ottla"

    def spawn(self) -> int:
        sets = [argument for name, value in self.settings().items() for argument in ("--set", f"{name}={value}")]
        moment = time.monotonic_ns()
        self.ottla("up", str(NODES), "--port", str(self.nodes[0].port), "--detach", *sets)
        self.note_processes()
        return moment

    def start(self, node: Node) -> None:
        self.ottla("start", str(node.id))
        self.note_processes()

    def ottla(self, command: str, *arguments: str) -> None:
        where = ["--dir", str(self.directory / "cluster")]
        subprocess.run([str(Ottla.binary), "cluster", command, *arguments, *where], check=True, stdout=subprocess.DEVNULL)

    def note_processes(self) -> None:
        state = json.loads((self.directory / "cluster" / "cluster.json").read_text())
        for node, its in zip(self.nodes, state["nodes"], strict=True):
            assert node.port == its["port"]
            node.pid = its["pid"]


class KafkaCluster(Cluster):
    name = "Kafka"

    def __init__(self, directory: Path, on_disk: bool):
        super().__init__(directory, on_disk)
        self.children: dict[int, subprocess.Popen] = {}

    def prepare(self) -> None:
        voters = ",".join(f"{node.id}@127.0.0.1:{node.port + 1}" for node in self.nodes)
        for node in self.nodes:
            settings = {
                "process.roles": "broker,controller",
                "node.id": str(node.id),
                "controller.quorum.voters": voters,
                "controller.listener.names": "CONTROLLER",
                "listeners": f"PLAINTEXT://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.port + 1}",
                "log.dirs": str(self.directory / f"n{node.id}"),
                "broker.rack": f"r{node.id}",
                # As `ottla cluster up 3` sets them; its internal topics have three replicas anyway.
                "default.replication.factor": "3",
                "min.insync.replicas": "2",
                **self.settings(),
            }
            lines = [f"{name}={value}\n" for name, value in settings.items()]
            self.properties(node).write_text("".join(lines))
            form = Kafka.java("kafka.tools.StorageTool", "format", "-t", "b3R0bGEtc2lkZS1ieS1zaQ", "-c", str(self.properties(node)))
            subprocess.run(form, check=True, stdout=subprocess.DEVNULL)

    def properties(self, node: Node) -> Path:
        return self.directory / f"n{node.id}.properties"

    def spawn(self) -> int:
        moment = time.monotonic_ns()
        for node in self.nodes:
            self.start(node)
        return moment

    def start(self, node: Node) -> None:
        with (self.directory / f"n{node.id}.log").open("ab") as log:
            command = Kafka.java("kafka.Kafka", str(self.properties(node)))
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.children[node.id] = child
        node.pid = child.pid

    def wait_gone(self, node: Node) -> None:
        super().wait_gone(node)
        # Its parent must ask for it, or it stays in the table of processes.
        self.children[node.id].wait()


def free_ports() -> int:
    """A port P such that P + 1000 i and the one after it are free for each node."""
    while True:
        first = free_port()
        others = [first + PORT_STEP * number + more for number in range(NODES) for more in (0, 1)]
        if others[-1] < 2**16 and all(is_free(port) for port in others):
            return first


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
