import numpy as np
import pytest

from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.places365 import Places365

KINDS = {'video_THWC': ((1, 28, 28, 3), np.uint8), 'label': ((), np.int32)}
HOW = {'image_size': 28, 'resize_to': 32}


@pytest.fixture
def root(tmp_path, draw_marker, write_image):
    for name in ('data_256_standard/a/airfield/1.jpg', 'data_256_standard/z/zen_garden/2.jpg', 'val_256/3.jpg'):
        write_image(tmp_path / name, draw_marker(0.5, 0.5, 40, 40))
    (tmp_path / 'places365_train_standard.txt').write_text('/a/airfield/1.jpg 0\n/z/zen_garden/2.jpg 364\n')
    (tmp_path / 'places365_val.txt').write_text('3.jpg 165\n')
    return tmp_path


def test_labels_are_those_of_the_lists(root, check_source):
    source = Places365(root, 'train', **HOW)
    check_source(source, 0, KINDS)
    assert [source.example(i)['label'] for i in range(len(source))] == [0, 364]
    assert Places365(root, 'val', **HOW).example(0)['label'] == 165
    assert len(source.classes) == 365


def test_what_is_missing_is_named(root):
    (root / 'val_256' / '3.jpg').unlink()
    with pytest.raises(UserError, match=r'3\.jpg: is not there \(the first picture of places365_val.txt .*places2'):
        Places365(root, 'val', **HOW)
    (root / 'data_256_standard' / 'z' / 'zen_garden' / '2.jpg').unlink()
    with pytest.raises(DataError, match=r'2\.jpg: is not there'):
        Places365(root, 'train', **HOW).example(1)
    (root / 'places365_val.txt').write_text('3.jpg 365\n')
    with pytest.raises(UserError, match='without a label from 0 to 364'):
        Places365(root, 'val', **HOW)
    (root / 'places365_val.txt').unlink()
    with pytest.raises(UserError, match=r'places365_val\.txt: is not there'):
        Places365(root, 'val', **HOW)


@pytest.mark.parametrize('text', ['/a/airfield\n', '/a/airfield 0\n', '/a/airfield zero\n'])
def test_names_of_classes_that_cannot_be_read_are_one_line(root, text):
    (root / 'categories_places365.txt').write_text(text)
    with pytest.raises(UserError, match=r'categories_places365\.txt: lacks an entry .*again$'):
        Places365(root, 'val', **HOW)
