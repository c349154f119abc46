"""The topics of the queue. Requests are keyed by conversation: one partition, and so one worker at a time, answers it in order."""
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

REQUESTS, REPLIES, DEAD = "llm.requests", "llm.replies", "llm.dead"
PARTITIONS = {REQUESTS: 6, REPLIES: 1, DEAD: 1}  # as many requests are answered at a time as there are partitions of theirs


def make_topics(bootstrap):
    """Those that do not exist yet, so that workers and clients may start in any order."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    for future in admin.create_topics([NewTopic(name, count, -1) for name, count in PARTITIONS.items()]).values():
        try:
            future.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
