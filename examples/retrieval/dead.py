"""The dead letters of every stage, and why they died."""
import argparse

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from topics import STAGES, ends


def dead_letters(bootstrap):
    """(key, headers) of each, in the order of their topics and offsets."""
    topics = [f"{stage}.dead" for stage in ("produce", *STAGES)]
    left = {at: end for at, end in ends(AdminClient({"bootstrap.servers": bootstrap, "log_level": 2}), topics).items() if end}
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "dead", "enable.auto.commit": False, "log_level": 2})
    reader.assign([TopicPartition(*at, 0) for at in left])
    letters = []
    while left and (message := reader.poll(10)) is not None:
        if message.error():
            raise SystemExit(message.error().str())
        letters.append((message.key().decode(), {name: value.decode() for name, value in message.headers()}))
        if message.offset() + 1 == left[message.topic(), message.partition()]:
            del left[message.topic(), message.partition()]
    reader.close()
    return letters


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bootstrap", default="localhost:9092", metavar="HOST:PORT")
    letters = dead_letters(p.parse_args().bootstrap)
    print(f"{'stage':<9}{'document':<36}{'tries':>5}  {'from':<16}why" if letters else "no dead letters")
    for key, headers in letters:
        place = "{} {}:{}".format(*(headers[f"origin.{name}"] for name in ("topic", "partition", "offset"))) if "origin.topic" in headers else ""
        print(f"{headers['stage']:<9}{key[-35:]:<36}{headers['attempts']:>5}  {place:<16}{headers['exception']}: {headers['reason']}")


if __name__ == "__main__":
    main()
