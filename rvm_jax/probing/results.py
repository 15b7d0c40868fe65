"""What a probe leaves in its folder: results.json, a row for a paper's table, curves, pictures."""

import json
import math
import os

from rvm_jax.errors import UserError
from rvm_jax.storage import files
from rvm_jax.visualization import canvas

RESULTS, SETTINGS, ROW, CURVE = 'results.json', 'settings.json', 'table.md', 'curve.png'


def open_folder(folder, settings):
    """Make the folder of a probe and note its settings; a folder of the same settings is resumed.

    Returns the results that are there already, or None. Raises UserError where another probe has been there.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, SETTINGS)
    settings = json.loads(json.dumps(settings))
    before = read_json(path)
    if before is not None and not isinstance(before, dict):
        raise UserError(path, 'holds no settings of a probe', 'choose another --output')
    if before is not None:
        different = sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key))
        if different:
            key = different[0]
            raise UserError(
                folder, f'holds another probe: its {key} is {before.get(key)}, not {settings.get(key)}',
                'choose another --output',
            )  # fmt: skip
    elif set(os.listdir(folder)) - {SETTINGS}:
        raise UserError(folder, 'holds other files, and no probe', 'choose another --output')
    write_json(path, settings)
    return read_json(os.path.join(folder, RESULTS))


def read_json(path):
    """What a JSON file holds; None if there is none. UserError if it holds no JSON."""
    try:
        return files.read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(path, f'is not JSON ({error})', 'leave it out, or probe again') from error


def write_json(path, values):
    """Write values; the file appears complete or not at all."""
    canvas.write_bytes(path, (json.dumps(values, indent=2) + '\n').encode())


def number(value):
    """A score as it is printed: three decimals below ten, one above; – for one that is not known."""
    if not math.isfinite(value):
        return '–'
    return f'{value:.3f}' if abs(value) < 10 else f'{value:.1f}'


def markdown(header, rows):
    """A table in Markdown; every cell is a string."""
    lines = [header, ['---'] * len(header), *rows]
    return ''.join('| ' + ' | '.join(cells) + ' |\n' for cells in lines)


def aligned(header, rows):
    """A table as lines of text: the first column to the left, numbers to the right."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    return [
        '  '.join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in (header, *rows)
    ]
