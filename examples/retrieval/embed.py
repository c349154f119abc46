"""Stage 2: chunks -> embeddings. The model stands in for a real one: hashed words, no download; its service fails now and then."""
import base64
import json
import re
import time
import zlib

import numpy

from stage import Stage, options

DIMENSIONS = 4096
MODELS = {"words": 1, "words+pairs": 2}  # words in a row that make one feature, at most
STOP = set("a an and are as at be but by can do does for from has have how i if in is it its not of on or that the this to was what when which "
           "why will with you".split())


def embed(text, model):
    """A unit vector: every word (and pair of words) adds to the dimension that its hash names. Close texts share words."""
    words = [w for w in re.findall(r"[^\W_]+", text.lower()) if w not in STOP]
    vector = numpy.zeros(DIMENSIONS, numpy.float32)
    for length in range(1, MODELS[model] + 1):
        for i in range(len(words) - length + 1):
            h = zlib.crc32(" ".join(words[i:i + length]).encode())
            vector[h % DIMENSIONS] += 1 if h >> 31 else -1
    vector = numpy.sign(vector) * numpy.sqrt(abs(vector))  # the tenth mention of a word says less than the first
    return vector / (numpy.linalg.norm(vector) or 1)


class Service:
    """An embedding service as they are: it takes its time, and fails now and then; which calls fail depends only on the seed."""

    def __init__(self, model, milliseconds, failures, seed):
        self.model, self.milliseconds, self.failures, self.seed = model, milliseconds, failures, seed

    def embed(self, text, attempt):
        time.sleep(self.milliseconds / 1000)
        if zlib.crc32(f"{self.seed} {attempt} {text}".encode()) % 100 < self.failures:
            raise ConnectionError("503 from the embedding service")
        return embed(text, self.model)


def handler(service):
    def handle(record):
        chunk = json.loads(record.value)
        vector = base64.b64encode(service.embed(chunk["text"], record.attempt).tobytes()).decode()
        return [(record.key, json.dumps({**chunk, "model": service.model, "vector": vector}).encode())]

    return handle


if __name__ == "__main__":
    p = options(__doc__)
    p.add_argument("--model", choices=MODELS, default="words")
    p.add_argument("--milliseconds", type=float, default=2, help="what a call takes")
    p.add_argument("--failures", type=int, default=5, metavar="PERCENT")
    p.add_argument("--seed", type=int, default=1)
    o = p.parse_args()
    Stage("embed", "chunks", "embeddings", o).run(handler(Service(o.model, o.milliseconds, o.failures, o.seed)))
