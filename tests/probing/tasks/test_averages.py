import numpy as np

from rvm_jax.probing.tasks.averages import average

EXAMPLES = [{'id': 'a'}, {'id': 'b'}, {'id': 'a'}]


def test_clips_of_a_video_are_averaged_first():
    scores = [{'x': 1.0}, {'x': 5.0}, {'x': 3.0}]
    assert average(scores, EXAMPLES) == {'x': 3.5}


def test_what_a_clip_does_not_have_is_left_out():
    scores = [{'x': np.nan, 'y': np.nan}, {'x': 5.0, 'y': np.nan}, {'x': 3.0, 'y': np.nan}]
    found = average(scores, EXAMPLES)
    assert found['x'] == 4.0 and np.isnan(found['y'])
