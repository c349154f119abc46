#!/usr/bin/env python3
"""Runs the examples against a real `ottla`, kills their processes and the broker, and checks that nothing is lost.

    run.py [--bin target/release/ottla] [--only retrieval,llm_queue] [--keep]
"""
import argparse
import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "clients"))
import run as clients  # noqa: E402

EXAMPLES = ["retrieval", "llm_queue"]


def in_venv():
    """Goes on in the Python that has the examples' packages."""
    python = clients.venv("examples", *(HERE.parent / name / "requirements.txt" for name in EXAMPLES))
    if pathlib.Path(sys.prefix) != python.parent.parent:
        os.execv(python, [python, *sys.argv])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", default=ROOT / "target" / "release" / "ottla", type=pathlib.Path)
    p.add_argument("--only", default=",".join(EXAMPLES))
    p.add_argument("--keep", action="store_true", help="keep what the programs printed, and say where")
    o = p.parse_args()
    in_venv()
    names = o.only.split(",")
    if len(names) > 1:  # at the same time: they wait more than they work
        more = [f"--bin={o.bin}"] + ["--keep"] * o.keep
        runs = [subprocess.Popen([sys.executable, __file__, "--only", name, *more]) for name in names]
        # All are waited for; one that a signal ended has a negative code, and failed, too.
        codes = [run.wait() for run in runs]
        sys.exit(1 if any(codes) else 0)
    sys.exit(0 if passes(names[0], o.bin.resolve(), o.keep) else 1)


def passes(name, binary, keep):
    began, folder, broker = time.time(), pathlib.Path(tempfile.mkdtemp(prefix=f"ottla-{name}-")), None
    done = lambda word, text: print(f"{name:<10} {word:<7} {time.time() - began:6.1f} s  {text}", flush=True)
    program = importlib.import_module("program")
    try:
        broker = clients.Broker(binary)
        done("ok", getattr(importlib.import_module(name), name)(broker, folder))
        return True
    except (program.Failed, clients.Failed, subprocess.TimeoutExpired) as error:
        done("FAILED", error)
    except Exception:
        done("FAILED", traceback.format_exc())
    finally:
        program.Program.end_all()
        if broker:
            broker.down()
        if keep:
            print(f"{name:<10} printed in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return False


if __name__ == "__main__":
    main()
