"""What mkdocs calls while it builds the site: pages made from the README, the commands, the notebook and the code.

Links that leave docs/ lead to a page as well, so that the site needs no other host; it may load nothing from one.
"""

import base64
import contextlib
import io
import json
import os
import posixpath
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvm_jax import cli

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parent.parent
ROOT_PAGES = {
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
    'SECURITY.md': 'security.md',
}
NOTEBOOK = 'docs/first_look.ipynb'
LANGUAGES = {'.py': 'python', '.sh': 'sh', '.toml': 'toml'}
LINK = re.compile(r'(\]\()([^)\s#]+)((?:#[^)\s]*)?\))')
LOADS = (  # what makes a browser fetch something, not what a reader may click on
    re.compile(
        r'<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|data)\s*=\s*["\']?([^"\'\s>]+)'
    ),
    re.compile(r'<link\b(?![^>]*\brel=["\']?(?:canonical|next|prev))[^>]*?\bhref\s*=\s*["\']?([^"\'\s>]+)'),
    re.compile(r'url\(\s*["\']?([^"\')]+)'),
    re.compile(r'@import\s+["\']([^"\']+)'),
)


def on_config(config: 'MkDocsConfig') -> 'MkDocsConfig':
    """Add a page for each command to the navigation."""
    for section in config['nav']:
        if 'Commands' in section:
            section['Commands'] = ['commands/index.md', *(f'commands/{name}.md' for name in cli.COMMANDS)]
    return config


def on_files(files: 'Files', config: 'MkDocsConfig') -> 'Files':
    """Add all pages that are made rather than written."""
    from mkdocs.structure.files import File

    pages = {page: (REPOSITORY / name).read_text() for name, page in ROOT_PAGES.items()}
    pages |= {f'commands/{name}.md': command_page(name) for name in cli.COMMANDS}
    pages['commands/index.md'] = commands_page()
    pages |= notebook_page(json.loads((REPOSITORY / NOTEBOOK).read_text()), 'first_look')
    pages['pygments.css'] = _pygments_css()
    written = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for page, text in {**written, **pages}.items():
        if page.endswith('.md'):
            pages |= {name: source_page(path) for path, name in _sources(page, text).items()}
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: 'Page', **_: Any) -> str:
    """Lead links to files of the repository to their pages."""
    return rewrite_links(markdown, page.file.src_uri)


def on_page_content(html: str, page: 'Page', **_: Any) -> str:
    """Call `load` in its signature by its public name."""
    if page.file.src_uri != 'api/index.md':
        return html
    return html.replace('<span class="nf">load</span>', '<span class="nf">from_pretrained</span>')


def on_post_build(config: 'MkDocsConfig') -> None:
    """Refuse a site that loads anything from another host."""
    from mkdocs.exceptions import PluginError

    if foreign := foreign_loads(config['site_dir']):
        raise PluginError('pages load files from other hosts:\n' + '\n'.join(foreign))


def commands_page() -> str:
    """The commands in a table."""
    rows = (f'| [`rvm {name}`]({name}.md) | {text} |' for name, text in cli.COMMANDS.items())
    return '\n'.join(['# Commands', '', '| command | what it does |', '| --- | --- |', *rows, ''])


def command_page(name: str) -> str:
    """The page of a command: its --help, the description as text and the flags as they are printed."""
    os.environ['COLUMNS'] = '80'
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.run(name, ['--help'])
    description = sys.modules[f'rvm_jax.{name}'].__doc__.strip()
    usage, _, flags = printed.getvalue().partition(description)
    prose = re.sub(r'(?m)^(\S.*)\n(?= {4}\S)', r'\1\n\n', description)  # Markdown wants an empty line before code
    return f'# rvm {name}\n\n{prose}\n\n## Flags\n\n```text\n{usage.strip()}\n\n{flags.strip()}\n```\n'


def notebook_page(notebook: dict[str, Any], name: str) -> dict[str, str | bytes]:
    """{file: content} of a notebook's page and its pictures, with the outputs that are stored in it."""
    parts, files = [], {}
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            parts.append(source)
            continue
        parts.append(f'```python\n{source}\n```')
        for output in cell['outputs']:
            data = output.get('data', {})
            if 'image/png' in data:
                picture = f'{name}_{len(files)}.png'
                files[picture] = base64.b64decode(''.join(data['image/png']))
                parts.append(f'![output]({picture})')
            elif text := ''.join(data.get('text/plain', output.get('text', ''))):
                parts.append(f'```text\n{text.rstrip()}\n```')
    return files | {f'{name}.md': '\n\n'.join(parts) + '\n'}


def source_page(path: str) -> str:
    """A file of the repository as a page."""
    language = LANGUAGES.get(posixpath.splitext(path)[1], 'text')
    return f'# {path}\n\n````{language}\n{(REPOSITORY / path).read_text()}````\n'


def rewrite_links(markdown: str, page: str) -> str:
    """The text of a page with links to files outside docs/ led to their pages in the site."""

    def rewrite(match):
        target = _page_of(_repository_path(page, match[2]))
        if '://' in match[2] or target is None:
            return match[0]
        return match[1] + posixpath.relpath(target, posixpath.dirname(page) or '.') + match[3]

    return LINK.sub(rewrite, markdown)


def foreign_loads(folder: str | Path) -> list[str]:
    """'file: address' of everything in a built site that a browser would fetch from another host."""
    found = []
    for path in sorted(Path(folder).rglob('*')):
        if path.suffix in ('.html', '.css', '.svg'):
            text = path.read_text()
            addresses = (match for pattern in LOADS for match in pattern.findall(text))
            foreign = {address for address in addresses if re.match(r'(?:[a-z]+:)?//', address, re.IGNORECASE)}
            found += [f'{path.relative_to(folder)}: {address}' for address in sorted(foreign)]
    return found


def _sources(page, text):
    """{path in the repository: page} of the files that a page links to and that have no page otherwise."""
    paths = {_repository_path(page, target) for _, target, _ in LINK.findall(text) if '://' not in target}
    return {path: _page_of(path) for path in paths if (_page_of(path) or '').startswith('source/')}


def _repository_path(page, target):
    """Where a link of a page leads in the repository."""
    at_root = {page: name for name, page in ROOT_PAGES.items()}
    origin = at_root.get(page, f'docs/{page}')
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def _page_of(path):
    """The page of a file of the repository; None if there is no such file."""
    if path.startswith('docs/'):
        return path.removeprefix('docs/').replace('.ipynb', '.md')
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    return f'source/{path}.md' if (REPOSITORY / path).is_file() else None


def _pygments_css():
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style='default').get_style_defs('.highlight')
