"""The request queue: slow answers, workers that come, go and die, a broker that is killed. Every request is answered, in order."""
import json
import sys
import threading

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from program import EXAMPLES, Program, check, run, wait_for

sys.path.insert(0, str(EXAMPLES / "llm_queue"))
from model import answer  # noqa: E402
from queue_topics import DEAD, PARTITIONS, REPLIES, REQUESTS, make_topics  # noqa: E402

PER_WORD = 0.02


class Queue:
    def __init__(self, broker, folder):
        self.broker, self.folder = broker, folder
        self.client = {"bootstrap.servers": broker.bootstrap, "log_level": 2}
        self.admin = AdminClient({**self.client, "metadata.recovery.strategy": "none"})  # as in retrieval.py

    def worker(self, name):
        return Program(self.folder / f"{name}.log", "llm_queue/worker.py", "--bootstrap", self.broker.bootstrap, "--name", name,
                       "--seconds-per-word", PER_WORD, "--max-poll-interval-ms", 6000, "--grace", 1)

    def ask(self, log, *args):
        return Program(self.folder / f"{log}.log", "llm_queue/client.py", "--bootstrap", self.broker.bootstrap, "--wait", 60, *args)

    def lag(self):
        asked = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("llm.workers")])["llm.workers"]
        done = {at.partition: at.offset for at in asked.result(20).topic_partitions}
        return sum(end - max(done.get(partition, 0), 0) for partition, end in self.ends(REQUESTS).items())

    def ends(self, topic):
        reader = Consumer({**self.client, "group.id": "ends"})
        found = {p: reader.get_watermark_offsets(TopicPartition(topic, p), timeout=20)[1] for p in range(PARTITIONS[topic])}
        reader.close()
        return found

    def read(self, topic):
        """All records as (key, value, headers), each partition in order."""
        left = {p: end for p, end in self.ends(topic).items() if end}
        reader = Consumer({**self.client, "group.id": "check", "enable.auto.commit": False})
        reader.assign([TopicPartition(topic, p, 0) for p in left])
        records = []
        while left:
            message = reader.poll(20)
            check(f"{topic} can be read", message is not None and not message.error(), left)
            records.append((message.key().decode(), message.value(), dict(message.headers() or [])))
            if message.offset() + 1 == left[message.partition()]:
                del left[message.partition()]
        reader.close()
        return records


def check_replies(queue, poison):
    """Every request has its own reply; each conversation has its replies in order. Returns how many replies were repeated."""
    requests = {headers["correlation-id"]: (key, value) for key, value, headers in queue.read(REQUESTS)}
    replies, turns = {}, {}
    records = queue.read(REPLIES)
    for key, value, headers in records:
        correlation = headers["correlation-id"]
        check("a reply belongs to a request", correlation in requests and requests[correlation][0] == key, headers)
        if correlation not in replies:  # only the first counts
            turns.setdefault(key, []).append(correlation)
        replies.setdefault(correlation, (value, headers.get("error")))
    check("every request has a reply", set(replies) == set(requests), f"{len(replies)} of {len(requests)}")
    for key, order in turns.items():
        check("order in a conversation", order == [c for c, (asked_in, _) in requests.items() if asked_in == key], key)
    failed = {c for c, (_, error) in replies.items() if error}
    check("errors for the poisoned requests only", failed == poison, failed)
    for correlation in set(requests) - failed:
        wanted = answer(json.loads(requests[correlation][1]), 0, threading.Event())
        check("the reply is the answer", replies[correlation][0].decode() == wanted, replies[correlation])
    return len(records) - len(replies)


def llm_queue(broker, folder):
    queue = Queue(broker, folder)
    make_topics(broker.bootstrap)

    # A second worker comes while the first is busy; one answer takes longer than the consumer may go without polling.
    one = queue.worker("one")
    load = queue.ask("load", "load", "--conversations", 8, "--turns", 5, "--words", 15)
    one.wait_for(r"chat-\d answered")
    two = queue.worker("two")
    two.wait_for(r"assigned \d")
    long = queue.ask("long", "ask", "--words", 350, "--conversation", "long", "how long?")
    load.wait()
    two.wait_for(r"chat-\d answered")
    check("a second worker takes partitions, the first keeps some", "gave back" in one.text() and "now 3 partitions" in one.text(), one.text())
    long.wait()
    done_by = one if "long answered" in one.text() else two
    check("nobody who pauses and polls is taken for dead", "lost" not in one.text() + two.text() and "begins" in done_by.text(), one.text())
    check("after a rebalance nothing is answered twice", check_replies(queue, set()) == 0)

    # One worker is killed in the midst of its answers, then the broker; one stops properly; another takes over. Two requests are poisoned.
    load = queue.ask("more", "load", "--conversations", 8, "--turns", 6, "--words", 15)
    producer = Producer(queue.client)
    producer.produce(REQUESTS, key="bad", value="no JSON", headers={"correlation-id": "bad-1"})
    producer.produce(REQUESTS, key="bad", value='{"prompt": " ", "words": 3}', headers={"correlation-id": "bad-2"})
    check("the poisoned requests are acknowledged", producer.flush(20) == 0)
    before = two.text().count("answered")
    wait_for("a busy worker", lambda: two.text().count("begins") > two.text().count("answered") > before + 3)
    two.kill()
    three = queue.worker("three")
    three.wait_for(r"assigned \d")
    broker.crash_and_restart()
    three.wait_for(r"answered")
    text = one.stop()
    check("a worker that stops finishes what it began", text.count("begins") == text.count("answered") and "stopped after" in text, text)
    load.wait()
    wait_for("no lag", lambda: queue.lag() == 0)
    again = check_replies(queue, {b"bad-1", b"bad-2"})
    dead = {headers["correlation-id"]: headers["exception"] for _, _, headers in queue.read(DEAD)}
    check("dead letters", dead == {b"bad-1": b"JSONDecodeError", b"bad-2": b"Refused"}, dead)
    three.stop()
    return f"{sum(queue.ends(REQUESTS).values())} requests, {again} answered twice, 2 dead letters, a worker and the broker killed"
