"""Examples that a readout learns in a second."""

import numpy as np
import pytest


class Moving:
    """Examples whose label is how fast gray becomes lighter; drawn ones start at another gray."""

    num_frames = 3

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def example(self, index, rng=None):
        label = index % 2
        start = 100 if rng is None else int(rng.integers(80, 120))
        grays_T = start + index + 30 * label * np.arange(self.num_frames)
        frames = np.broadcast_to(grays_T[:, None, None, None], (self.num_frames, 16, 16, 3)).astype(np.uint8)
        return {'id': str(index), 'video_THWC': frames, 'label': np.int32(label)}


@pytest.fixture(scope='session')
def moving():
    return Moving
