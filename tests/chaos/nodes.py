"""Three real processes, each with a network namespace and a small disk of its own where that is permitted."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

DISK_MIB = 2048
SETTINGS = {
    "broker.rack": "r{id}",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "controller.listener.names": "CONTROLLER",
    # Small, so that segments roll and space is asked for again and again.
    "log.segment.bytes": "2097152",
    "metadata.log.max.record.bytes.between.snapshots": "20971520",
}


def sh(*command):
    subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True)


def is_permitted():
    """Whether this process may make namespaces and mount file systems."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode == 0


class OneHost:
    """All nodes on this machine's loopback: no cuts."""

    def __init__(self):
        held = [[socket.create_server(("127.0.0.1", 0)) for _ in range(2)] for _ in range(3)]
        self.ports = [[s.getsockname()[1] for s in pair] for pair in held]
        for pair in held:
            for s in pair:
                s.close()

    def client(self, i):
        return f"127.0.0.1:{self.ports[i - 1][0]}"

    def peer(self, i):
        return f"127.0.0.1:{self.ports[i - 1][1]}"

    def prefix(self, _):
        return []


class Namespaces:
    """A namespace per node, each on a wire of its own to this one, which forwards between them. It wants a network namespace and a
    mount namespace of our own (`unshare --net --mount`): all of it is gone when the last process is."""

    def __init__(self):
        sh("mount", "--make-rprivate", "/")
        os.makedirs("/run/netns", exist_ok=True)
        sh("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
        sh("ip", "link", "set", "lo", "up")
        pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for i in (1, 2, 3):
            inside = ["ip", "netns", "exec", f"n{i}"]
            sh("ip", "netns", "add", f"n{i}")
            sh("ip", "link", "add", f"wire{i}", "type", "veth", "peer", "name", "eth0", "netns", f"n{i}")
            sh("ip", "addr", "add", f"10.99.{i}.254/24", "dev", f"wire{i}")
            sh("ip", "link", "set", f"wire{i}", "up")
            sh(*inside, "ip", "addr", "add", f"10.99.{i}.1/24", "dev", "eth0")
            sh(*inside, "ip", "link", "set", "eth0", "up")
            sh(*inside, "ip", "link", "set", "lo", "up")
            sh(*inside, "ip", "route", "add", "default", "via", f"10.99.{i}.254")

    def client(self, i):
        return f"10.99.{i}.1:9092"

    def peer(self, i):
        return f"10.99.{i}.1:9093"

    def prefix(self, i):
        return ["ip", "netns", "exec", f"n{i}"]

    def isolate(self, i, on):
        """Cuts a node off from everybody, clients too: what is sent is gone, and nobody is told."""
        sh("ip", "link", "set", f"wire{i}", "down" if on else "up")
        if not on:
            # The address stays; the route went with the link.
            subprocess.run(["ip", "route", "replace", f"10.99.{i}.0/24", "dev", f"wire{i}"], capture_output=True)

    def cut(self, i, j, on):
        """Drops what node i sends to node j: one way only."""
        sh("ip", "rule", "add" if on else "del", "from", f"10.99.{i}.1", "to", f"10.99.{j}.1", "blackhole")


class Node:
    def __init__(self, cluster, i):
        self.cluster, self.id = cluster, i
        self.home = cluster.dir / f"n{i}"
        self.data = self.home / "data"
        self.process = self.ready = None
        self.paused = False
        self.home.mkdir(parents=True, exist_ok=True)
        if cluster.has_disks:
            image = cluster.dir / f"n{i}.img"
            with open(image, "wb") as file:
                file.truncate(DISK_MIB << 20)
            sh("mkfs.ext4", "-q", image)
            sh("mount", "-o", "loop", image, self.home)

    def start(self):
        """Starts the process; does not wait for it."""
        if self.process:
            return
        net, settings = self.cluster.net, dict(SETTINGS, **self.cluster.settings)
        settings["node.id"] = str(self.id)
        settings["listeners"] = f"PLAINTEXT://{net.client(self.id)},CONTROLLER://{net.peer(self.id)}"
        settings["controller.quorum.voters"] = ",".join(f"{i}@{net.peer(i)}" for i in (1, 2, 3))
        command = [*net.prefix(self.id), self.cluster.binary, "serve", "--data-dir", self.data]
        for name, value in settings.items():
            command += ["--set", f"{name}={value.format(id=self.id)}"]
        with open(self.cluster.dir / f"n{self.id}.log", "ab") as log:
            self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        self.ready = threading.Event()
        threading.Thread(target=self._read, args=(self.process, self.ready), daemon=True).start()

    @staticmethod
    def _read(process, ready):
        if process.stdout.readline():
            ready.set()

    def kill(self):
        self._end(signal.SIGKILL)

    def stop(self):
        """SIGTERM; the seconds that it took."""
        began = time.monotonic()
        self._end(signal.SIGTERM)
        return time.monotonic() - began

    def _end(self, which):
        if self.process:
            self.send(which)
            if self.process.wait(60) not in (0, -which):
                self.cluster.deaths.append(f"node {self.id} ended with {self.process.returncode}")
            self.process.stdout.close()
            self.process, self.paused = None, False

    def send(self, which):
        # Dead already: `Cluster.check_alive` says so.
        if self.process.poll() is None:
            self.process.send_signal(which)

    def pause(self):
        self.send(signal.SIGSTOP)
        self.paused = True

    def resume(self):
        self.send(signal.SIGCONT)
        self.paused = False

    def fill(self):
        """Takes all the space that its disk has left."""
        free = os.statvfs(self.home)
        with open(self.home / "filler", "wb") as file:
            left = free.f_bfree * free.f_bsize
            step = left
            while step >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, step)
                except OSError:
                    step //= 2

    def make_room(self):
        (self.home / "filler").unlink(missing_ok=True)


class Cluster:
    def __init__(self, binary, directory, net, has_disks, settings):
        self.binary, self.dir, self.net, self.has_disks, self.settings = binary, directory, net, has_disks, settings
        # Processes that ended though nobody asked them to, or otherwise than asked.
        self.deaths = []
        self.nodes = {i: Node(self, i) for i in (1, 2, 3)}

    @property
    def bootstrap(self):
        return ",".join(self.net.client(i) for i in self.nodes)

    def start(self):
        for node in self.nodes.values():
            node.start()
        self.wait_ready(60)

    def wait_ready(self, limit):
        until = time.monotonic() + limit
        for node in self.nodes.values():
            if not node.ready.wait(max(0, until - time.monotonic())):
                raise TimeoutError(f"node {node.id} was not ready within {limit} s")

    def check_alive(self):
        for node in self.nodes.values():
            if node.process and node.process.poll() is not None:
                self.deaths.append(f"node {node.id} died by itself: {node.process.returncode}")
                node.process = None

    def end(self):
        for node in self.nodes.values():
            if node.process:
                node.process.kill()
                node.process.wait()
