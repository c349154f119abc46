"""Stands in for a large language model: slow, for each word that it writes, and repeatable."""
import threading

WORDS = "the answer depends on what was asked before and on how long one is willing to wait for it".split()


class Refused(Exception):
    """The model will not answer this request, however often it is asked."""


def answer(request, seconds_per_word, stopped: threading.Event):
    """The reply to a request {"prompt": text, "words": how many}. Raises `Refused`; `stopped` ends it early with `InterruptedError`."""
    prompt, words = request["prompt"], request["words"]
    if not prompt.strip():
        raise Refused("the prompt is empty")
    if not 1 <= words <= 2000:
        raise Refused(f"{words} words are asked for, 1 to 2000 are possible")
    if stopped.wait(words * seconds_per_word):
        raise InterruptedError("stopped before the answer was complete")
    return f"{prompt} -> " + " ".join(WORDS[i % len(WORDS)] for i in range(words))
