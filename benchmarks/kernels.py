"""The kernels that a device ran, from a trace of JAX's profiler; read without TensorFlow or XProf."""

import glob
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

import jax


class Kernel(NamedTuple):
    """All runs of the kernels of one name."""

    name: str
    seconds: float
    calls: int


class Trace(NamedTuple):
    """Kernels of one device, the longest first, and the time from the first one's start to the last one's end."""

    kernels: list[Kernel]
    seconds: float
    busy_seconds: float  # in which at least one of them runs

    @property
    def kernel_seconds(self) -> float:
        """Of all kernels; more than `busy_seconds` if some run at the same time."""
        return sum(kernel.seconds for kernel in self.kernels)


class Event(NamedTuple):
    """One run of a kernel, in nanoseconds of the trace's clock."""

    name: str
    start: float
    end: float


def read_trace(folder: str) -> Trace:
    """The newest trace under a folder that `jax.profiler` wrote to; ValueError if no kernel is in it."""
    paths = glob.glob(os.path.join(folder, '**', '*.xplane.pb'), recursive=True)
    if not paths:
        raise ValueError(f'{folder}: the profiler wrote no trace')
    events = device_events(jax.profiler.ProfileData.from_file(max(paths, key=os.path.getmtime)))
    if not events:
        raise ValueError(f'{folder}: no kernel is in the trace')
    return summarize(events)


def device_events(profile: jax.profiler.ProfileData) -> list[Event]:
    """Kernels and copies of the first GPU, by its streams; without a GPU the operations that XLA ran on the CPU.

    A CPU's operations can contain each other (a loop and its body); kernels of a GPU's stream cannot.
    """
    planes = {plane.name: plane for plane in profile.planes}
    gpus = sorted(name for name in planes if name.startswith('/device:GPU:'))
    if gpus:
        found = (event for line in planes[gpus[0]].lines if line.name.startswith('Stream') for event in line.events)
    else:
        found = (event for line in planes['/host:CPU'].lines for event in line.events if is_operation(event))
    return [Event(event.name, event.start_ns, event.start_ns + event.duration_ns) for event in found]


def is_operation(event) -> bool:
    """Whether an event belongs to XLA's program, not to the threads that run it."""
    return any(name == 'hlo_op' for name, _ in event.stats)


def summarize(events: Iterable[Event]) -> Trace:
    """Add up the runs of each kernel, and the time that any of them ran."""
    events = sorted(events, key=lambda event: event.start)
    seconds, calls = {}, {}
    busy, ended = 0.0, events[0].start
    for event in events:
        name = kind_of(event.name)
        seconds[name] = seconds.get(name, 0.0) + (event.end - event.start) / 1e9
        calls[name] = calls.get(name, 0) + 1
        busy += max(0.0, event.end - max(event.start, ended))
        ended = max(ended, event.end)
    kernels = [Kernel(name, seconds[name], calls[name]) for name in sorted(seconds, key=seconds.get, reverse=True)]
    return Trace(kernels, (ended - events[0].start) / 1e9, busy / 1e9)


def kind_of(name: str) -> str:
    """A kernel's name without XLA's running numbers, so that all layers have the same names."""
    return re.sub(r'([._]\d+)+$', '', name)
