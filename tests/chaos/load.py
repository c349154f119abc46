"""Clients that write numbered records under faults, and the book of what was acknowledged.

A value is (producer, number), 16 bytes, and padding. Number n goes to slot n mod slots; a slot is a partition of one of the topics."""
import array
import struct
import subprocess
import threading
import time

from confluent_kafka import KafkaException, Producer

VALUE = struct.Struct(">qq")
ACK = struct.Struct(">qq")  # of the Go client: number, offset
NOT_ACKED, FAILED = -1, -2


class Book:
    """Offsets by number, of one producer."""

    def __init__(self, name, producer, slots):
        self.name, self.producer, self.slots = name, producer, slots
        self.offsets = array.array("q")
        self.acked = self.failed = 0
        self.errors = []
        self.last_ack, self.gap_max, self.gap_end = time.monotonic(), 0.0, ""

    def note(self, number, offset):
        if len(self.offsets) <= number:
            self.offsets.extend([NOT_ACKED] * (number + 1024 - len(self.offsets)))
        self.offsets[number] = offset
        if offset >= 0:
            self.acked += 1
            now = time.monotonic()
            if now - self.last_ack > self.gap_max:
                self.gap_max, self.gap_end = now - self.last_ack, time.strftime("%H:%M:%S", time.gmtime())
            self.last_ack = now
        else:
            self.failed += 1


class Librdkafka:
    """confluent-kafka in a thread of this process."""

    name = "librdkafka"

    def __init__(self, bootstrap, producer, slots, rate, size):
        self.book = Book(self.name, producer, slots)
        self.slots, self.rate, self.padding = slots, rate, b"x" * (size - VALUE.size)
        self.client = Producer({
            "bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, "compression.type": "lz4",
            # A record is either acknowledged or still tried: nothing is given up.
            "message.timeout.ms": 0, "retry.backoff.ms": 50, "retry.backoff.max.ms": 500, "socket.timeout.ms": 6000,
            "request.timeout.ms": 5000, "reconnect.backoff.max.ms": 500, "topic.metadata.refresh.fast.interval.ms": 100,
            "queue.buffering.max.messages": 200_000, "log_level": 0, "error_cb": self._on_error})
        self.stopping = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _on_error(self, error):
        if error.fatal():
            self.book.errors.append(f"{self.name}: fatal: {error}")

    def _on_delivery(self, error, message):
        number = VALUE.unpack_from(message.value())[1]
        if error:
            self.book.errors.append(f"{self.name}: {number}: {error}")
            self.book.note(number, FAILED)
        else:
            self.book.note(number, message.offset())

    def _run(self):
        number, began = 0, time.monotonic()
        while not self.stopping:
            due = (time.monotonic() - began) * self.rate
            while number < due and not self.stopping:
                topic, partition = self.slots[number % len(self.slots)]
                try:
                    self.client.produce(topic, VALUE.pack(self.book.producer, number) + self.padding, partition=partition,
                                        on_delivery=self._on_delivery)
                except BufferError:
                    # It waits for the cluster, and so do we: what was not sent in time is not made up for.
                    began, due = time.monotonic() - number / self.rate, number
                    break
                except KafkaException as error:
                    self.book.errors.append(f"{self.name}: {error}")
                    return
                number += 1
            try:
                self.client.poll(0.01)
            except KafkaException as error:  # a fatal one
                self.book.errors.append(f"{self.name}: {error}")
                return

    def abandon(self):
        self.stopping = True

    def finish(self, limit):
        """Sends nothing more; waits until everything is acknowledged. What is not then, is counted."""
        self.stopping = True
        self.thread.join()
        return self.client.flush(limit)


class FranzGo:
    """The Go client beside this file, as a process."""

    name = "franz-go"

    def __init__(self, program, bootstrap, producer, slots, rate, size, log):
        self.book = Book(self.name, producer, slots)
        topics = list(dict.fromkeys(topic for topic, _ in slots))
        self.process = subprocess.Popen(
            [program, "produce", bootstrap, ",".join(topics), str(len(slots) // len(topics)), str(producer), str(rate), str(size)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        rest = b""
        while chunk := self.process.stdout.read1(1 << 16):
            rest += chunk
            whole = len(rest) - len(rest) % ACK.size
            for number, offset in ACK.iter_unpack(rest[:whole]):
                self.book.note(number, offset)
            rest = rest[whole:]

    def abandon(self):
        self.process.kill()

    def finish(self, limit):
        self.process.stdin.close()
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.thread.join()
        if code:
            self.book.errors.append(f"{self.name}: ended with {code}")
        return code != 0
