"""The two brokers: how each is started, stopped and killed. Everything else is done to both alike."""

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from machine import alive, cpu_seconds, rss_anon_mib

HERE = Path(__file__).resolve().parent
KAFKA_VERSION = "4.3.1"
NEVER = str(2**63 - 1)
STOP_LIMIT_S = 60


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Broker:
    """One node with a data directory of its own. `name` is how the table calls it."""

    name: str

    def __init__(self, directory: Path, on_disk: bool):
        self.directory = directory
        self.on_disk = on_disk
        self.port = free_port()
        self.process: subprocess.Popen | None = None
        directory.mkdir(parents=True)

    @classmethod
    def size_bytes(cls) -> int:
        """What must be installed."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.directory / "output.log"

    def flush_interval(self) -> str:
        """`log.flush.interval.messages`: the durability mode of the run, said to both brokers alike."""
        return "1" if self.on_disk else NEVER

    def prepare(self) -> None:
        """What must be done once before the first start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def spawn(self) -> int:
        """Starts the process; gives the moment just before, of the clock that `load` reads too."""
        with self.log.open("ab") as log:
            moment = time.monotonic_ns()
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return moment

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} does not run"
        return self.process.pid

    def check_alive(self) -> None:
        if not alive(self.pid):
            raise SystemExit(f"{self.name} ended; its last words:\n{self.log.read_text()[-3000:]}")

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def rss_anon_mib(self) -> float:
        return rss_anon_mib(self.pid)

    def end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def remove(self) -> None:
        """Ends the process if it runs, and removes its data."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class Ottla(Broker):
    name = "Ottla"
    binary: Path

    @classmethod
    def size_bytes(cls) -> int:
        return cls.binary.stat().st_size

    def command(self) -> list[str]:
        return [
            str(self.binary), "serve", "--port", str(self.port), "--data-dir", str(self.directory / "data"),
            "--set", f"log.flush.interval.messages={self.flush_interval()}",
        ]  # fmt: skip


class Kafka(Broker):
    name = "Kafka"
    jars: Path

    @classmethod
    def fetch(cls, into: Path) -> None:
        """Copies Kafka and what it needs from the Maven repository, once."""
        cls.jars = into / f"kafka-{KAFKA_VERSION}"
        if cls.jars.is_dir():
            return
        half = into / "kafka.part"
        shutil.rmtree(half, ignore_errors=True)
        copy = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
        subprocess.run([*copy, f"-DoutputDirectory={half}", "-DincludeScope=runtime"], check=True)
        half.rename(cls.jars)

    @classmethod
    def size_bytes(cls) -> int:
        return sum(jar.stat().st_size for jar in cls.jars.glob("*.jar"))

    @classmethod
    def java(cls, *arguments: str) -> list[str]:
        """The JVM with the options that Kafka's own start script gives it, but for -Xms: a heap that grows as needed takes less memory."""
        options = [
            "-server", "-Xmx1G", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
            "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true",
        ]  # fmt: skip
        log4j = f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"
        return ["java", *options, log4j, "-cp", f"{cls.jars}/*", *arguments]

    def prepare(self) -> None:
        controller_port = free_port()
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller_port}",
            "log.dirs": str(self.directory / "data"),
            # One node can't hold three replicas.
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "log.flush.interval.messages": self.flush_interval(),
        }
        lines = [f"{name}={value}\n" for name, value in settings.items()]
        self.properties().write_text("".join(lines))
        # The step that Kafka asks for before a first start is not counted.
        form = self.java("kafka.tools.StorageTool", "format", "-t", "b3R0bGEtc2lkZS1ieS1zaQ", "-c", str(self.properties()))
        subprocess.run(form, check=True, stdout=subprocess.DEVNULL)

    def properties(self) -> Path:
        return self.directory / "server.properties"

    def command(self) -> list[str]:
        return self.java("kafka.Kafka", str(self.properties()))
