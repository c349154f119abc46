"""The load generator, `load`, as a child process. What it measures it prints as one line of JSON."""

import json
import resource
import subprocess
from pathlib import Path

LIMIT_S = 900


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

    def begin_first(self, address: str, topic: str, existing: bool) -> "FirstRecord":
        arguments = ["first", "--bootstrap-server", address, "--topic", topic]
        if existing:
            arguments.append("--existing")
        child = subprocess.Popen([str(self.binary), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return FirstRecord(child)


class FirstRecord:
    """A generator that waits for a broker's first record; it runs before the broker does."""

    def __init__(self, child: subprocess.Popen):
        self.child = child
        assert child.stdout is not None
        if child.stdout.readline().strip() != "waiting":
            raise RuntimeError(f"load first: {child.communicate()[1].strip()}")

    def milliseconds_since(self, moment_ns: int) -> dict[str, float]:
        out, err = self.child.communicate(timeout=LIMIT_S)
        if self.child.returncode != 0:
            raise RuntimeError(f"load first: {err.strip()}")
        moments = json.loads(out)
        return {name.removesuffix("_ns"): (at - moment_ns) / 1e6 for name, at in moments.items() if at is not None}


def children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
