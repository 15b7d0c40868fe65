import numpy as np

from rvm_jax.probing.tasks.losses import average


def test_clips_of_a_video_are_averaged_first():
    assert average([{'id': 'a', 'x': 1.0}, {'id': 'b', 'x': 5.0}, {'id': 'a', 'x': 3.0}]) == {'x': 3.5}


def test_what_a_clip_does_not_have_is_left_out():
    found = average([{'id': name, 'x': x, 'y': np.nan} for name, x in (('a', np.nan), ('b', 5.0), ('a', 3.0))])
    assert found['x'] == 4.0 and np.isnan(found['y'])
