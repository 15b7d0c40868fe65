import multiprocessing
import os
import threading

import numpy as np
import pytest

from rvm_jax.data import shared_memory
from rvm_jax.data.shared_memory import SharedFrameBuffer


@pytest.fixture
def slots():
    slots = SharedFrameBuffer(4, frames=2, size=8)
    yield slots
    slots.close()


def clip(value):
    return np.full((2, 8, 8, 3), value, np.uint8)


def collect(slots, *numbers):
    return slots.collect(
        [{'slot': number} for number in numbers], lambda clips: [c['frames_THWC'].copy() for c in clips]
    )


def test_clips_come_back_and_their_slots_are_used_again(slots):
    for value in range(20):
        number = slots.put(clip(value), range(2, 4))
        assert number in (2, 3)
        np.testing.assert_array_equal(collect(slots, number)[0], clip(value))


def test_a_full_worker_waits_until_a_slot_is_free(slots):
    numbers = [slots.put(clip(value), range(2)) for value in (1, 2)]
    late = threading.Thread(target=slots.put, args=(clip(3), range(2)))
    late.start()
    late.join(0.1)
    assert late.is_alive()
    found = collect(slots, *numbers)
    late.join()
    assert [frames.flat[0] for frames in found] == [1, 2]
    assert collect(slots, 0)[0].flat[0] == 3


def test_what_workers_that_are_gone_had_is_free_again(slots):
    for value in range(4):
        slots.put(clip(value), range(4))
    slots.clear()
    assert slots.put(clip(9), range(4)) == 0


def test_clips_without_frames_need_no_slot(slots):
    assert slots.collect([{'failures': []}], list) == [{'failures': []}]


def fill(how, place):
    other = SharedFrameBuffer(*how, place=place)
    other.put(clip(7), range(3, 4))


def test_the_memory_is_shared_with_processes_and_then_freed():
    before = num_files()  # of what other tests have not given back yet
    slots = SharedFrameBuffer(4, frames=2, size=8)
    assert num_files() > before
    process = multiprocessing.get_context('spawn').Process(target=fill, args=((4, 2, 8), slots.place))
    process.start()
    process.join()
    assert collect(slots, 3)[0].flat[0] == 7
    slots.close()
    assert num_files() == before


def num_files():
    """Files of this process that have no name in the memory of the machine."""
    links = [os.path.realpath(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')]
    return sum(link.startswith('/dev/shm/') and link.endswith('(deleted)') for link in links)


def test_frames_stay_out_of_the_queue(slots, monkeypatch):
    monkeypatch.setattr(shared_memory, '_of_this_worker', (slots, range(4)))
    handed = shared_memory.share_frames({'frames_THWC': clip(5), 'record': 3})
    assert handed == {'record': 3, 'slot': 0}
    assert collect(slots, 0)[0].flat[0] == 5
    assert shared_memory.share_frames({'failures': [1]}) == {'failures': [1]}


def test_a_waiting_worker_stops_waiting_when_nobody_collects(slots):
    assert [slots.put(clip(value), range(2)) for value in (1, 2)] == [0, 1]
    slots.give_up()
    assert slots.put(clip(3), range(2)) == -1
    slots.clear()
    assert slots.put(clip(3), range(2)) == 0
