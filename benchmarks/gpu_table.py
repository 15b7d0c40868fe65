"""The results of benchmarks/gpu.sh as one Markdown table, under the names and versions of the machine."""

import json
from pathlib import Path
from typing import NamedTuple

HEADER = ('what', 'a second', 'ms', 'MFU', 'of roofline', 'needs, GiB', 'peak, GiB', 'remarks')
FACTS = ('driver', 'runtime', 'jax', 'python', 'cpu', 'date', 'commit')
LEGEND = (
    'ms: of a step, a frame, or a kernel in one step. MFU: share of the peak FLOPs of the data sheet, by the count of '
    '`models/cost.py`. of roofline: the time that the FLOPs or the estimated traffic (`planning/estimate.py`) take '
    'at the rates of the data sheet, whichever is longer, over the time taken. needs: state, batch and temporaries '
    'by the compiler; peak: the most that the process had on the device. –: not known, or not asked.'
)


class Outcome(NamedTuple):
    """How a stage ended: its rows, and the problem, '' if there was none."""

    name: str
    seconds: float
    rows: list[dict]
    problem: str


def read_rows(path: Path) -> list[dict]:
    """The rows that a stage wrote, [] if there are none; a truncated last line is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith('\n')]


def find_facts(outcomes: list[Outcome]) -> dict[str, str]:
    """The names and versions that the first stage wrote, {} if it did not."""
    return next((row['facts'] for outcome in outcomes for row in outcome.rows if 'facts' in row), {})


def markdown(outcomes: list[Outcome]) -> str:
    """The page: facts, table, legend, and how long each stage took."""
    lines = [heading(find_facts(outcomes)), '', line_of(HEADER), line_of(['---', *['---:'] * 6, '---'])]
    for outcome in outcomes:
        lines += [line_of(cells(row)) for row in outcome.rows if 'facts' not in row]
        if outcome.problem:
            lines.append(line_of([f'**{outcome.name}**', *['–'] * 6, f'**{outcome.problem}**']))
    took = ', '.join(f'{outcome.name} {outcome.seconds:.0f} s' for outcome in outcomes)
    total = sum(outcome.seconds for outcome in outcomes)
    return '\n'.join([*lines, '', LEGEND, '', f'Stages: {took}; {total:.0f} s in all.', ''])


def heading(facts: dict[str, str]) -> str:
    """The device in bold, then what else is known about the machine."""
    names = {'driver': 'driver ', 'jax': 'JAX ', 'python': 'Python ', 'commit': 'commit '}
    told = [names.get(name, '') + facts[name] for name in FACTS if facts.get(name)]
    return ', '.join([f'**{facts.get("device", "device unknown")}**', *told])


def cells(row: dict) -> list[str]:
    """The cells of a row, in the order of HEADER."""
    rate = f'{row["rate"]:,.4g} {row["unit"]}' if row.get('rate') is not None else '–'
    return [
        row['what'],
        rate,
        _number(row.get('ms'), '{:.4g}'),
        _number(row.get('mfu'), '{:.1%}'),
        _number(row.get('roofline'), '{:.1%}'),
        _gib(row.get('needs')),
        _gib(row.get('peak')),
        row.get('note') or '',
    ]


def line_of(texts) -> str:
    """A line of a Markdown table; characters that would end a cell are escaped."""
    return '| ' + ' | '.join(text.replace('\n', ' ').replace('|', '\\|') for text in texts) + ' |'


def _gib(size):
    return _number(None if size is None else size / 2**30, '{:.2f}')


def _number(value, form):
    return '–' if value is None else form.format(value)
