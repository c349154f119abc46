"""The chunks that are nearest to a question: search.py how do I catch an exception"""
import argparse
import textwrap

import numpy

from embed import embed
from store import open_store


def search(store, question, count):
    """The best chunks as (likeness, document, chunk, text). While a replay changes the model, the one that most chunks have is asked."""
    found = store.execute("SELECT model FROM chunks GROUP BY model ORDER BY count(*) DESC LIMIT 1").fetchone()
    if not found:
        return []
    rows = store.execute("SELECT document, chunk, text, vector FROM chunks WHERE model = ?", found).fetchall()
    vectors = numpy.frombuffer(b"".join(r[3] for r in rows), numpy.float32).reshape(len(rows), -1)
    rare = numpy.log((1 + len(rows)) / (1 + numpy.count_nonzero(vectors, axis=0)))  # what few chunks mention tells them apart
    asked = embed(question, found[0]) * rare
    likeness = vectors @ (asked / (numpy.linalg.norm(asked) or 1))
    return [(float(likeness[i]), *rows[i][:3]) for i in numpy.argsort(-likeness)[:count]]


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--store", default="store.sqlite3", metavar="FILE")
    p.add_argument("--count", type=int, default=3)
    p.add_argument("words", nargs="+")
    o = p.parse_args()
    for likeness, document, chunk, text in search(open_store(o.store), " ".join(o.words), o.count):
        print(f"{likeness:.2f}  {document}, chunk {chunk}")
        print(textwrap.indent(textwrap.shorten(text, 300, placeholder=" ..."), "      "))


if __name__ == "__main__":
    main()
