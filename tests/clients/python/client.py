"""confluent-kafka (librdkafka) in the scenario of ../README.md."""
import os
import signal
import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType


def create(bootstrap, topic, partitions):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, int(partitions), 1)])[topic].result(20)


def produce(bootstrap, topic, codec, start, end):
    acked, failed = [], []
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": codec, "enable.idempotence": True, "linger.ms": 5})

    def on_delivery(error, message):
        (failed if error else acked).append(error or message.offset())

    for i in range(int(start), int(end)):
        producer.produce(topic, key=f"k{i % 10}", value=f"v{i}", on_delivery=on_delivery)
        producer.poll(0)
    producer.flush(30)
    if failed:
        sys.exit(f"not acknowledged: {failed[0]}")
    print("acked", len(acked))


def consume(bootstrap, topic, group, count, *die):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False,
                         "auto.offset.reset": "earliest", "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000})
    consumer.subscribe([topic])
    left, limit = int(count), time.time() + 60
    while left and time.time() < limit:
        message = consumer.poll(0.5)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        print(message.value().decode(), message.partition(), message.offset(), sep="\t")
        left -= 1
        if left % 50 == 0:
            consumer.commit(asynchronous=False)
    if left:
        sys.exit(f"{left} records did not come within 60 s")
    sys.stdout.flush()
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
    consumer.close()


def times(bootstrap, topic, timestamp):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "times"})
    partitions = sorted(consumer.list_topics(topic, timeout=20).topics[topic].partitions)
    for found in consumer.offsets_for_times([TopicPartition(topic, p, int(timestamp)) for p in partitions], timeout=20):
        print(found.partition, max(found.offset, -1))
    consumer.close()


def large(bootstrap, topic, size):
    outcome = []
    producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 20_000_000})
    producer.produce(topic, value=b"x" * int(size), on_delivery=lambda error, _: outcome.append(error))
    producer.flush(30)
    if outcome[0] is not None and outcome[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
        sys.exit(f"refused for another reason: {outcome[0]}")
    print("refused" if outcome[0] else "accepted")


def configure(bootstrap, topic, name, value):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(20)


if __name__ == "__main__":
    {f.__name__: f for f in (create, produce, consume, times, large, configure)}[sys.argv[2]](sys.argv[1], *sys.argv[3:])
