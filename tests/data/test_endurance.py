"""What a run of many hours would lose bit by bit: memory, open files, processes."""

import multiprocessing

import psutil
import pytest

from rvm_jax import config
from rvm_jax.data.loader import make_loader
from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.sources.folder import FolderSource

CLIPS, WARM, WINDOW = 100_000, 20_000, 10_000  # in all; until things have settled; in which the most is looked for
BATCH, NUM_WORKERS = 50, 2


def usage():
    """{process: [bytes of memory, open files]} of this process and its workers."""
    me = psutil.Process()
    assert all(child.status() != psutil.STATUS_ZOMBIE for child in me.children(recursive=True))
    alive = [me, *(psutil.Process(child.pid) for child in multiprocessing.active_children())]
    return {process.pid: [process.memory_info().rss, process.num_fds()] for process in alive}


def most(usages):
    """The largest of each number, by process."""
    return {pid: [max(usage[pid][i] for usage in usages) for i in range(2)] for pid in usages[0]}


@pytest.mark.slow
def test_a_hundred_thousand_clips_cost_no_memory_and_no_files(tmp_path, write_video):
    for i, name in enumerate(('a.mp4', 'b.mkv', 'c.webm')):
        how = {'codec': 'libvpx', 'options': {'deadline': 'realtime', 'cpu-used': '8'}} if i == 2 else {}
        write_video(tmp_path / name, 30 + i, size=(32, 32), **how)
    data = config.default().data
    data.image_size, data.num_source, data.num_target, data.min_gap, data.max_gap = 16, 2, 2, 1, 12
    data.num_workers = NUM_WORKERS
    mixture = Mixture([Part(FolderSource(tmp_path), fps=10)])
    before, after = [], []
    with make_loader(mixture, data, seed=0, batch_size=BATCH) as loader:
        for clips in range(0, CLIPS, BATCH):
            next(loader)
            if WARM <= clips < WARM + WINDOW:
                before.append(usage())
            if clips >= CLIPS - WINDOW:
                after.append(usage())
    before, after = most(before), most(after)
    print({pid: (f'{before[pid][0] / 2**20:.0f} MiB', after[pid][0] / before[pid][0], after[pid][1]) for pid in after})
    assert len(before) == 1 + NUM_WORKERS and before.keys() == after.keys()
    for pid, (memory, files) in before.items():
        assert after[pid][0] < 1.05 * memory
        assert after[pid][1] <= files
    assert multiprocessing.active_children() == []
    assert len(psutil.Process().children(recursive=True)) <= 1  # the tracker of shared memory stays
