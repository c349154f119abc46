"""The load generator, `load`, as a child process. What it measures it prints as one line of JSON."""

import json
import resource
import subprocess
from pathlib import Path

LIMIT_S = 900
# How long the generator waits for answers when all is sent.
DRAIN_S = 30


class Load:
    def __init__(self, binary: Path):
        self.binary = binary

    def run(self, *arguments: str) -> dict:
        """One run; its figures, and the CPU seconds that the generator itself took."""
        before = children_cpu_seconds()
        done = subprocess.run([str(self.binary), *arguments], capture_output=True, text=True, timeout=LIMIT_S)
        if done.returncode != 0:
            raise RuntimeError(f"load {' '.join(arguments)}: {done.stderr.strip()}")
        figures = json.loads(done.stdout.splitlines()[-1])
        figures["generator_cpu_seconds"] = children_cpu_seconds() - before
        return figures

    def begin_first(self, address: str, topic: str, existing: bool, *more: str, hold: bool = False) -> "FirstRecord":
        """`hold`: it begins when it is told to."""
        arguments = ["first", "--bootstrap-server", address, "--topic", topic, *more]
        if existing:
            arguments.append("--existing")
        if hold:
            arguments.append("--hold")
        return FirstRecord(self.begin(*arguments))

    def begin_idle(self, address: str, connections: int) -> "Idle":
        return Idle(self.begin("idle", "--bootstrap-server", address, "--connections", str(connections)))

    def begin_gap(self, *arguments: str) -> "Gap":
        return Gap(self.begin("gap", *arguments))

    def begin(self, *arguments: str) -> subprocess.Popen:
        pipe = subprocess.PIPE
        return subprocess.Popen([str(self.binary), *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


class FirstRecord:
    """A generator that waits for a broker's first record; it runs before the broker does."""

    def __init__(self, child: subprocess.Popen):
        self.child = child
        assert child.stdout is not None
        if child.stdout.readline().strip() != "waiting":
            raise RuntimeError(f"load first: {child.communicate()[1].strip()}")

    def go(self) -> None:
        """What was held begins."""
        assert self.child.stdin is not None
        self.child.stdin.write("go\n")
        self.child.stdin.flush()

    def milliseconds_since(self, moment_ns: int) -> dict[str, float]:
        out, err = self.child.communicate(timeout=LIMIT_S)
        if self.child.returncode != 0:
            raise RuntimeError(f"load first: {err.strip()}")
        moments = json.loads(out)
        return {name.removesuffix("_ns"): (at - moment_ns) / 1e6 for name, at in moments.items() if at is not None}


class Gap:
    """A generator that produces steadily when this returns, until it is told to end and the cluster has recovered."""

    def __init__(self, child: subprocess.Popen):
        self.child = child
        assert child.stdout is not None
        if child.stdout.readline().strip() != "steady":
            raise RuntimeError(f"load gap: {child.communicate()[1].strip()}")

    def end(self) -> dict:
        # Its standard input ends here.
        out, err = self.child.communicate(timeout=LIMIT_S)
        if self.child.returncode != 0:
            raise RuntimeError(f"load gap: {err.strip()}")
        return json.loads(out)


class Idle:
    """A generator that holds connections open, until it is told to end. `limited_by`: why they are fewer than were asked for."""

    def __init__(self, child: subprocess.Popen):
        self.child = child
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"load idle: {child.communicate()[1].strip()}")
        told = json.loads(line)
        self.open: int = told["open"]
        self.limited_by: str | None = told["limited_by"]

    def end(self) -> None:
        # Its standard input ends here.
        self.child.communicate(timeout=LIMIT_S)


def children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
