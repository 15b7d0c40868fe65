"""Which process a lock names, and whether it still runs.

A process is known by host, process id and start time: a process id alone is used again, sooner or later.
"""

import datetime
import json
import os
import socket
from typing import Any

FIELDS = {'host': str, 'pid': int, 'start': str, 'since': str}


def describe() -> dict[str, Any]:
    """What this process writes into a lock."""
    return {**identity(), 'since': datetime.datetime.now().astimezone().isoformat(timespec='seconds')}


def identity() -> dict[str, Any]:
    """What identifies this process: no other one has the same."""
    return {'host': socket.gethostname(), 'pid': os.getpid(), 'start': started(os.getpid())}


def parse(text: str | bytes) -> dict[str, Any]:
    """The owner that a lock's text names: {} if it is unreadable."""
    try:
        owner = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    is_complete = isinstance(owner, dict) and all(type(owner.get(name)) is kind for name, kind in FIELDS.items())
    return owner if is_complete else {}


def is_mine(owner: dict | None) -> bool:
    """Whether a lock's owner is this process."""
    return owner is not None and identity().items() <= owner.items()


def is_here(owner: dict) -> bool:
    """Whether the owner is a process of this machine."""
    return owner['host'] == socket.gethostname()


def runs(owner: dict) -> bool:
    """Whether the owner, a process of this machine, still runs."""
    start = started(owner['pid'])
    return start is not None and start == owner['start']


def started(pid: int) -> str | None:
    """When a process began, as machine boot and clock ticks since; None if it does not run (a zombie does not)."""
    try:
        with open(f'/proc/{pid}/stat', 'rb') as file:
            fields = file.read().rpartition(b')')[2].split()  # the name before it may hold spaces
        with open('/proc/sys/kernel/random/boot_id') as file:
            boot = file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b'Z', b'X') else f'{boot} {fields[19].decode()}'


def who(owner: dict) -> str:
    """The owner in words."""
    return f'process {owner["pid"]} on {owner["host"]} since {owner["since"]}' if owner else 'an unknown run'
