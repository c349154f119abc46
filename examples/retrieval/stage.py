"""What every stage of the pipeline does alike: take a batch of records, handle each, write the outcome, and only then commit.

A record that cannot be handled goes to the stage's retry topic, and comes back from there after a while. Its headers count the attempts
and say why. After the last attempt it goes to the stage's dead-letter topic, where a person looks at it. Nothing is ever dropped.
"""
import argparse
import signal
import time
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from topics import ends, make_topics


@dataclass
class Record:
    """A record as a handler sees it. `attempt` counts from 1; topic, partition and offset are those of its first attempt."""

    key: bytes
    value: bytes
    attempt: int
    topic: str
    partition: int
    offset: int

    @staticmethod
    def of(message):
        headers = {name: value.decode() for name, value in message.headers() or []}
        return Record(message.key(), message.value() or b"", int(headers.get("attempts", 0)) + 1,
                      headers.get("origin.topic", message.topic()),
                      int(headers.get("origin.partition", message.partition())),
                      int(headers.get("origin.offset", message.offset())))


def options(description):
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--bootstrap", default="localhost:9092", metavar="HOST:PORT")
    p.add_argument("--instance", metavar="NAME", help="a name for this process: one that restarts under its name within the session "
                   "timeout goes on with its partitions at once (static membership)")
    p.add_argument("--batch", type=int, default=20, help="records between two commits, at most")
    p.add_argument("--attempts", type=int, default=5, help="how often a record is tried before it is a dead letter")
    p.add_argument("--retry-after", type=float, default=2.0, metavar="SECONDS")
    return p


class Stage:
    """One process of one stage. `name` is its consumer group; it reads `source`, and writes to the topic `sink` or by itself."""

    def __init__(self, name, source, sink, chosen):
        self.name, self.source, self.sink, self.options = name, source, sink, chosen
        self.retry, self.dead = f"{name}.retry", f"{name}.dead"
        self.counts = {"done": 0, "retried": 0, "dead": 0}
        self.finished = {}  # (topic, partition) -> the offset to commit
        self.waiting = {}   # (topic, partition) of the retry topic, paused -> when to resume it
        self.refused = []
        self.stopping = False
        self.said, self.said_at = None, 0.0
        self.admin = AdminClient({"bootstrap.servers": chosen.bootstrap, "log_level": 2})
        # A little more than what other producers send at most (1,000,000), so that a retried record has room for its headers.
        self.producer = Producer({"bootstrap.servers": chosen.bootstrap, "enable.idempotence": True, "linger.ms": 5,
                                  "compression.type": "zstd", "message.max.bytes": 1_040_000, "log_level": 2})
        self.consumer = Consumer({
            "bootstrap.servers": chosen.bootstrap, "group.id": name, "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000, "log_level": 2, "error_cb": self.on_error,
            **({"group.instance.id": chosen.instance} if chosen.instance else {})})

    def run(self, handle, write=None):
        """Until SIGTERM or Ctrl-C. `handle(record)` returns a list of outcomes or raises; `write(outcomes)` returns once they are safe."""
        for sort in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sort, lambda *_: setattr(self, "stopping", True))
        make_topics(self.admin, [self.source, self.retry, self.dead] + ([self.sink] if self.sink else []))
        self.consumer.subscribe([self.source, self.retry], on_assign=self.on_assign, on_revoke=self.on_revoke, on_lost=self.on_lost)
        while not self.stopping:
            self.resume_what_is_due()
            outcomes = []
            for message in self.consumer.consume(self.options.batch, timeout=0.2):
                if message.error():
                    # A topic that was made a moment ago may not be known to every broker yet.
                    if not message.error().retriable() and message.error().code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise KafkaException(message.error())
                elif self.may_handle(message):
                    outcomes += self.outcomes_of(handle, message)
                    self.finished[message.topic(), message.partition()] = message.offset() + 1
            (write or self.send)(outcomes)
            self.await_acknowledgements()
            self.commit()
            self.report()
        self.consumer.close()
        self.say(f"stopped: {self.counts['done']} done, {self.counts['retried']} to be retried, {self.counts['dead']} dead letters")

    # ---- outcomes --------------------------------------------------------------------------------------------------------

    def outcomes_of(self, handle, message):
        record = Record.of(message)
        try:
            outcomes = handle(record)
            self.counts["done"] += 1
            return outcomes
        except Exception as error:  # whatever it is, this record must not stop those behind it
            last = record.attempt >= self.options.attempts
            self.counts["dead" if last else "retried"] += 1
            headers = {"stage": self.name, "attempts": record.attempt, "reason": str(error)[:500], "exception": type(error).__name__,
                       "origin.topic": record.topic, "origin.partition": record.partition, "origin.offset": record.offset}
            if not last:
                headers["retry.at"] = time.time() + self.options.retry_after
            self.produce(self.dead if last else self.retry, record.key, message.value(), headers)
            return []

    def send(self, outcomes):
        for key, value in outcomes:
            self.produce(self.sink, key, value)

    def produce(self, topic, key, value, headers=None):
        headers = [(name, str(text).encode()) for name, text in (headers or {}).items()]
        self.producer.produce(topic, key=key, value=value, headers=headers, on_delivery=self.on_delivery)

    def on_delivery(self, error, message):
        if error:
            self.refused.append(f"{message.topic()}: {error.str()}")

    def await_acknowledgements(self):
        """All that was produced is on the broker's disk, or this process ends here, before the commit: what it did comes again."""
        left = self.producer.flush(150)
        if left or self.refused:
            raise SystemExit(f"{self.name}: output not acknowledged, nothing committed: {(self.refused or ['timed out'])[0]}")

    def commit(self):
        if not self.finished:
            return
        try:
            offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in self.finished.items()]
            for done in self.consumer.commit(offsets=offsets, asynchronous=False):
                if not done.error:
                    del self.finished[done.topic, done.partition]
        except KafkaException as error:
            # The broker is away, or a rebalance is under way. The outcomes are safe; the offsets stay in `finished` for the next round.
            self.say(f"commit put off: {error.args[0].str()}")

    # ---- retries that are not due ----------------------------------------------------------------------------------------

    def may_handle(self, message):
        """Whether this record's time has come. If not, its partition rests, and so do the records behind it: all of them wait equally
        long, so none of those is due earlier. This is why the delay does not grow with the attempts."""
        at = (message.topic(), message.partition())
        if at in self.waiting:
            return False
        due = float(dict(message.headers() or []).get("retry.at", b"0"))
        if due <= time.time():
            return True
        here = TopicPartition(*at, message.offset())
        self.consumer.pause([here])
        self.consumer.seek(here)
        self.waiting[at] = due
        return False

    def resume_what_is_due(self):
        due = [at for at, when in self.waiting.items() if when <= time.time()]
        for at in due:
            del self.waiting[at]
        self.consumer.resume([TopicPartition(*at) for at in due])

    # ---- partitions come and go ------------------------------------------------------------------------------------------

    def on_assign(self, _, partitions):
        if partitions:
            self.say(f"assigned {names(partitions)}")

    def on_revoke(self, _, partitions):
        self.commit()
        self.let_go(partitions)
        self.say(f"gave back {names(partitions)}")

    def on_lost(self, _, partitions):
        self.let_go(partitions)  # another process has them; it repeats what was not committed
        self.say(f"lost {names(partitions)}")

    def let_go(self, partitions):
        for p in partitions:
            self.finished.pop((p.topic, p.partition), None)
            self.waiting.pop((p.topic, p.partition), None)

    # ---- what a person sees ----------------------------------------------------------------------------------------------

    def on_error(self, error):
        if error.fatal():
            raise KafkaException(error)
        self.say(f"broker: {error.str()}")

    def report(self):
        """Counts and lag, once a second while they change."""
        if time.monotonic() - self.said_at >= 1 and self.counts != self.said:
            self.said, self.said_at = dict(self.counts), time.monotonic()
            counts = "  ".join(f"{name} {count:>5}" for name, count in self.counts.items())
            self.say(f"{counts}  |  {self.lag()}")

    def lag(self):
        """Of the partitions that this process has: from what is committed to the end. topics.py shows that of all processes together."""
        behind = {self.source: 0, self.retry: 0}
        try:
            # The ends come over a connection of their own: on the consumer's, the answer would wait behind a fetch that waits for records.
            end = ends(self.admin, behind)
            for done in self.consumer.committed(self.consumer.assignment(), timeout=3):
                offset = max(done.offset, 0)
                behind[done.topic] += end.get((done.topic, done.partition), offset) - offset
        except KafkaException as error:
            return f"lag unknown: {error.args[0].str()}"
        return "lag: " + "  ".join(f"{topic} {count:>4}" for topic, count in behind.items())

    def say(self, text):
        print(f"{time.strftime('%H:%M:%S')}  {self.name:<6} {text}", flush=True)


def names(partitions):
    by_topic = {}
    for p in partitions:
        by_topic.setdefault(p.topic, []).append(str(p.partition))
    return "  ".join(f"{topic} {','.join(sorted(numbers))}" for topic, numbers in sorted(by_topic.items()))
