"""Which process a lock names, and whether it still runs."""

import datetime
import json
import os
import socket

FIELDS = {'host': str, 'pid': int, 'start': str, 'since': str}


def describe():
    """What this process writes into a lock."""
    return {**identity(), 'since': datetime.datetime.now().astimezone().isoformat(timespec='seconds')}


def identity():
    """What tells this process from every other one."""
    return {'host': socket.gethostname(), 'pid': os.getpid(), 'start': started(os.getpid())}


def parse(text):
    """The owner that a lock's text names: {} if it is unreadable."""
    try:
        owner = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    is_whole = isinstance(owner, dict) and all(type(owner.get(name)) is kind for name, kind in FIELDS.items())
    return owner if is_whole else {}


def is_mine(owner):
    """Whether a lock's owner is this process."""
    return bool(owner) and identity().items() <= owner.items()


def is_here(owner):
    """Whether the owner is a process of this machine."""
    return owner['host'] == socket.gethostname()


def runs(owner):
    """Whether the owner, a process of this machine, still runs."""
    begun = started(owner['pid'])
    return begun is not None and begun == owner['start']


def started(pid):
    """When a process began, as machine boot and clock ticks since; None if it does not run (a zombie does not)."""
    try:
        with open(f'/proc/{pid}/stat', 'rb') as file:
            fields = file.read().rpartition(b')')[2].split()  # the name before it may hold spaces
        with open('/proc/sys/kernel/random/boot_id') as file:
            boot = file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b'Z', b'X') else f'{boot} {fields[19].decode()}'


def who(owner):
    """The owner in words."""
    return f'process {owner["pid"]} on {owner["host"]} since {owner["since"]}' if owner else 'an unknown run'
