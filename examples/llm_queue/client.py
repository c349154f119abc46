"""Sends requests to the queue and waits for the replies.

    client.py ask "what is a broker?"                      one request, one reply
    client.py load --conversations 6 --turns 4             many at once; each conversation is answered in order
"""
import argparse
import json
import sys
import time
import uuid

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from queue_topics import REPLIES, REQUESTS, make_topics


class Client:
    def __init__(self, bootstrap):
        make_topics(bootstrap)
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, "log_level": 2})
        # Every client reads all replies, from now on, and picks its own: no group, no commits.
        self.replies = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, "log_level": 2})
        found = self.replies.list_topics(REPLIES, timeout=20).topics[REPLIES]
        ends = [(p, self.replies.get_watermark_offsets(TopicPartition(REPLIES, p), timeout=20)[1]) for p in found.partitions]
        self.replies.assign([TopicPartition(REPLIES, p, end) for p, end in ends])
        self.sent = {}  # correlation id -> (conversation, turn, when)

    def send(self, conversation, turn, prompt, words):
        correlation = str(uuid.uuid4())
        self.sent[correlation] = (conversation, turn, time.monotonic())
        self.producer.produce(REQUESTS, key=conversation, value=json.dumps({"prompt": prompt, "words": words}),
                              headers={"correlation-id": correlation})

    def wait(self, seconds):
        """Yields (conversation, turn, seconds, worker, text, error) as replies come. A reply may come twice, if a worker died after it had
        sent it: the second finds its correlation id gone."""
        if self.producer.flush(seconds):
            raise SystemExit("not all requests were acknowledged")
        deadline = time.monotonic() + seconds
        while self.sent and time.monotonic() < deadline:
            message = self.replies.poll(0.2)
            if message is None:
                continue
            if message.error():
                if not message.error().retriable():
                    raise KafkaException(message.error())
                continue
            headers = {name: value.decode() for name, value in message.headers() or [] if value is not None}
            if request := self.sent.pop(headers.get("correlation-id"), None):
                conversation, turn, began = request
                text = (message.value() or b"").decode()
                yield conversation, turn, time.monotonic() - began, headers["worker"], text, headers.get("error")


def ask(client, o):
    client.send(o.conversation, 1, o.prompt, o.words)
    for _, _, seconds, worker, text, error in client.wait(o.wait):
        print(f"{f'error: {error}' if error else text}\n({worker}, {seconds:.1f} s)")


def load(client, o):
    for turn in range(1, o.turns + 1):
        for conversation in range(1, o.conversations + 1):
            client.send(f"chat-{conversation}", turn, f"question {turn} of chat-{conversation}", o.words)
    total, times, errors = len(client.sent), [], 0
    print(f"{'conversation':<14}{'turn':>4}  {'seconds':>7}  {'worker':<14}reply", flush=True)
    for conversation, turn, seconds, worker, text, error in client.wait(o.wait):
        times.append(seconds)
        errors += bool(error)
        text = f"error: {error}" if error else text
        print(f"{conversation:<14}{turn:>4}  {seconds:>7.1f}  {worker:<14}{text if len(text) <= 60 else text[:57] + '...'}", flush=True)
    times.sort()
    if times:
        print(f"{total} requests, {len(times)} replies, {errors} errors; half within {times[len(times) // 2]:.1f} s, all within {times[-1]:.1f} s")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bootstrap", default="localhost:9092", metavar="HOST:PORT")
    p.add_argument("--wait", type=float, default=120, metavar="SECONDS")
    commands = p.add_subparsers(required=True)
    one = commands.add_parser("ask")
    one.set_defaults(run=ask)
    one.add_argument("prompt")
    one.add_argument("--conversation", default="me")
    one.add_argument("--words", type=int, default=12)
    many = commands.add_parser("load")
    many.set_defaults(run=load)
    many.add_argument("--conversations", type=int, default=6)
    many.add_argument("--turns", type=int, default=4)
    many.add_argument("--words", type=int, default=12)
    o = p.parse_args()
    client = Client(o.bootstrap)
    o.run(client, o)
    if client.sent:
        sys.exit(f"{len(client.sent)} requests have no reply after {o.wait:.0f} s")


if __name__ == "__main__":
    main()
