#!/usr/bin/env python3
"""Faults against three real nodes under real clients, round after round; README.md beside this file says what is done and checked.

    chaos.py [--bin target/release/ottla] [--seconds 60 | --rounds N] [--seed S] [--only kill,pause,...] [--rate R] [--log FILE]
"""
import argparse
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "clients"))
import run as clients  # noqa: E402

PARTITIONS = 3
# In one topic acks=all waits for the disks, in the other for three memories: both outlive kill -9.
MODES = {"disk": "1", "memory": "9223372036854775807"}
CONVERGE_LIMIT = 60


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", default=ROOT / "target" / "release" / "ottla", type=pathlib.Path)
    p.add_argument("--seconds", default=60, type=float, help="of faults, in all")
    p.add_argument("--round", default=60, type=float, help="seconds of faults between two checks")
    p.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    p.add_argument("--pace", default=1.5, type=float, help="mean seconds between two faults")
    p.add_argument("--rate", default=4000, type=int, help="records a second, of each of the two clients")
    p.add_argument("--size", default=100, type=int, help="bytes of a record")
    p.add_argument("--only", help="faults, by the names of the functions in faults.py")
    p.add_argument("--one-host", action="store_true", help="no namespaces and no disks of their own, even if permitted")
    p.add_argument("--log", type=pathlib.Path, help="append the summaries there, too")
    p.add_argument("--dir", type=pathlib.Path, help="where the cluster lives [default: a temporary directory]")
    return p.parse_args()


def go_client():
    out = clients.BUILT / "go-chaos"
    if not clients.fresh(out, HERE / "go" / "main.go", HERE / "go" / "go.sum"):
        clients.sh("go", "build", "-o", out, ".", cwd=HERE / "go", timeout=600)
    return out


def in_place(o):
    """Goes on in the Python that has the client, and in namespaces of its own if that is permitted."""
    import nodes
    clients.BUILT.mkdir(parents=True, exist_ok=True)
    python = clients.venv("python", ROOT / "tests" / "clients" / "python" / "requirements.txt")
    go_client()
    if "OTTLA_CHAOS_INSIDE" in os.environ:
        return os.environ["OTTLA_CHAOS_INSIDE"] == "namespaces"
    permitted = not o.one_host and nodes.is_permitted()
    wrap = ["unshare", "--net", "--mount"] if permitted else []
    command = [*wrap, str(python), *sys.argv]
    os.execvpe(command[0], command, {**os.environ, "OTTLA_CHAOS_INSIDE": "namespaces" if permitted else "one host"})


def wait_converged(cluster, slots):
    """Waits until every node, asked on its own, names a leader and three in-sync replicas for every partition."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient
    until, open_nodes, state = time.monotonic() + CONVERGE_LIMIT, list(cluster.nodes), ""
    admins = {i: AdminClient({"bootstrap.servers": cluster.net.client(i), "socket.timeout.ms": 5000, "log_level": 0}) for i in open_nodes}
    while open_nodes:
        i = open_nodes[0]
        try:
            topics = admins[i].list_topics(timeout=5).topics
            states = {slot: topics[slot[0]].partitions[slot[1]] for slot in slots}
            behind = {slot: (p.leader, p.isrs) for slot, p in states.items() if p.leader < 0 or len(p.isrs) < 3}
            state = f"node {i} says {behind}"
            if not behind:
                open_nodes.pop(0)
                continue
        except (KafkaException, KeyError) as error:
            state = f"node {i}: {error!r}"
        if time.monotonic() > until:
            raise AssertionError(f"not converged within {CONVERGE_LIMIT} s after the last fault: {state}")
        time.sleep(0.05)


def create(cluster, topics):
    from confluent_kafka.admin import AdminClient, NewTopic
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
    made = admin.create_topics([NewTopic(name, PARTITIONS, 3, config={"flush.messages": mode}) for name, mode in topics.items()],
                               operation_timeout=30)
    for future in made.values():
        future.result(40)


def delete(cluster, topics):
    from confluent_kafka.admin import AdminClient
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
    for future in admin.delete_topics(list(topics)).values():
        future.result(40)


def play(o, cluster, chance, number, log):
    """One round: topics, clients, faults, everything healed, everything read back. What was wrong, in words."""
    import check
    import faults
    import load
    # Under the same names every time: what a topic of before left must not be taken for the new one's, nor the other way round.
    topics = dict(MODES)
    slots = [(topic, partition) for topic in topics for partition in range(PARTITIONS)]
    began, found, wrong = time.monotonic(), check.new_found(), []
    create(cluster, topics)
    writers = [load.Librdkafka(cluster.bootstrap, 1, slots, o.rate, o.size),
               load.FranzGo(go_client(), cluster.bootstrap, 2, slots, o.rate, o.size, log)]
    books = [writer.book for writer in writers]
    done = faults.Faults(cluster, chance, o.only and o.only.split(","))
    try:
        done.run(o.round, o.pace)
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise
    healed = time.monotonic()
    try:
        wait_converged(cluster, slots)
        done.counts["converged in ms"] = int((time.monotonic() - healed) * 1000)
        for writer in writers:
            if left := writer.finish(60):
                wrong.append(f"{writer.name}: not everything was acknowledged within 60 s after the last fault ({left})")
        for book in books:
            wrong += book.errors[:10]
        wait_converged(cluster, slots)
        wrong += check.records(books, slots, check.read_by_librdkafka(cluster.bootstrap, slots), found)
        again = check.new_found()
        wrong += check.records(books, slots, check.read_by_franz_go(go_client(), cluster.bootstrap, slots), again)
        wrong += check.replicas(cluster, slots)
    except AssertionError as error:
        wrong.append(str(error))
        for writer in writers:
            writer.finish(1)
    cluster.check_alive()
    wrong += cluster.deaths
    cluster.deaths.clear()
    counts = Counter(done.counts, acked=sum(book.acked for book in books), failed=sum(book.failed for book in books), **found)
    gaps = ", ".join(f"{book.name} {book.gap_max:.1f} s until {book.gap_end}" for book in books)
    say(log, f"round {number}: {summary(counts)}; longest without an acknowledgement: {gaps}; {time.monotonic() - began:.0f} s")
    if not wrong:
        delete(cluster, topics)
    return counts, wrong


def summary(counts):
    results = ["acked", "failed", "lost", "dup", "reordered", "moved", "gap", "foreign"]
    skip = {*results, "read"}
    made = ", ".join(f"{name} {count}" for name, count in counts.items() if name not in skip and count)
    return f"{made}; {', '.join(f'{name} {counts[name]}' for name in results)}"


def say(log, line):
    print(line, flush=True)
    log.write(line.encode() + b"\n")
    log.flush()


def main():
    o = arguments()
    has_namespaces = in_place(o)
    import can_see
    import nodes
    can_see.main()
    directory = o.dir or pathlib.Path(tempfile.mkdtemp(prefix="ottla-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    log, chance, totals, wrong, number = open(o.log or directory / "chaos.log", "ab"), random.Random(o.seed), Counter(), [], 0
    net = nodes.Namespaces() if has_namespaces else nodes.OneHost()
    say(log, f"seed {o.seed}, cluster in {directory}"
        + ("" if has_namespaces else "; one host: no cuts of the network and no full disks (namespaces and mounts need root)"))
    cluster = nodes.Cluster(o.bin.resolve(), directory, net, has_namespaces, {})
    began, ended = time.monotonic(), False
    for which in (signal.SIGINT, signal.SIGTERM):
        signal.signal(which, signal.default_int_handler)
    try:
        cluster.start()
        while not wrong and not ended:
            number += 1
            counts, wrong = play(o, cluster, chance, number, log)
            counts.pop("converged in ms", None)
            totals.update(counts)
            ended = number * o.round >= o.seconds
    except KeyboardInterrupt:
        pass
    finally:
        cluster.end()
    say(log, f"in all: {summary(totals)}; {number} rounds, {time.monotonic() - began:.0f} s, seed {o.seed}")
    for line in wrong:
        say(log, f"WRONG  {line}")
    if wrong:
        # The disks of the nodes are mounted in this process's namespace only.
        if has_namespaces:
            for i in cluster.nodes:
                shutil.copytree(directory / f"n{i}", directory / f"kept{i}", ignore=shutil.ignore_patterns("filler", "lost+found"))
        print(f"the nodes' logs and data are in {directory}")
        sys.exit(1)
    if has_namespaces:
        for i in cluster.nodes:
            nodes.sh("umount", directory / f"n{i}")
    if not o.dir:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
