"""What a run of many hours would lose bit by bit: memory, open files, processes."""

import multiprocessing
import os

import psutil
import pytest

from rvm_jax import config
from rvm_jax.data.loader import make_loader
from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.sources.folder import FolderSource

CLIPS, WARM, BATCH = 100_000, 20_000, 50


def usage():
    """{process: (bytes of memory, open files)} of this process and its workers, and the pieces of shared memory."""
    me = psutil.Process()
    alive = [me, *(psutil.Process(child.pid) for child in multiprocessing.active_children())]
    assert all(child.status() != psutil.STATUS_ZOMBIE for child in me.children(recursive=True))
    found = {process.pid: (process.memory_info().rss, process.num_fds()) for process in alive}
    return found, len(os.listdir('/dev/shm'))


@pytest.mark.slow
@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_hundred_thousand_clips_cost_no_memory_and_no_files(tmp_path, write_video, num_workers):
    for i, name in enumerate(('a.mp4', 'b.mkv', 'c.webm')):
        how = {'codec': 'libvpx', 'options': {'deadline': 'realtime', 'cpu-used': '8'}} if i == 2 else {}
        write_video(tmp_path / name, 30 + i, size=(32, 32), **how)
    data = config.default().data
    data.image_size, data.num_source, data.num_target, data.min_gap, data.max_gap = 16, 2, 2, 1, 12
    data.num_workers = num_workers
    mixture = Mixture([Part(FolderSource(tmp_path), fps=10)])
    largest, before, after, shared = {}, {}, {}, set()
    with make_loader(mixture, data, seed=0, batch_size=BATCH) as loader:
        for step in range(CLIPS // BATCH):
            next(loader)
            if step % 20:
                continue
            after, pieces = usage()
            shared.add(pieces)
            if step * BATCH == WARM:
                before = after
            if step * BATCH > CLIPS - 10_000:
                largest = {pid: max(largest.get(pid, 0), size) for pid, (size, _) in after.items()}
    growth = {pid: largest[pid] / size - 1 for pid, (size, _) in before.items()}
    print({pid: (f'{size / 2**20:.0f} MiB', f'{growth[pid]:+.2%}', files) for pid, (size, files) in before.items()})
    assert len(before) == 1 + num_workers and before.keys() == after.keys()
    assert all(share < 0.05 for share in growth.values())
    assert {pid: files for pid, (_, files) in before.items()} == {pid: files for pid, (_, files) in after.items()}
    assert max(shared) < 20 + 4 * BATCH
    assert multiprocessing.active_children() == []
    assert psutil.Process().children(recursive=True) == [] or num_workers  # the tracker of shared memory stays
