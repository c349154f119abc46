"""A worker of the request queue. An answer takes long; meanwhile its partition is paused, and the worker goes on polling.

    a request arrives -> pause its partition -> a thread asks the model -> the reply is acknowledged -> commit -> resume

Kafka takes a consumer that does not poll for `max.poll.interval.ms` for dead, and gives its partitions to another, which would do the same
work again. Polling while paused shows that this one lives, and brings the rebalances in which it hands partitions over properly.
"""
import argparse
import concurrent.futures
import json
import os
import signal
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from model import answer
from queue_topics import DEAD, REPLIES, REQUESTS, make_topics


class Job:
    """One request: first the model works on it, then its outcome is sent, then that is acknowledged."""

    def __init__(self, message, behind):
        self.message, self.behind = message, behind
        self.at = (message.topic(), message.partition())
        self.future = None
        self.began = None           # when a thread was free for it
        self.unacknowledged = None  # how many records of the outcome; None before it is sent

    @property
    def done(self):
        return self.unacknowledged == 0

    def __str__(self):
        return f"partition {self.at[1]}: {self.message.key().decode()}"


class Worker:
    def __init__(self, o):
        self.name, self.options = o.name, o
        self.jobs = {}         # (topic, partition) -> Job: one at a time, for the order of a conversation
        self.assigned = set()  # (topic, partition)
        self.paused = set()
        self.uncommitted = {}  # (topic, partition) -> offset
        self.answered = 0
        self.stopping = False
        self.interrupt = threading.Event()
        self.threads = concurrent.futures.ThreadPoolExecutor(o.slots)
        make_topics(o.bootstrap)
        self.producer = Producer({"bootstrap.servers": o.bootstrap, "enable.idempotence": True, "log_level": 2})
        self.consumer = Consumer({
            "bootstrap.servers": o.bootstrap, "group.id": "llm.workers", "client.id": o.name, "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 1000, "max.poll.interval.ms": o.max_poll_interval_ms,
            "fetch.wait.max.ms": 100,  # a resumed partition waits for the fetch under way to end
            "log_level": 2, "error_cb": self.on_error, "on_commit": self.on_commit})

    def run(self):
        """Until SIGTERM or Ctrl-C: then nothing new is begun, what is under way is finished, and the group is left."""
        for sort in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sort, lambda *_: setattr(self, "stopping", True))
        self.consumer.subscribe([REQUESTS], on_assign=self.on_assign, on_revoke=self.on_revoke, on_lost=self.on_lost)
        self.say("started")
        try:
            while not self.stopping or self.jobs:
                self.pause_and_resume()
                message = self.consumer.poll(0.05)
                if message is not None and not message.error():
                    self.begin(message)
                elif message is not None and not message.error().retriable():
                    self.say(f"broker: {message.error().str()}")  # such as _MAX_POLL_EXCEEDED: the next poll joins again
                if self.stopping:
                    self.drop_what_waits(self.assigned)
                self.advance()
            self.consumer.close()
            self.say(f"stopped after {self.answered} requests")
        finally:
            self.interrupt.set()  # a thread at work would keep the process alive

    # ---- a request's way -------------------------------------------------------------------------------------------------

    def begin(self, message):
        """Takes a request; where all slots are taken, it waits for one here, so that a slot that becomes free is never idle."""
        job = Job(message, self.waiting(message))
        self.jobs[job.at] = job
        job.future = self.threads.submit(self.work, job)

    def work(self, job):
        """On a thread of its own. It has the model's time; all that concerns Kafka stays with the polling thread."""
        job.began = time.monotonic()
        self.say(f"{job} begins; {job.behind} wait behind it")
        return answer(json.loads(job.message.value()), self.options.seconds_per_word, self.interrupt)

    def drop_what_waits(self, partitions):
        """Requests that have no slot yet are left to whoever gets their partitions: they are not committed."""
        for at in partitions & set(self.jobs):
            if self.jobs[at].future.cancel():
                del self.jobs[at]

    def advance(self):
        self.producer.poll(0)  # calls on_delivery
        for at, job in list(self.jobs.items()):
            if job.unacknowledged is None and job.future.done():
                self.send_outcome(job)
            if job.done:
                del self.jobs[at]
                self.uncommitted[at] = job.message.offset() + 1
                self.answered += 1
                self.say(f"{job} answered in {time.monotonic() - job.began:.1f} s")
        self.commit()

    def send_outcome(self, job):
        """The reply; and if it is an error, also a dead letter, for whoever runs the queue. The client is not left waiting."""
        error, message = job.future.exception(), job.message
        headers = dict(message.headers() or [])
        about = [("correlation-id", headers.get("correlation-id")), ("worker", self.name.encode())]
        if error:
            why = [("exception", type(error).__name__), ("reason", str(error)), ("origin.topic", message.topic()),
                   ("origin.partition", str(message.partition())), ("origin.offset", str(message.offset()))]
            records = [(DEAD, message.value(), about + why), (REPLIES, None, about + [("error", f"{type(error).__name__}: {error}")])]
        else:
            records = [(REPLIES, job.future.result(), about)]
        job.unacknowledged = len(records)
        for topic, value, headers in records:
            self.producer.produce(topic, key=message.key(), value=value, headers=headers, on_delivery=lambda e, _: self.on_delivery(job, e))

    def on_delivery(self, job, error):
        if error:  # after minutes of trying: end, uncommitted, and let another worker do it
            raise SystemExit(f"{self.name}: a reply was not acknowledged: {error.str()}")
        job.unacknowledged -= 1

    def commit(self):
        if self.uncommitted:
            offsets = [TopicPartition(*at, offset) for at, offset in self.uncommitted.items()]
            self.uncommitted.clear()
            self.consumer.commit(offsets=offsets, asynchronous=True)

    def on_commit(self, error, partitions):
        """A commit that failed (the broker is away, a rebalance is under way) is repeated, unless a later one is waiting."""
        for p in partitions:
            if (error or p.error) and (p.topic, p.partition) in self.assigned:
                self.uncommitted.setdefault((p.topic, p.partition), p.offset)

    # ---- pause and resume ------------------------------------------------------------------------------------------------

    def pause_and_resume(self):
        """Paused are the partitions of which a request is here; all of them when nothing new may begin."""
        wanted = set(self.assigned) if self.stopping else self.assigned & set(self.jobs)
        self.consumer.pause([TopicPartition(*at) for at in wanted - self.paused])
        self.consumer.resume([TopicPartition(*at) for at in (self.paused - wanted) & self.assigned])
        self.paused = wanted

    # ---- partitions come and go: with cooperative-sticky only those that move ---------------------------------------------

    def on_assign(self, _, partitions):
        if not partitions:
            return
        self.assigned |= {(p.topic, p.partition) for p in partitions}
        self.say(f"assigned {numbers(partitions)}, now {len(self.assigned)} partitions")

    def on_revoke(self, _, partitions):
        """What is under way in them is finished first, if that is soon; a long answer is left to the next worker, from its start."""
        leaving = {(p.topic, p.partition) for p in partitions}
        self.drop_what_waits(leaving)
        deadline = time.monotonic() + self.options.grace
        while leaving & set(self.jobs) and time.monotonic() < deadline:
            self.producer.poll(0.05)
            self.advance()
        done = [TopicPartition(*at, self.uncommitted.pop(at)) for at in leaving & set(self.uncommitted)]
        try:
            if done:
                self.consumer.commit(offsets=done, asynchronous=False)
        except KafkaException as error:
            self.say(f"not committed, so it will be answered twice: {error.args[0].str()}")
        self.let_go(leaving, f"gave back {numbers(partitions)}")

    def on_lost(self, _, partitions):
        self.let_go({(p.topic, p.partition) for p in partitions}, f"lost {numbers(partitions)}")

    def let_go(self, leaving, text):
        self.assigned -= leaving
        self.paused -= leaving
        for at in leaving:
            self.uncommitted.pop(at, None)
            self.jobs.pop(at, None)  # its answer, if it comes, goes nowhere
        self.say(f"{text}, now {len(self.assigned)} partitions")

    # ---- what a person sees ----------------------------------------------------------------------------------------------

    def on_error(self, error):
        if error.fatal():
            raise KafkaException(error)
        self.say(f"broker: {error.str()}")

    def waiting(self, message):
        """The lag behind this request, in its partition."""
        at = TopicPartition(message.topic(), message.partition())
        _, end = self.consumer.get_watermark_offsets(at, cached=True)
        return max(end - message.offset() - 1, 0)

    def say(self, text):
        sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {self.name:<10} {text}\n")  # one write: threads speak, too
        sys.stdout.flush()


def numbers(partitions):
    return ",".join(str(p) for p in sorted(p.partition for p in partitions)) 


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bootstrap", default="localhost:9092", metavar="HOST:PORT")
    p.add_argument("--name", default=f"worker-{os.getpid()}")
    p.add_argument("--slots", type=int, default=2, help="requests that are answered at a time (2)")
    p.add_argument("--seconds-per-word", type=float, default=0.1, metavar="S", help="how slow the model is (0.1)")
    p.add_argument("--grace", type=float, default=5, metavar="S", help="how long a partition that moves waits for its answer (5)")
    p.add_argument("--max-poll-interval-ms", type=int, default=10_000, metavar="MS",
                   help="the time between two polls, not the time for an answer (10000)")
    Worker(p.parse_args()).run()


if __name__ == "__main__":
    main()
