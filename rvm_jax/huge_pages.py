"""Huge pages for the memory of a process that trains on a CPU.

XLA takes and gives back the temporary memory of a step each time, and the kernel clears every page of it again: 25
thousand page faults a step of the tiny recipe. With pages of 2 MB it trains 1.3 times as fast (docs/benchmarks.md).
glibc takes them if a variable says so when a process starts, so the process starts once more.
"""

import os
import sys

VARIABLE, VALUE = 'GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1'
FIRST_GLIBC = (2, 35)  # that has this tunable
POLICY = '/sys/kernel/mm/transparent_hugepage/enabled'


def restart() -> None:
    """Replace this process by the same one with huge pages, where there are any and the variable is not set.

    The variable is then removed: worker processes do not inherit it, because there it would only take memory.
    """
    if os.environ.get(VARIABLE) == VALUE:
        del os.environ[VARIABLE]
    elif VARIABLE not in os.environ and _is_possible():
        os.environ[VARIABLE] = VALUE
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_possible():
    """Whether glibc knows the variable, and the kernel gives huge pages to those who ask, but not to everybody."""
    try:
        with open(POLICY) as file:
            is_asked_for = '[madvise]' in file.read()
        _, version = (os.confstr('CS_GNU_LIBC_VERSION') or '').split()
        return is_asked_for and tuple(map(int, version.split('.'))) >= FIRST_GLIBC
    except (OSError, ValueError):  # another system, another C library
        return False
