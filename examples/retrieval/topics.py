"""The pipeline's topics: their creation, and how far a group is behind in them. Run as a program, it prints the lag of every stage."""
import argparse

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

PARTITIONS = 3
SECONDS = 3  # for an answer about offsets
STAGES = {"chunk": "documents", "embed": "chunks", "store": "embeddings"}


def make_topics(admin, names):
    """Those that do not exist yet, so that the processes may start in any order."""
    for future in admin.create_topics([NewTopic(name, PARTITIONS, -1) for name in names]).values():
        try:
            future.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def ends(admin, topics, spec=None):
    """The offset behind the last record (or what `spec` asks for) of each partition."""
    found = admin.list_topics(timeout=SECONDS).topics
    asked = {TopicPartition(topic, p): spec or OffsetSpec.latest() for topic in topics if topic in found for p in found[topic].partitions}
    if not asked:
        return {}
    return {(at.topic, at.partition): f.result().offset for at, f in admin.list_offsets(asked, request_timeout=SECONDS).items()}


def committed(admin, group):
    future = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=SECONDS)[group]
    return {(at.topic, at.partition): at.offset for at in future.result().topic_partitions}


def lag(admin, group, topics):
    """Records of each topic that the group has not committed yet: the distance from its committed offsets to the ends."""
    done, behind = committed(admin, group), dict.fromkeys(topics, 0)
    for at, end in ends(admin, topics).items():
        behind[at[0]] += end - max(done.get(at, 0), 0)
    return behind


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bootstrap", default="localhost:9092", metavar="HOST:PORT")
    admin = AdminClient({"bootstrap.servers": p.parse_args().bootstrap, "log_level": 2})
    print(f"{'stage':<8}{'topic':<14}{'records':>8}{'lag':>8}{'retry lag':>11}{'dead':>6}")
    for stage, topic in STAGES.items():
        behind = lag(admin, stage, [topic, f"{stage}.retry"])
        count = lambda name: sum(ends(admin, [name]).values())
        print(f"{stage:<8}{topic:<14}{count(topic):>8}{behind[topic]:>8}{behind[f'{stage}.retry']:>11}{count(f'{stage}.dead'):>6}")


if __name__ == "__main__":
    main()
