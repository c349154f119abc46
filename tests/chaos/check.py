"""What must hold once all is healed: every acknowledged record is there, once, in order, where its acknowledgement said; the replicas are
the same bytes."""
import hashlib
import struct
import subprocess
from collections import Counter

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from load import VALUE

ROW = struct.Struct(">iqqq")  # of the Go client: slot, offset, producer, number
BATCH = struct.Struct(">qi")  # base offset; bytes after these twelve


def read_by_librdkafka(bootstrap, slots):
    """Yields (slot, offset, producer, number) of everything in the topics."""
    number_of = {slot: i for i, slot in enumerate(slots)}
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "chaos-check", "enable.auto.commit": False,
                         "fetch.message.max.bytes": 4 << 20, "enable.partition.eof": False, "log_level": 0})
    try:
        ends = {slot: consumer.get_watermark_offsets(TopicPartition(*slot), timeout=20, cached=False)[1] for slot in slots}
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in slots if ends[topic, partition]])
        left = sum(ends.values())
        while left:
            messages = consumer.consume(min(left, 10_000), timeout=20)
            if not messages:
                raise AssertionError(f"librdkafka: {left} records do not come")
            for message in messages:
                if message.error():
                    continue
                slot = message.topic(), message.partition()
                if message.offset() < ends[slot]:
                    left -= 1
                    yield (number_of[slot], message.offset(), *VALUE.unpack_from(message.value()))
    finally:
        consumer.close()


def read_by_franz_go(program, bootstrap, slots):
    topics = list(dict.fromkeys(topic for topic, _ in slots))
    reader = subprocess.Popen([program, "read", bootstrap, ",".join(topics), str(len(slots) // len(topics))], stdout=subprocess.PIPE)
    rest = b""
    while chunk := reader.stdout.read(ROW.size * 20_000):
        rest += chunk
        whole = len(rest) - len(rest) % ROW.size
        yield from ROW.iter_unpack(rest[:whole])
        rest = rest[whole:]
    if reader.wait():
        raise AssertionError(f"franz-go: the reader ended with {reader.returncode}")


def records(books, slots, rows, found):
    """Compares what was read with the books. `found` counts what is wrong; the return value says where, for the first few."""
    books = {book.producer: book for book in books}
    seen = {producer: bytearray(len(book.offsets) + 1_000_000) for producer, book in books.items()}
    last_number, next_offset, wrong = {}, [0] * len(slots), []

    def complain(kind, text):
        found[kind] += 1
        if len(wrong) < 20:
            wrong.append(f"{kind}: {text}")

    for slot, offset, producer, number in rows:
        where = f"{slots[slot][0]}-{slots[slot][1]}@{offset}: ({producer}, {number})"
        found["read"] += 1
        if offset != next_offset[slot]:
            complain("gap", f"{where}, expected offset {next_offset[slot]}")
        next_offset[slot] = offset + 1
        book = books.get(producer)
        if book is None or not 0 <= number < len(seen[producer]) or number % len(slots) != slot:
            complain("foreign", where)
            continue
        if seen[producer][number]:
            complain("dup", where)
        elif number < last_number.get((slot, producer), -1):
            complain("reordered", f"{where} after {last_number[slot, producer]}")
        seen[producer][number] = 1
        last_number[slot, producer] = max(number, last_number.get((slot, producer), -1))
        if number < len(book.offsets) and book.offsets[number] >= 0 and book.offsets[number] != offset:
            complain("moved", f"{where}, acknowledged at {book.offsets[number]}")
    for producer, book in books.items():
        for number, offset in enumerate(book.offsets):
            if offset >= 0 and not seen[producer][number]:
                topic, partition = slots[number % len(slots)]
                complain("lost", f"({producer}, {number}), acknowledged as {topic}-{partition}@{offset}")
    return wrong


def batches(directory):
    """(base offset, bytes) of every batch in a log's directory. What a segment holds past the next one's base does not exist."""
    files = sorted(directory.glob("*.log"))
    bases = [int(file.stem) for file in files]
    for at, file in enumerate(files):
        limit = bases[at + 1] if at + 1 < len(bases) else float("inf")
        data = file.read_bytes()
        place = 0
        while place + BATCH.size <= len(data):
            base, length = BATCH.unpack_from(data, place)
            if length <= 0 or base >= limit or place + BATCH.size + length > len(data):
                break
            yield base, data[place:place + BATCH.size + length]
            place += BATCH.size + length


def replicas(cluster, slots):
    """Compares the replicas of every partition byte by byte; what differs, in words."""
    wrong = []
    for topic, partition in slots:
        digests = {}
        for i, node in cluster.nodes.items():
            digest, count, last = hashlib.blake2b(), 0, -1
            for base, data in batches(node.data / f"{topic}-{partition}"):
                digest.update(data)
                count, last = count + 1, base
            digests[i] = (count, last, digest.hexdigest()[:12])
        if len(set(digests.values())) != 1:
            wrong.append(f"replicas of {topic}-{partition} differ: {digests}")
    return wrong


def new_found():
    return Counter(lost=0, dup=0, reordered=0, moved=0, gap=0, foreign=0)
