"""Run the demo with three seeds, and write its figures and pictures into README.md and docs/.

    make figures                                   # half an hour on two CPU cores; started again, it resumes

A page has the figures between two comments, `<!-- figures: NAME -->` and `<!-- end of figures -->`. The text between
them is replaced: never edit it by hand.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time

import jax
from gpu_stages import processor

from rvm_jax import demo
from rvm_jax.terminal import duration, markdown

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGES = ('README.md', 'docs/results.md', 'docs/benchmarks.md')
PICTURES = {'reconstruction': 'demo', 'features_1': 'demo_features', 'noise_square': 'demo_noise'}
BLOCK = re.compile(r'(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)', re.DOTALL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', default='runs/figures', help='folder for the runs (runs/figures)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    flags = parser.parse_args()
    found = [run(os.path.join(flags.output, f'seed_{seed}'), seed) for seed in flags.seeds]
    for picture, name in PICTURES.items():
        source = os.path.join(flags.output, f'seed_{flags.seeds[0]}', f'{picture}.png')
        shutil.copyfile(source, os.path.join(ROOT, 'docs', f'{name}.png'))
    blocks = {'demo': table(found, flags.seeds)}
    for page in PAGES:
        path = os.path.join(ROOT, page)
        with open(path, encoding='utf-8') as file:
            text = file.read()
        with open(path, 'w', encoding='utf-8') as file:
            file.write(BLOCK.sub(lambda match: f'{match[1]}\n{blocks[match[2]]}\n\n{match[3]}', text))
    print(blocks['demo'])


def run(folder, seed):
    """The results of the demo with a seed, with its 'seconds' and the 'machine', run if they are not there."""
    path = os.path.join(folder, 'measured.json')
    if not os.path.exists(path):
        started = time.monotonic()
        subprocess.run([sys.executable, '-m', 'rvm_jax.demo', '--output', folder, f'--config.seed={seed}'], check=True)
        with open(os.path.join(folder, demo.RESULTS), encoding='utf-8') as file:
            found = json.load(file)
        found |= {'seconds': time.monotonic() - started, 'machine': machine()}
        with open(path, 'w', encoding='utf-8') as file:
            json.dump(found, file, indent=1)
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def machine():
    cores = len(os.sched_getaffinity(0))
    return f'{datetime.date.today()}, {cores} CPU cores ({processor()}), JAX {jax.__version__}'


def table(found, seeds):
    """The figures in Markdown: mean, least and most over the seeds."""
    rows = {
        'error, model': [one['loss'] for one in found],
        'error, copying the last source frame': [one['copy_last'] for one in found],
        'error, mean color of the source frames': [one['mean_color'] for one in found],
        'model / better of the two': [one['loss'] / demo.better(one) for one in found],
        'noise square, model (mIoU of a linear readout)': [one['noise_square']['model'] for one in found],
        'noise square, its image encoder': [one['noise_square']['image encoder'] for one in found],
    }
    lines = [(name, *summary(values)) for name, values in rows.items()]
    seconds = [one['seconds'] for one in found]
    lines.append(('time, without installing', *summary(seconds, duration)))
    names = ', '.join(map(str, seeds))
    note = f'Seeds {names}; {"; ".join(sorted({one["machine"] for one in found}))}. Written by `make figures`.'
    return markdown(('held-out clips', 'mean', 'over seeds'), lines, right=2) + f'\n{note}'


def summary(values, text='{:.3g}'.format):
    """Mean and range as text."""
    mean, low, high = map(text, (sum(values) / len(values), min(values), max(values)))
    return mean, f'{low} to {high}' if values[1:] else 'one seed alone'


if __name__ == '__main__':
    main()
