import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from rvm_jax.visualization import movies, report


class Page(HTMLParser):
    """Every tag of a page with its attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ''
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def page(tmp_path):
    rng = np.random.default_rng(0)
    array, light, dark = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    movies.write_video(tmp_path / 'clip.mp4', array[None])
    report.write_report(
        tmp_path / 'report.html',
        title='Demo <b>',
        summary='It went <i>well</i> & fast.',
        rows=[report.Row('Ratio', '0.52', 'below <u>1')],
        pictures=[
            report.Picture('Array', 'as <s> is', array),
            report.Picture('Curve', '', (light, dark), alt='loss "falls"'),
            report.Picture('Clip', 'moves', str(tmp_path / 'clip.mp4')),
        ],
    )
    return array, Page((tmp_path / 'report.html').read_text())


def test_page_stands_alone(page):
    _, page = page
    assert not page.all('script') and not page.all('link')
    links = [value for _, attrs in page.tags for name, value in attrs.items() if name in ('src', 'srcset', 'href')]
    assert len(links) == 4 and all(re.match(r'data:(image/png|video/mp4);base64,', link) for link in links)


def test_pictures_arrive_unchanged_and_have_alt_texts(page):
    array, page = page
    images = page.all('img')
    content = base64.b64decode(images[0]['src'].split(',')[1])
    assert (cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] == array).all()
    assert [image['alt'] for image in images] == ['Array', 'loss "falls"']
    assert page.all('video')[0]['aria-label'] == 'Clip'


def test_text_is_escaped_and_shown(page):
    _, page = page
    for words in ('Demo <b>', 'It went <i>well</i> & fast.', '0.52', 'below <u>1', 'as <s> is'):
        assert words in page.text


def test_dark_pages_get_the_dark_picture(page):
    _, page = page
    assert [source['media'] for source in page.all('source')] == ['(prefers-color-scheme: dark)']


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'gone\.png'):
        report.write_report(
            tmp_path / 'r.html', title='', summary='', rows=[], pictures=[report.Picture('a', '', 'gone.png')]
        )
    assert list(tmp_path.iterdir()) == []
