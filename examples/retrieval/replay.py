"""Sends a stage back: its group's offsets are set to the first record, or to the first at or after a time, and it does that work again.

    replay.py embed                                   everything
    replay.py embed --since 2026-03-01T00:00:00+00:00

Stop the stage first; offsets cannot be moved under a running group.
"""
import argparse
import datetime
import sys
import time

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from topics import STAGES, ends


def await_empty(admin, group, seconds):
    """A process that has a name (--instance) is a member until its session times out, also after it has stopped."""
    said = False
    for _ in range(int(seconds * 5)):
        members = admin.describe_consumer_groups([group])[group].result(10).members
        if not members:
            return
        if not said:
            print(f"waiting for {len(members)} members of group {group} to end", flush=True)
            said = True
        time.sleep(0.2)
    sys.exit(f"group {group} still has members: stop the stage first")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bootstrap", default="localhost:9092", metavar="HOST:PORT")
    p.add_argument("--since", type=datetime.datetime.fromisoformat, metavar="TIME")
    p.add_argument("--wait", type=float, default=30, metavar="SECONDS")
    p.add_argument("stage", choices=STAGES)
    o = p.parse_args()
    admin = AdminClient({"bootstrap.servers": o.bootstrap, "log_level": 2})
    await_empty(admin, o.stage, o.wait)
    topic = STAGES[o.stage]
    end = ends(admin, [topic])
    spec = OffsetSpec.for_timestamp(int(o.since.timestamp() * 1000)) if o.since else OffsetSpec.earliest()
    first = {at: offset if offset >= 0 else end[at] for at, offset in ends(admin, [topic], spec).items()}  # -1: no record is so young
    moved = ConsumerGroupTopicPartitions(o.stage, [TopicPartition(*at, offset) for at, offset in first.items()])
    for done in admin.alter_consumer_group_offsets([moved])[o.stage].result(10).topic_partitions:
        if done.error:
            sys.exit(f"{done.topic} {done.partition}: {done.error}")
    print(f"{o.stage} will do {sum(end[at] - first[at] for at in end)} records of {topic} again")


if __name__ == "__main__":
    main()
