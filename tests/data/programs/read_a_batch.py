"""Reads one batch with worker processes: read_a_batch.py FOLDER WORKERS."""

import sys

from rvm_jax import config
from rvm_jax.data.loader import make_loader
from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.sources.folder import FolderSource

if __name__ == '__main__':
    data = config.default().data
    data.image_size, data.num_source, data.num_target, data.min_gap, data.max_gap = 32, 2, 3, 1, 12
    data.num_workers, data.decode_timeout = int(sys.argv[2]), 600
    with make_loader(Mixture([Part(FolderSource(sys.argv[1]), 10)]), data, seed=1, batch_size=5) as loader:
        print('started', flush=True)
        next(loader)
    print('read', flush=True)
