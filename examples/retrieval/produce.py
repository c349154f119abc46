"""Puts documents into the topic `documents`: key = path, value = the file's bytes. What was sent before is sent again, as a new version.

    produce.py README.md docs          files, and the text files in folders
    find . -name '*.md' | produce.py - paths from standard input
"""
import argparse
import pathlib
import sys

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from topics import make_topics

TEXTS = {".md", ".txt", ".rst"}


def files(paths):
    for path in paths:
        if path == "-":
            yield from files(line.rstrip("\n") for line in sys.stdin)
        elif (found := pathlib.Path(path)).is_dir():
            yield from sorted(f for f in found.rglob("*") if f.suffix in TEXTS and f.is_file())
        else:
            yield found


class Documents:
    def __init__(self, bootstrap):
        make_topics(AdminClient({"bootstrap.servers": bootstrap, "log_level": 2}), ["documents", "produce.dead"])
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "compression.type": "zstd", "log_level": 2})
        self.acknowledged, self.dead, self.failed = 0, 0, []

    def send(self, path):
        key, content = path.as_posix(), path.read_bytes()
        done = lambda error, _: self.on_delivery(error, key, len(content))
        try:
            self.producer.produce("documents", key=key, value=content, on_delivery=done)
        except KafkaException as error:  # too large for the client's own limit
            self.on_delivery(error.args[0], key, len(content))
        self.producer.poll(0)

    def on_delivery(self, error, key, size):
        if not error:
            self.acknowledged += 1
        elif error.name() == "MSG_SIZE_TOO_LARGE":
            # No record can hold it: the dead letter has its name and why. (A pipeline for such documents would send a reference instead.)
            print(f"dead letter: {key}: {size:,} bytes are too large for a record", flush=True)
            headers = {"stage": "produce", "attempts": "1", "reason": f"{size} bytes are too large for a record", "exception": error.name()}
            self.producer.produce("produce.dead", key=key, headers=headers, on_delivery=lambda e, _: self.failed.append(e) if e else None)
            self.dead += 1
        else:
            self.failed.append(error)

    def finish(self):
        if self.producer.flush(150) or self.failed:
            sys.exit(f"not all was acknowledged ({self.failed[:1]}): run this again")
        print(f"{self.acknowledged} documents acknowledged, {self.dead} dead letters")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bootstrap", default="localhost:9092", metavar="HOST:PORT")
    p.add_argument("paths", nargs="+", metavar="PATH")
    chosen = p.parse_args()
    documents = Documents(chosen.bootstrap)
    for path in files(chosen.paths):
        documents.send(path)
    documents.finish()


if __name__ == "__main__":
    main()
