"""The checks are shown histories that are wrong, before they are believed about one that is right."""
import pathlib
import struct
import tempfile

import check
from load import Book

SLOTS = [("t", 0), ("t", 1)]

# (slot, offset, producer, number) as read; numbers 0..5 were acknowledged at offsets 0, 0, 1, 1, 2, 2 of slots 0, 1, 0, 1, 0, 1.
RIGHT = [(0, 0, 1, 0), (1, 0, 1, 1), (0, 1, 1, 2), (1, 1, 1, 3), (0, 2, 1, 4), (1, 2, 1, 5)]
HISTORIES = {
    "right": (RIGHT, {}),
    "the last one is not there": (RIGHT[:-1], {"lost": 1}),
    "one is there twice": ([*RIGHT, (1, 3, 1, 5)], {"dup": 1, "moved": 1}),
    "two have changed places": ([*RIGHT[:2], (0, 1, 1, 4), (1, 1, 1, 3), (0, 2, 1, 2), (1, 2, 1, 5)], {"reordered": 1, "moved": 2}),
    "an offset is skipped": ([*RIGHT[:4], (0, 3, 1, 4), (1, 2, 1, 5)], {"gap": 1, "moved": 1}),
    "nobody sent it": ([*RIGHT, (0, 3, 9, 6)], {"foreign": 1}),
    "it is in another partition": ([*RIGHT, (0, 3, 1, 7)], {"foreign": 1}),
}


def book():
    one = Book("by hand", 1, SLOTS)
    for number in range(6):
        one.note(number, number // 2)
    return one


def batch(base, byte):
    return struct.pack(">qi", base, 8) + bytes([byte]) * 8


class Node:
    def __init__(self, data):
        self.data = data


def replicas_of(folder, contents):
    """What `check.replicas` says of three nodes with these segments, by base offset."""
    nodes = {}
    for i, segments in enumerate(contents, 1):
        directory = folder / str(i) / "t-0"
        directory.mkdir(parents=True)
        for base, data in segments.items():
            (directory / f"{base:020}.log").write_bytes(data)
        nodes[i] = Node(folder / str(i))
    cluster = type("Cluster", (), {"nodes": nodes})
    return check.replicas(cluster, [("t", 0)])


def main():
    for name, (rows, expected) in HISTORIES.items():
        found = check.new_found()
        check.records([book()], SLOTS, iter(rows), found)
        wrong = {kind: count for kind, count in found.items() if count and kind != "read"}
        assert wrong == expected, f"{name}: {wrong}, not {expected}"
    whole = {0: batch(0, 1) + batch(1, 2)}
    same = [whole, {0: batch(0, 1), 1: batch(1, 2)}, {0: batch(0, 1) + batch(1, 9), 1: batch(1, 2)}]
    cases = [(same, 0), ([whole, whole, {0: batch(0, 1)}], 1), ([whole, whole, {0: batch(0, 1) + batch(1, 3)}], 1)]
    for contents, expected in cases:
        with tempfile.TemporaryDirectory() as folder:
            assert len(replicas_of(pathlib.Path(folder), contents)) == expected, contents
