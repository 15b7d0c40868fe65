"""The demo page: one HTML file with everything inside, which can be opened, mailed or put on a server."""

import base64
import html
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rvm_jax.visualization import canvas

VIDEO_TYPES = {'.mp4': 'video/mp4'}


class Row(NamedTuple):
    """One line of the results table."""

    name: str
    value: str
    explanation: str


class Picture(NamedTuple):
    """A picture with its heading and caption.

    image is a path (.png or .mp4), a uint8 HWC array, or a pair of arrays for light and dark pages.
    """

    title: str
    caption: str
    image: str | os.PathLike | np.ndarray | tuple[np.ndarray, np.ndarray]
    alt: str = ''  # if empty, the title


INTRO = """
<p>A <strong>Recurrent Video Masked Autoencoder</strong> (RVM) learns from video without labels. It watches a few frames
one after another: an image encoder turns each frame into a grid of tokens, and a recurrent core carries information
from frame to frame. Then it sees a later frame with nearly all patches hidden and has to predict the hidden ones. That
only works if its features describe what is in the scene and how it moves.</p> <p>There are two kinds of pictures. The
<em>reconstructions</em> show how well the model does this task. The <em>feature pictures</em> show what is useful
afterwards: the video goes through the core one frame at a time, and each patch is colored by its features. Patches of
the same color look similar to the model, over space and time.</p>
"""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #fff; --ink: #1f242b; --soft: #59616c; --line: #e2e4e1;
  --accent: #1f6fb0; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #121519; --card: #1b1f24; --ink: #e6e8eb; --soft: #a3abb6; --line: #2f353d; --accent: #7ab8ea; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1 { font-size: clamp(1.7rem, 4vw, 2.4rem); line-height: 1.2; margin: 0 0 .6rem; letter-spacing: -.015em; }
h1, .summary { text-wrap: balance; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .4rem; }
p { max-width: 46rem; margin: 0 0 1rem; }
.summary { font-size: 1.15rem; color: var(--soft); margin-bottom: 1.8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .8rem 0 0; }
caption, th { text-align: left; }
th, td { padding: .6rem 1.2rem .6rem 0; border-bottom: 1px solid var(--line); vertical-align: baseline; }
thead th { color: var(--soft); font-size: .85rem; font-weight: 600; }
tbody th { font-weight: 600; white-space: nowrap; }
td.value { font-variant-numeric: tabular-nums; font-weight: 600; color: var(--accent); white-space: nowrap;
  text-align: right; }
thead th.value { text-align: right; }
td.words { color: var(--soft); width: 100%; }
figure { margin: .9rem 0 0; }
figure img, figure video { display: block; max-width: 100%; height: auto; border: 1px solid var(--line);
  border-radius: 8px; background: #fff; }
figcaption { color: var(--soft); margin: 0 0 .8rem; max-width: 46rem; }
@media (max-width: 640px) {
  thead { position: absolute; clip-path: inset(50%); }
  tbody tr { display: grid; grid-template-columns: 1fr auto; border-bottom: 1px solid var(--line); padding: .5rem 0; }
  tbody th, tbody td { border: 0; padding: .1rem 0; }
  td.words { grid-column: 1 / 3; }
  .scroll img { max-width: none; width: 720px; } }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .875rem; }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
<p class="summary">{summary}</p>
{intro}
</header>
<section>
<h2>Results</h2>
<div class="scroll"><table>
<thead>
<tr><th scope="col">What</th><th scope="col" class="value">Value</th><th scope="col">What it means</th></tr>
</thead>
<tbody>
{rows}
</tbody>
</table></div>
</section>
{figures}
<footer>{footer}</footer>
</main>
</body>
</html>
"""


def write_report(
    path: str | os.PathLike,
    *,
    title: str,
    summary: str,
    rows: Sequence[Row],
    pictures: Sequence[Picture],
    footer: str = '',
) -> None:
    """Write the page, with rows and pictures in the order given; texts are plain and are escaped here.

    The file appears complete or not at all. Raises FileNotFoundError if a picture does not exist.
    """
    page = PAGE.format(
        title=html.escape(title),
        style=STYLE,
        summary=html.escape(summary),
        intro=INTRO,
        rows='\n'.join(_row(row) for row in rows),
        figures='\n'.join(_section(picture) for picture in pictures),
        footer=html.escape(footer),
    )
    canvas.write_bytes(path, page.encode())


def _row(row):
    name, value, words = (html.escape(text) for text in row)
    return f'<tr><th scope="row">{name}</th><td class="value">{value}</td><td class="words">{words}</td></tr>'


def _section(picture):
    caption = f'<figcaption>{html.escape(picture.caption)}</figcaption>' if picture.caption else ''
    element = _element(picture.image, picture.alt or picture.title)
    return (
        f'<section>\n<h2>{html.escape(picture.title)}</h2>\n'
        f'<figure>{caption}\n<div class="scroll">{element}</div></figure>\n</section>'
    )


def _element(image, alt):
    alt = html.escape(alt, quote=True)
    if isinstance(image, tuple):
        light, dark = (_data_uri('image/png', canvas.png_bytes(array)) for array in image)
        source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        return f'<picture>{source}<img src="{light}" alt="{alt}"></picture>'
    if isinstance(image, np.ndarray):
        return f'<img src="{_data_uri("image/png", canvas.png_bytes(image))}" alt="{alt}">'
    with open(image, 'rb') as file:
        content = file.read()
    kind = VIDEO_TYPES.get(os.path.splitext(image)[1])
    if kind:
        source = _data_uri(kind, content)
        return f'<video src="{source}" aria-label="{alt}" controls loop muted autoplay playsinline></video>'
    return f'<img src="{_data_uri("image/png", content)}" alt="{alt}">'


def _data_uri(kind, content):
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'
