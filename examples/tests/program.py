"""Processes under test: started, watched by what they print, killed or stopped; and waiting for events with a deadline."""
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent


class Failed(Exception):
    pass


def check(what, condition, detail=""):
    if not condition:
        raise Failed(f"{what}: {detail}")


def wait_for(what, condition, seconds=60):
    """The first true value of `condition()`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise Failed(f"{what}: not within {seconds} s")


class Program:
    """A Python program of the examples, its output in a file."""

    running = []

    def __init__(self, log, script, *args, cwd=None, stdin=None):
        self.log, self.script = pathlib.Path(log), script
        self.start = self.log.stat().st_size if self.log.exists() else 0
        with open(log, "ab") as out:
            self.process = subprocess.Popen([sys.executable, "-u", EXAMPLES / script, *map(str, args)], stdout=out, stderr=subprocess.STDOUT,
                                            stdin=stdin, cwd=cwd)
        Program.running.append(self)

    def text(self):
        return self.log.read_text()[self.start:]

    def wait_for(self, pattern, seconds=60):
        def seen():
            check(f"{self.script} ended early", self.process.poll() is None or re.search(pattern, self.text()), self.text()[-2000:])
            return re.search(pattern, self.text())

        return wait_for(f"{self.script} prints {pattern!r}", seen, seconds)

    def wait(self, code=0, seconds=60):
        ended = self.process.wait(seconds)
        check(f"{self.script} ends with {code}", ended == code, f"{ended}\n{self.text()[-3000:]}")
        return self.text()

    def kill(self):
        check(f"{self.script} is there to be killed", self.process.poll() is None, self.text()[-2000:])
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.terminate()
        return self.wait()

    @staticmethod
    def end_all():
        for program in Program.running:
            if program.process.poll() is None:
                program.kill()
        Program.running.clear()


def run(log, script, *args, **more):
    return Program(log, script, *args, **more).wait()
