"""What the kernel says of processes and of the machine (Linux)."""

import os
import platform
import shutil
import time
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads, ended ones included."""
    # The clock of another process, as clock_getcpuclockid(3) makes its number; /proc tells hundredths of a second, half of which an
    # idle node takes in ten.
    return time.clock_gettime(~pid << 3 | 2)


def rss_anon_mib(pid: int) -> float:
    """Memory that is the process's own; mapped files, which the kernel may take back at any time, are not in it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no RssAnon for process {pid}: is this Linux?")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def description(directory: Path) -> dict[str, object]:
    """The machine in words that name no host."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "kernel": platform.release().split("-")[0],
        "file_system": file_system(directory),
        "free_gib": round(shutil.disk_usage(directory).free / 2**30),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def file_system(directory: Path) -> str:
    """The type of the file system that holds a directory."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, this_kind, *_ = line.split()
        if directory.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, this_kind
    return kind
