#!/usr/bin/env python3
"""Real clients against a real `ottla`: README.md beside this file says what each does.

    run.py [--bin target/release/ottla] [--only python,java,go,node,rust,kcat,console] [--verbose]
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILT = ROOT / "target" / "clients"
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
PER_CODEC = 100


class Failed(Exception):
    pass


def sh(*command, timeout=120, cwd=None, env=None, ok=(0,)):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, cwd=cwd,
                          env={**os.environ, **(env or {})})
    if done.returncode not in ok:
        raise Failed(f"{' '.join(map(str, command))[:300]}\nended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


class Broker:
    """One node through `ottla cluster`, as a user runs it."""

    def __init__(self, binary):
        self.binary, self.dir = binary, tempfile.mkdtemp(prefix="ottla-clients-")
        up = sh(binary, "cluster", "up", "1", "--port", "0", "--dir", self.dir, "--detach", "--json",
                "--set", "num.partitions=3", "--set", "group.initial.rebalance.delay.ms=0")
        self.bootstrap = json.loads(up)["bootstrap"]

    def crash_and_restart(self):
        sh(self.binary, "cluster", "kill", "1", "--dir", self.dir)
        sh(self.binary, "cluster", "start", "1", "--dir", self.dir)

    def down(self):
        sh(self.binary, "cluster", "down", "--dir", self.dir)
        shutil.rmtree(self.dir, ignore_errors=True)


# ---- the clients: how to build one, how to call it ---------------------------------------------------------------------


def fresh(stamp_file, *sources):
    """Whether what was built is younger than its sources."""
    return stamp_file.exists() and all(stamp_file.stat().st_mtime > s.stat().st_mtime for s in sources)


def venv(name, *requirements):
    """A Python with these packages."""
    at = BUILT / name
    if not fresh(at / "done", *requirements):
        sh(sys.executable, "-m", "venv", at)
        sh(at / "bin" / "pip", "install", "-q", *(f"-r{file}" for file in requirements), timeout=600)
        (at / "done").touch()
    return at / "bin" / "python"


def python():
    return [venv("python", HERE / "python" / "requirements.txt"), HERE / "python" / "client.py"]


def jars():
    libs = BUILT / "java"
    if not fresh(libs / "done", HERE / "java" / "pom.xml"):
        sh("mvn", "-q", "-B", "-f", HERE / "java" / "pom.xml", "dependency:copy-dependencies", f"-DoutputDirectory={libs}",
           timeout=900)
        (libs / "done").touch()
    return libs


def java():
    libs = jars()
    if not fresh(libs / "Client.class", HERE / "java" / "Client.java"):
        sh("javac", "-cp", f"{libs}/*", "-d", libs, HERE / "java" / "Client.java", timeout=300)
    return ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{libs}:{libs}/*", "Client"]


def go():
    out = BUILT / "go-client"
    if not fresh(out, HERE / "go" / "main.go", HERE / "go" / "go.sum"):
        sh("go", "build", "-o", out, ".", cwd=HERE / "go", timeout=600)
    return [out]


def node():
    at = BUILT / "node"
    if not fresh(at / "done", HERE / "node" / "package-lock.json"):
        shutil.rmtree(at, ignore_errors=True)
        at.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "node" / name, at)
        sh("npm", "ci", "--silent", "--ignore-scripts", cwd=at, timeout=600)
        (at / "done").touch()
    shutil.copy(HERE / "node" / "client.js", at)
    return ["node", at / "client.js"]


def rust():
    sh("cargo", "build", "--quiet", "--locked", "--target-dir", BUILT / "rust", cwd=HERE / "rust", timeout=1200)
    return [BUILT / "rust" / "debug" / "client"]


def kcat():
    if not shutil.which("kcat"):
        raise Failed("kcat is not installed (Debian package kcat)")
    return [HERE / "kcat" / "client.sh"]


# ---- the scenario ---------------------------------------------------------------------------------------------------------


def check(what, condition, detail=""):
    if not condition:
        raise Failed(f"{what}: {detail}")


def values(text):
    """Lines of `value, partition, offset`, as tuples."""
    return [(v, int(p), int(o)) for v, p, o in (line.split("\t") for line in text.splitlines() if line)]


def in_order(rows):
    last = {}
    for value, partition, offset in rows:
        if offset <= last.get(partition, -1):
            return False
        last[partition] = offset
    return True


def scenario(name, client, broker):
    call = lambda *args, **more: sh(*client, broker.bootstrap, *args, **more)
    topic, group = f"{name}-topic", f"{name}-group"
    call("create", topic, 3)
    count = 0
    for codec in CODECS:
        out = call("produce", topic, codec, count, count + PER_CODEC)
        check(f"produce with {codec}", out.split()[:2] == ["acked", str(PER_CODEC)], out)
        count += PER_CODEC
    time.sleep(0.005)
    middle = int(time.time() * 1000)
    # Half of it is consumed and committed by hand; then the member dies without a word, and the broker is killed.
    first = values(call("consume", topic, group, count // 2, "die", ok=(0,) if name == "kcat" else (-9, 137)))
    check("first half", len(first) == count // 2, len(first))
    broker.crash_and_restart()
    call("produce", topic, "lz4", count, count + PER_CODEC)
    count += PER_CODEC
    rest = values(call("consume", topic, group, count - len(first)))
    seen = [value for value, _, _ in first + rest]
    wanted = [f"v{i}" for i in range(count)]
    if name == "kcat":  # commits by time: what was read in its last moments may come again
        check("every record came", set(seen) <= set(wanted) and len(set(seen)) >= count - 60, len(set(seen)))
    else:
        check("every record came, once", sorted(seen) == sorted(wanted), f"{len(seen)} records, {len(set(seen))} different")
    check("in order", in_order(first) and in_order(rest))
    times = dict(map(int, line.split()) for line in call("times", topic, middle).splitlines())
    later = [row for row in rest if int(row[0][1:]) >= count - PER_CODEC]
    expected = {p: min((o for _, q, o in later if q == p), default=-1) for p in range(3)}
    check("offsets by time", times == expected, f"{times} is not {expected}")
    check("a message over the limit", call("large", topic, 2_000_000).split() == ["refused"])
    sh(*python(), broker.bootstrap, "configure", topic, "max.message.bytes", 5_000_000)
    check("a message under a raised limit", call("large", topic, 2_000_000).split() == ["accepted"])


def console(_, __, broker):
    """Kafka's own command line tools."""
    libs = jars()
    tool = lambda cls, *args, **more: sh("java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/*", cls, *args, **more)
    b = ("--bootstrap-server", broker.bootstrap)
    topics, tools = "org.apache.kafka.tools.TopicCommand", "org.apache.kafka.tools."
    tool(topics, *b, "--create", "--topic", "console", "--partitions", "2")
    out = tool(topics, *b, "--describe", "--topic", "console")
    check("describe", "PartitionCount: 2" in out, out)
    done = subprocess.run(["java", "-Xmx256m", "-cp", f"{libs}/*", tools + "ConsoleProducer", *b, "--topic", "console", "--property",
                           "parse.key=true", "--property", "key.separator=:"],
                          input="".join(f"k{i}:line {i}\n" for i in range(50)), text=True, capture_output=True, timeout=60)
    check("console producer", done.returncode == 0, done.stderr)
    broker.crash_and_restart()
    out = tool(tools + "consumer.ConsoleConsumer", *b, "--topic", "console", "--from-beginning", "--max-messages", "50",
               "--group", "console-group", "--timeout-ms", "30000")
    check("console consumer", sorted(out.split("\n")) == sorted([""] + [f"line {i}" for i in range(50)]), out[-300:])
    out = tool(tools + "GetOffsetShell", *b, "--topic", "console")
    check("get-offsets", sum(int(line.rsplit(":", 1)[1]) for line in out.split()) == 50, out)
    out = tool(tools + "consumer.group.ConsumerGroupCommand", *b, "--describe", "--group", "console-group")
    check("consumer-groups", "console" in out, out)


CLIENTS = {"python": python, "java": java, "go": go, "node": node, "rust": rust, "kcat": kcat, "console": jars}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", default=ROOT / "target" / "release" / "ottla", type=pathlib.Path)
    p.add_argument("--only", default=",".join(CLIENTS))
    o = p.parse_args()
    binary, failed = o.bin.resolve(), []
    BUILT.mkdir(parents=True, exist_ok=True)
    for name in o.only.split(","):
        began = time.time()
        try:
            client = CLIENTS[name]()
            broker = Broker(binary)
            try:
                (console if name == "console" else scenario)(name, client, broker)
            finally:
                broker.down()
            print(f"{name:<8} ok      {time.time() - began:6.1f} s", flush=True)
        except (Failed, subprocess.TimeoutExpired, OSError, ValueError) as error:
            failed.append(name)
            print(f"{name:<8} FAILED  {time.time() - began:6.1f} s\n{error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
