"""What is done to the nodes. A fault begins, lasts for a while, and is healed; two may last at the same time."""
import time
from collections import Counter


class Faults:
    def __init__(self, cluster, chance, only=None):
        self.cluster, self.chance, self.counts = cluster, chance, Counter()
        self.diary = open(cluster.dir / "faults.log", "a", buffering=1)
        self.lasting = []  # (when it is healed, what heals it, the nodes it concerns)
        self.kinds = [(5, self.kill), (2, self.kill_two), (2, self.kill_all), (3, self.pause), (2, self.stop), (1, self.roll),
                      (1, self.roll_by_kill)]
        if hasattr(cluster.net, "cut"):
            self.kinds += [(2, self.isolate), (2, self.cut_pair), (2, self.cut_one_way)]
        if cluster.has_disks:
            self.kinds += [(2, self.fill)]
        if only:
            self.kinds = [(weight, kind) for weight, kind in self.kinds if kind.__name__ in only]

    def run(self, seconds, pace):
        """Draws faults for so long, with about `pace` seconds between two beginnings; heals all of them in the end."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._heal(time.monotonic())
            self.cluster.check_alive()
            # Two at a time now and then: more often, and there would hardly be a majority to go on with.
            if not self.lasting or len(self.lasting) == 1 and self.chance.random() < 0.4:
                weights, kinds = zip(*self.kinds)
                self.chance.choices(kinds, weights)[0]()
            pause = self.chance.expovariate(1 / pace)
            next_heal = min((at for at, _, _ in self.lasting), default=until) - time.monotonic()
            time.sleep(max(0.0, min(pause, next_heal, until - time.monotonic())))
        self._heal(float("inf"))
        for node in self.cluster.nodes.values():
            node.start()
        self.cluster.check_alive()

    def _heal(self, now):
        for entry in sorted((entry for entry in self.lasting if entry[0] <= now), key=lambda entry: entry[0]):
            self.lasting.remove(entry)
            entry[1]()
            self._note(f"healed {[node.id for node in entry[2]]}")

    def _last(self, kind, seconds, heal, nodes):
        self._note(f"{kind} {[node.id for node in nodes]} for {seconds:.1f} s")
        self.lasting.append((time.monotonic() + seconds, heal, nodes))

    def _note(self, text):
        now = time.time()
        self.diary.write(f"{time.strftime('%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03} {text}\n")

    def _whole(self):
        """Nodes that nothing is done to."""
        busy = {node.id for _, _, nodes in self.lasting for node in nodes}
        return [node for node in self.cluster.nodes.values() if node.id not in busy]

    def _some(self, count):
        whole = self._whole()
        return self.chance.sample(whole, count) if len(whole) >= count else []

    def _kill(self, nodes):
        for node in nodes:
            node.kill()
            self.counts["kill -9"] += 1

    def kill(self):
        for node in self._some(1):
            self._kill([node])
            self._last("kill", self.chance.choice([0, 0, 0.5, 2, 5]), node.start, [node])

    def kill_two(self):
        nodes = self._some(2)
        if nodes:
            self._kill(nodes)
            for node in nodes:
                self._last("kill", self.chance.uniform(0, 3), node.start, [node])

    def kill_all(self):
        nodes = self._some(3)
        if nodes:
            self.chance.shuffle(nodes)
            self._kill(nodes)
            self.counts["all at once"] += 1
            for node in nodes:
                self._last("kill", self.chance.uniform(0, 2), node.start, [node])

    def pause(self):
        for node in self._some(1):
            node.pause()
            self.counts["SIGSTOP"] += 1
            self._last("pause", self.chance.choice([0.1, 0.5, 2, 4, 8]), node.resume, [node])

    def stop(self):
        for node in self._some(1):
            node.stop()
            self.counts["SIGTERM"] += 1
            self._last("stop", self.chance.uniform(0, 3), node.start, [node])

    def _roll(self, end):
        nodes = self._some(3)
        if nodes:
            self._note("rolling")
        for node in nodes:
            end(node)
            node.start()
            # A careful operator waits for it.
            node.ready.wait(20)
        self.counts["rolling"] += bool(nodes)

    def roll(self):
        def end(node):
            node.stop()
            self.counts["SIGTERM"] += 1
        self._roll(end)

    def roll_by_kill(self):
        self._roll(lambda node: self._kill([node]))

    def isolate(self):
        for node in self._some(1):
            net = self.cluster.net
            net.isolate(node.id, True)
            self.counts["cut off"] += 1
            self._last("cut off", self.chance.choice([0.5, 3, 6, 10]), lambda: net.isolate(node.id, False), [node])

    def _cut(self, ways, nodes):
        net = self.cluster.net
        for i, j in ways:
            net.cut(i, j, True)

        def heal():
            for i, j in ways:
                net.cut(i, j, False)

        self._last(f"cut {ways}", self.chance.choice([0.5, 3, 6, 10]), heal, nodes)

    def cut_pair(self):
        nodes = self._some(2)
        if nodes:
            a, b = (node.id for node in nodes)
            self._cut([(a, b), (b, a)], nodes)
            self.counts["cut between two"] += 1

    def cut_one_way(self):
        nodes = self._some(2)
        if nodes:
            self._cut([(nodes[0].id, nodes[1].id)], nodes)
            self.counts["cut one way"] += 1

    def fill(self):
        for node in self._some(1):
            node.fill()
            self.counts["disk full"] += 1
            self._last("disk full", self.chance.choice([2, 5, 10]), node.make_room, [node])
