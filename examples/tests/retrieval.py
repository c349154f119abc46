"""The retrieval pipeline over real documents: every stage and the broker are killed half-way, and nothing is lost."""
import json
import os
import sqlite3
import subprocess
import sys
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from program import EXAMPLES, Failed, Program, check, run, wait_for

sys.path.insert(0, str(EXAMPLES / "retrieval"))
from chunk import split  # noqa: E402
from dead import dead_letters  # noqa: E402
from embed import embed  # noqa: E402
from topics import STAGES, committed, ends, lag, make_topics  # noqa: E402

ROOT = EXAMPLES.parent


class Pipeline:
    def __init__(self, broker, folder):
        self.broker, self.folder = broker, folder
        # Without "none", librdkafka asks a coordinator that it has forgotten, once all brokers were away (its issue 5511).
        self.admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 2, "metadata.recovery.strategy": "none"})
        self.stages = {}

    def call(self, name, *args):
        return run(self.folder / f"{name}.log", f"retrieval/{name}.py", "--bootstrap", self.broker.bootstrap, *args, cwd=ROOT)

    def start(self, stage, *args):
        options = ["--bootstrap", self.broker.bootstrap, "--instance", f"{stage}-1", "--batch", 10, "--retry-after", 0.3]
        options += ["--store", self.folder / "store.sqlite3"] if stage == "store" else []
        self.stages[stage] = Program(self.folder / f"{stage}.log", f"retrieval/{stage}.py", *options, *args)

    def ask(self, question, *args):
        """An answer to the admin client's question, also while the broker restarts."""
        for _ in range(10):
            try:
                return question(self.admin, *args)
            except KafkaException as error:
                failure = error
        raise Failed(f"no answer about {args}: {failure}")

    def count(self, topic):
        return sum(self.ask(ends, [topic]).values())

    def done(self, stage):
        """How many records of its topic a stage has committed."""
        return sum(max(offset, 0) for (topic, _), offset in self.ask(committed, stage).items() if topic == STAGES[stage])

    def behind(self, stage):
        return sum(self.ask(lag, stage, [STAGES[stage], f"{stage}.retry"]).values())

    def wait_until_done(self):
        """Stage by stage: what a stage has committed is in the next one's topic."""
        for stage, program in self.stages.items():
            def idle():
                check(f"{stage} runs", program.process.poll() is None, program.text()[-2000:])
                return self.behind(stage) == 0

            wait_for(f"no lag of {stage}", idle)

    def limit_chunks(self, size):
        """Sets the largest batch that the topic `chunks` takes, or its default."""
        kind = AlterConfigOpType.SET if size else AlterConfigOpType.DELETE
        entry = ConfigEntry("max.message.bytes", str(size or 0), incremental_operation=kind)
        resource = ConfigResource(ResourceType.TOPIC, "chunks", incremental_configs=[entry])
        self.admin.incremental_alter_configs([resource])[resource].result(20)


def texts(folder):
    """The documents: the project's Markdown and what Python ships; and four that cannot be handled."""
    run(folder / "texts.log", "retrieval/python_texts.py", folder / "texts")
    poison = folder / "poison"
    poison.mkdir()
    (poison / "not-utf8.txt").write_bytes("Ünïcode".encode("latin-1"))
    (poison / "empty.md").write_text(" \n")
    (poison / "large.txt").write_text("word " * 199_800)  # as much as a record holds, just
    (poison / "giant.txt").write_text("word " * 500_000)
    paths = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "docs", "examples")] + [folder / "texts"]
    files = [f for p in paths for f in (sorted(p.rglob("*")) if p.is_dir() else [p]) if f.suffix in (".md", ".txt", ".rst")]
    files = [f for f in files if f.name != "requirements.txt" and f.read_text().strip()]
    return files, sorted(poison.iterdir())


def check_store(pipeline, files, model):
    """Every chunk of every document, once, with its own embedding; together they are the document. The newest version, no other."""
    store = sqlite3.connect(pipeline.folder / "store.sqlite3")
    rows = store.execute("SELECT document, chunk, version, of, model, text, vector FROM chunks ORDER BY document, chunk").fetchall()
    newest = dict(store.execute("SELECT document, version FROM documents"))
    store.close()
    stored = {}
    for document, chunk, version, of, row_model, text, vector in rows:
        stored.setdefault(document, []).append(text)
        check("chunks in order", chunk == len(stored[document]) - 1, f"{document} {chunk}")
        check("model", row_model == model, f"{document} {chunk}: {row_model}")
        check("version", version == newest[document], f"{document} {chunk}: {version} is not {newest[document]}")
        check("embedding", vector == embed(text, model).tobytes(), f"{document} {chunk}")
        check("number of chunks", of == len(split(files[document].read_text())), f"{document}: {of}")
    check("documents in the store", set(stored) == set(files), f"missing {set(files) - set(stored)}, unknown {set(stored) - set(files)}")
    for document, chunks in stored.items():
        check("the document is whole", "".join(chunks) == files[document].read_text(), document)
    return len(rows)


def check_order(pipeline):
    """For each document, the first time that a chunk is in the topic it is behind all those before it, whatever was repeated later."""
    reader = Consumer({"bootstrap.servers": pipeline.broker.bootstrap, "group.id": "order", "log_level": 2})
    left = {at: end for at, end in ends(pipeline.admin, ["chunks"]).items() if end}
    reader.assign([TopicPartition(*at, 0) for at in left])
    last, seen, home = {}, set(), {}
    while left:
        message = reader.poll(20)
        check("chunks can be read", message is not None and not message.error(), left)
        chunk = json.loads(message.value())
        document, place = chunk["document"], (chunk["version"], chunk["chunk"])
        check("one partition for a key", home.setdefault(document, message.partition()) == message.partition(), document)
        if (document, place) not in seen:
            check("order by key", place > last.get(document, (-1, -1)), f"{document}: {place} after {last.get(document)}")
            last[document] = place
            seen.add((document, place))
        if message.offset() + 1 == left[message.topic(), message.partition()]:
            del left[message.topic(), message.partition()]
    reader.close()


def check_dead(pipeline):
    why = {"not-utf8.txt": ("chunk", "5", "UnicodeDecodeError"), "empty.md": ("chunk", "5", "ValueError"),
           "large.txt": ("chunk", "5", "ValueError"), "giant.txt": ("produce", "1", "MSG_SIZE_TOO_LARGE")}
    found = {}
    for key, headers in dead_letters(pipeline.broker.bootstrap):
        found[key.rsplit("/", 1)[1]] = (headers["stage"], headers["attempts"], headers["exception"])
        check("a dead letter says why", headers["reason"], headers)
        check("and where from", headers["stage"] == "produce" or headers["origin.topic"] == "documents", headers)
    check("dead are the poisoned documents", found == why, found)


def produce_in_two_runs(pipeline, paths):
    """The producer dies when half of the documents are acknowledged. The rest is sent afterwards, and ten again, as a second version."""
    with open(pipeline.folder / "half.log", "wb") as out:
        producer = subprocess.Popen([sys.executable, EXAMPLES / "retrieval/produce.py", "--bootstrap", pipeline.broker.bootstrap, "-"],
                                    stdin=subprocess.PIPE, stdout=out, stderr=out, text=True, cwd=ROOT)
    half = [p for p in paths[:len(paths) // 2] if p.name != "giant.txt"]  # no record can hold that one
    producer.stdin.write("".join(f"{p}\n" for p in half))
    producer.stdin.flush()
    try:
        wait_for("half of the documents", lambda: pipeline.count("documents") == len(half))
    finally:
        producer.kill()
        producer.wait()
    pipeline.call("produce", *half[-10:], *(p for p in paths if p not in half))


def refuse_output(pipeline):
    """Output that the broker does not take ends the stage, with nothing committed. (A commit before the acknowledgement loses documents.)"""
    pipeline.limit_chunks(100)
    pipeline.start("chunk")
    text = pipeline.stages.pop("chunk").wait(code=1)
    check("the stage says why it ends", "output not acknowledged, nothing committed: chunks: " in text, text)
    check("nothing is committed", pipeline.done("chunk") == 0, pipeline.done("chunk"))
    pipeline.limit_chunks(None)


def kill_half_way(pipeline, chunks):
    """Each stage once, in the midst of its work, and the broker."""
    documents = pipeline.count("documents")
    at = {"chunk": documents // 3, "store": chunks // 3, "embed": chunks // 3, "broker": chunks * 2 // 3}
    for stage in STAGES:
        pipeline.start(stage)
    deadline = time.monotonic() + 60
    while at:
        check("every stage gets half-way", time.monotonic() < deadline, at)
        for name, threshold in list(at.items()):
            watched = "embed" if name == "broker" else name
            if pipeline.done(watched) >= threshold:
                del at[name]
                behind = sum(map(pipeline.behind, STAGES))
                check(f"there is work left when {name} is killed", behind, pipeline.stages[watched].text()[-500:])
                if name == "broker":
                    pipeline.broker.crash_and_restart()
                else:
                    pipeline.stages[name].kill()
                    pipeline.start(name)
        for stage, program in pipeline.stages.items():
            if program.process.poll() is not None:
                raise Failed(f"{stage} ended: {program.text()[-2000:]}")


def retrieval(broker, folder):
    pipeline = Pipeline(broker, folder)
    good, poison = texts(folder)
    paths = sorted(good + poison, key=lambda p: (p.name, p))  # the poisoned ones are in the midst
    files = {p.as_posix(): p for p in good}
    make_topics(pipeline.admin, ["documents", "chunks"])
    produce_in_two_runs(pipeline, paths)
    refuse_output(pipeline)
    kill_half_way(pipeline, sum(len(split(p.read_text())) for p in good))
    pipeline.wait_until_done()
    count = check_store(pipeline, files, "words")
    check_order(pipeline)
    check_dead(pipeline)
    check("transient failures were retried", pipeline.count("embed.retry") > 0)
    lags = [line.split()[3:5] for line in pipeline.call("topics").splitlines()[1:]]
    check("lag is 0 at the end", lags == [["0", "0"]] * 3, lags)

    # A new, shorter version of a document replaces all of the old one.
    changed = max((p for p in good if folder in p.parents), key=lambda p: p.stat().st_size)
    changed.write_text(changed.read_text()[:3000])
    pipeline.call("produce", changed)
    pipeline.wait_until_done()
    fewer = check_store(pipeline, files, "words")
    check("the old version's chunks are gone", fewer < count, fewer)

    # Everything is embedded again, by another model.
    text = pipeline.stages["embed"].stop()
    check("a stage that stops says so", "stopped" in text, text)
    run(folder / "replay.log", "retrieval/replay.py", "--bootstrap", broker.bootstrap, "embed")
    pipeline.start("embed", "--model", "words+pairs")
    pipeline.wait_until_done()
    check("a replay leaves every chunk once", check_store(pipeline, files, "words+pairs") == fewer)

    found = run(folder / "search.log", "retrieval/search.py", "--store", folder / "store.sqlite3",
                "what", "is", "kept", "after", "kill", "-9", "and", "after", "a", "power", "cut", cwd=folder)
    check("search finds the README", f"{ROOT / 'README.md'}, chunk" in found, found)
    for program in pipeline.stages.values():
        program.stop()
    return f"{len(files)} documents, {fewer} chunks, {pipeline.count('embed.retry')} retries, 4 dead letters, every process killed once"
