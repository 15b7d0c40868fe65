import json

import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.probing.datasets.inaturalist import INaturalist

KINDS = {'video_THWC': ((1, 28, 28, 3), np.uint8), 'label': ((), np.int32)}
HOW = {'image_size': 28, 'resize_to': 32}


@pytest.fixture
def root(tmp_path, draw_marker, write_image):
    names = ['train_val2018/Aves/2/b.jpg', 'train_val2018/Plantae/0/a.jpg']
    for name in names:
        write_image(tmp_path / name, draw_marker(0.5, 0.5, 40, 40))
    table = {
        'images': [{'id': 11, 'file_name': names[0]}, {'id': 5, 'file_name': names[1]}],
        'annotations': [{'image_id': 5, 'category_id': 0}, {'image_id': 11, 'category_id': 2}],
        'categories': [{'id': i, 'name': f'species {i}'} for i in range(3)],
    }
    (tmp_path / 'val2018.json').write_text(json.dumps(table))
    return tmp_path


def test_labels_belong_to_their_pictures(root, check_source):
    source = INaturalist(root, 'val', **HOW)
    check_source(source, 0, KINDS)
    assert [source.example(i)['label'] for i in range(len(source))] == [2, 0]
    assert source.classes == ('species 0', 'species 1', 'species 2')


def test_what_is_missing_is_named(root):
    with pytest.raises(UserError, match=r'train2018\.json: is not there .*inat_comp'):
        INaturalist(root, 'train', **HOW)
    (root / 'train_val2018' / 'Aves' / '2' / 'b.jpg').unlink()
    with pytest.raises(UserError, match=r'b\.jpg: is not there'):
        INaturalist(root, 'val', **HOW)
    (root / 'val2018.json').write_text('{"images": []}')
    with pytest.raises(UserError, match=r"lacks an entry \(KeyError: 'annotations'"):
        INaturalist(root, 'val', **HOW)
