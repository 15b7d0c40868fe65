"""The site: pages that docs/hooks.py makes, commands that the pages show, and the drawing of the packages."""

import argparse
import ast
import importlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import rvm_jax
from rvm_jax import cli

REPOSITORY = Path(__file__).parents[2]
PAGES = [*sorted((REPOSITORY / 'docs').glob('*.md')), REPOSITORY / 'README.md']
EXPORT = REPOSITORY / 'tests/goldens/formats/export'
NOTEBOOK = REPOSITORY / 'docs' / 'first_look.ipynb'


@pytest.fixture(scope='module')
def hooks():
    spec = importlib.util.spec_from_file_location('hooks', REPOSITORY / 'docs' / 'hooks.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_lead_to_pages_of_the_site(hooks):
    text = '[a](../SECURITY.md#what) [b](../rvm_jax/config.py) [c](data.md) [d](https://x.org/y.md) [e](../no)'
    expected = '[a](security.md#what) [b](source/rvm_jax/config.py.md) [c](data.md) [d](https://x.org/y.md) [e](../no)'
    assert hooks.rewrite_links(text, 'probing.md') == expected
    assert hooks.rewrite_links('[a](docs/data.md), [b](docs/first_look.ipynb)', 'index.md') == (
        '[a](data.md), [b](first_look.md)'
    )


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_a_command_has_a_page_of_its_help(hooks, name):
    page = hooks.command_page(name)
    assert page.startswith(f'# rvm {name}\n') and f'usage: rvm {name}' in page
    assert '-h, --help' in page.partition('## Flags')[2]
    assert '\n\n    rvm ' in page  # the example is a block of code


@pytest.mark.parametrize(
    'name, text, address',
    [
        ('a.html', '<script async src="https://cdn.org/a.js"></script>', 'https://cdn.org/a.js'),
        ('a.html', '<link rel="stylesheet" href=//fonts.org/a.css>', '//fonts.org/a.css'),
        ('a.css', '@font-face { src: url( "http://fonts.org/a.woff" ) }', 'http://fonts.org/a.woff'),
        ('a.css', '@import "https://cdn.org/a.css";', 'https://cdn.org/a.css'),
    ],
)
def test_what_loads_from_another_host_is_found(hooks, tmp_path, name, text, address):
    (tmp_path / name).write_text(text)
    own = '<a href="https://x.org">x</a><link rel="canonical" href="https://x.org"><img src="img/a.png">'
    (tmp_path / 'own.html').write_text(own)
    assert hooks.foreign_loads(tmp_path) == [f'{name}: {address}']


def test_the_reference_has_every_public_call():
    headings = re.findall(r'heading: rvm_jax\.(\w+)', (REPOSITORY / 'docs' / 'api' / 'index.md').read_text())
    assert headings == rvm_jax.__all__


def shown_commands():
    """(page, words) of every `rvm ...` line in the shell blocks of the pages."""
    for page in PAGES:
        for block in re.findall(r'```sh\n(.*?)```', page.read_text(), re.DOTALL):
            for line in block.replace('\\\n', ' ').splitlines():
                if line.startswith('rvm '):
                    yield page.name, shlex.split(line.split(' > ')[0], comments=True)[1:]


def test_commands_on_the_pages_have_flags_that_exist():
    shown = list(shown_commands())
    assert len(shown) > 40
    for page, (name, *words) in shown:
        parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
        importlib.import_module(f'rvm_jax.{name}').add_arguments(parser)
        args, rest = parser.parse_known_args(words)
        strange = [word for word in rest if not (word.startswith('--config.') and 'config' in args)]
        assert not strange or name == 'prepare', (page, name, strange)  # prepare passes options on to Beam


def test_the_notebook_runs_from_its_first_cell_to_the_last(tmp_path):
    """Its code as a program: Jupyter and what it needs would be thirty packages more for the test."""
    cells = json.loads(NOTEBOOK.read_text())['cells']
    code = '\n\n'.join(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code')
    assert "MODEL = '../runs/first'\n" in code
    (tmp_path / 'cells.py').write_text(code.replace("'../runs/first'", repr(str(EXPORT))))
    env = os.environ | {'TMPDIR': str(tmp_path)}
    subprocess.run([sys.executable, tmp_path / 'cells.py'], cwd=REPOSITORY, env=env, check=True, timeout=600)


def drawn_rows():
    """{package or module: its row from the top} of docs/packages.svg."""
    svg = (REPOSITORY / 'docs' / 'packages.svg').read_text()
    places = re.findall(r'<text class="package" x="[\d.]+" y="(\d+)">([\w.]+)</text>', svg)
    return {name: int(y) for y, name in places}


def imports():
    """{(package or module, another that it imports)} of the package, late imports too."""
    root = REPOSITORY / 'rvm_jax'

    def drawn_as(name):
        if (root / name).is_dir():
            return name
        return 'commands' if name in ('cli', *cli.COMMANDS) else f'{name}.py'

    for path in root.rglob('*.py'):
        importer = drawn_as(path.relative_to(root).parts[0].removesuffix('.py'))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'rvm_jax':
                names = [f'{node.module}.{alias.name}' for alias in node.names]
                yield from ((importer, drawn_as(name.split('.')[1])) for name in names)


def test_the_drawn_packages_import_as_drawn():
    rows, found = drawn_rows(), set(imports())
    packages = {path.parent.name for path in (REPOSITORY / 'rvm_jax').glob('*/__init__.py')}
    assert packages <= rows.keys()
    upwards = {
        (importer, imported)
        for importer, imported in found
        if importer != imported and {importer, imported} <= rows.keys() and rows[importer] >= rows[imported]
    }
    assert not upwards
    neighbors = itertools.pairwise(sorted(set(rows.values())))
    for upper, lower in neighbors:  # an arrow stands for at least one import
        assert any(rows.get(importer) == upper and rows.get(imported, 0) >= lower for importer, imported in found)
