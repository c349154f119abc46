"""Stage 3: embeddings -> a vector store in SQLite. Writing the same chunk twice leaves it there once, so replays do no harm."""
import base64
import json
import sqlite3

from stage import Stage, options

TABLES = """
CREATE TABLE IF NOT EXISTS documents (document TEXT PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (document TEXT, chunk INTEGER, version INTEGER NOT NULL, of INTEGER NOT NULL,
    model TEXT NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (document, chunk));
"""


def open_store(path):
    store = sqlite3.connect(path, timeout=30)
    store.execute("PRAGMA journal_mode = WAL")  # searches go on while the stage writes
    store.executescript(TABLES)
    return store


def handle(record):
    row = json.loads(record.value)
    row["vector"] = base64.b64decode(row["vector"], validate=True)
    return [row]


def writer(store):
    def write(rows):
        """In one transaction; it is on disk before the offsets are committed."""
        with store:
            for row in rows:
                put(store, row)

    return write


def put(store, row):
    """A retried chunk may come after one of a newer version of its document: it is late, and left out."""
    (newest,) = store.execute("SELECT max(version) FROM documents WHERE document = :document", row).fetchone()
    if newest is not None and newest > row["version"]:
        return
    if newest is None or newest < row["version"]:
        store.execute("REPLACE INTO documents VALUES (:document, :version)", row)
        store.execute("DELETE FROM chunks WHERE document = :document", row)
    store.execute("REPLACE INTO chunks VALUES (:document, :chunk, :version, :of, :model, :text, :vector)", row)


if __name__ == "__main__":
    p = options(__doc__)
    p.add_argument("--store", default="store.sqlite3", metavar="FILE")
    o = p.parse_args()
    Stage("store", "embeddings", None, o).run(handle, writer(open_store(o.store)))
