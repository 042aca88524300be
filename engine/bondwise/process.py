"""Which process it is: a process id with the start of the process, so that a number used again is not taken for the old process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from bondwise.schema import ProcessIdentity


def own_identity() -> ProcessIdentity:
    """The identity of this process."""
    pid = os.getpid()
    return ProcessIdentity(pid=pid, started=process_start(pid) or "unknown", host=socket.gethostname())


def is_alive(identity: ProcessIdentity) -> bool | None:
    """Whether that very process still runs. None when it ran on another host, where nothing can be seen from here."""
    if identity.host != socket.gethostname():
        return None
    return process_start(identity.pid) == identity.started


def process_start(pid: int) -> str | None:
    """When process `pid` started, in the words of `ProcessIdentity.started`; None when there is none (a zombie is none)."""
    if sys.platform.startswith("linux"):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        # The second field, the command's name in parentheses, may itself hold spaces and parentheses: proc_pid_stat(5).
        fields = stat[stat.rindex(")") + 2 :].split()
        return None if fields[0] in "ZXx" else f"linux:{boot}:{fields[19]}"
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    output = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}).stdout.strip()
    state, _, start = output.partition(" ")
    return None if not start or state.startswith("Z") else f"ps:{start.strip()}"
