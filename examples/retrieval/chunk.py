"""Stage 1: documents -> chunks of about 1,000 characters, keyed by document. Together the chunks are the document, nothing left out."""
import json
import re

from stage import Stage, options

LARGEST = 400_000  # characters of a document
SIZE = 1_000       # of a chunk


def split(text):
    """Paragraphs packed into chunks; what is longer than a chunk is cut at the end of a line or word, if it has one."""
    chunks, chunk = [], ""
    for piece in re.findall(r"(?s).+?(?:\n\s*\n|\Z)", text):
        while len(piece) > SIZE:
            cut = max(piece.rfind("\n", 0, SIZE), piece.rfind(" ", 0, SIZE)) + 1 or SIZE
            head, piece = piece[:cut], piece[cut:]
            chunks += [chunk, head] if chunk else [head]
            chunk = ""
        if chunk and len(chunk) + len(piece) > SIZE:
            chunks.append(chunk)
            chunk = ""
        chunk += piece
    return chunks + [chunk] if chunk else chunks


def handle(record):
    text = record.value.decode()  # not UTF-8: UnicodeDecodeError
    if not text.strip():
        raise ValueError("empty document")
    if len(text) > LARGEST:
        raise ValueError(f"document too large: {len(text)} characters, {LARGEST} are the limit")
    chunks = split(text)
    # The version tells the store which of two texts is newer. A document's records are all in one partition, so their offsets do.
    return [(record.key, json.dumps({"document": record.key.decode(), "version": record.offset, "chunk": number, "of": len(chunks),
                                     "text": chunk}).encode()) for number, chunk in enumerate(chunks)]


if __name__ == "__main__":
    Stage("chunk", "documents", "chunks", options(__doc__).parse_args()).run(handle)
