"""Compile every recipe for a GPU and a TPU, without the devices, and fail if a program is not as expected.

    make check-accelerators                                               # all of benchmarks/accelerators.json
    make check-accelerators FLAGS='--only h100:1 rvm_s rvm_l --markdown'  # some of it

Compiles with the flags and the effort of training. A program fails if it does not compile, if attention scores are
written to main memory, if attention runs again in the backward pass, if whole weights or gradients appear where they
should be split, or if memory or traffic are more than 5 % above the figures in benchmarks/accelerators.json. Programs
that have not changed are read from the folder `compiled` of the environment.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

from gpu import reason

from rvm_jax.planning import program_checks as checks
from rvm_jax.planning.aot_process import environment
from rvm_jax.planning.topology import parse

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
RECORD = os.path.join(HERE, 'accelerators.json')
ENVIRONMENTS = {'gpu': os.path.join(ROOT, '.venv-cuda'), 'tpu': os.path.join(ROOT, '.venv-tpu')}
HEADER = ('recipe', 'on', 'clips a device', 'GiB a device', 'HBM GB a clip', 'attention calls, forward and backward',
          'GB gathered, scattered, summed', 'compiled in s', 'verdict')  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='only the programs that are marked quick')
    parser.add_argument('--only', nargs='+', default=[], metavar='WORD', help='recipes and topologies, such as rvm_s')
    parser.add_argument('--record', action='store_true', help='write the figures into benchmarks/accelerators.json')
    parser.add_argument('--markdown', action='store_true', help='print the table as in docs/scaling.md')
    flags = parser.parse_args()
    os.chdir(ROOT)
    with open(RECORD, encoding='utf-8') as file:
        programs = json.load(file)
    chosen = [case for case in programs if is_chosen(case, flags.quick, flags.only)]
    results = []
    for number, case in enumerate(chosen, 1):
        print(f'{number} of {len(chosen)}: {case["recipe"]} for {case["topology"]}', end='', flush=True)
        result = compiled(case)
        if flags.record and result['figures']:
            case |= recorded(case, result)
            with open(RECORD, 'w', encoding='utf-8') as file:
                file.write('[\n' + ',\n'.join(f'  {json.dumps(one)}' for one in programs) + '\n]\n')
        elif result['figures']:
            result['findings'] += compared(case, recorded(case, result))
        print(f', {took(result)}', *result['findings'], sep='\n    ')
        results.append(result)
    failed = sum(bool(result['findings']) for result in results)
    print(table(chosen, results, flags.markdown))
    print(f'{failed} of {len(results)} programs fail' if failed else f'all {len(results)} programs are as expected')
    return 1 if failed else 0


def is_chosen(case, quick, words):
    """Whether a program is selected: by a recipe, a topology, or both."""
    topologies = [word for word in words if ':' in word]
    recipes = [word for word in words if ':' not in word]
    return (
        (case['quick'] or not quick)
        and (case['topology'] in topologies or not topologies)
        and (recipe_name(case) in recipes or not recipes)
    )


def compiled(case):
    """The result of accelerator_program.py for a program, run in the environment for its kind of device."""
    platform = parse(case['topology']).platform
    folder = ENVIRONMENTS[platform]
    with tempfile.TemporaryDirectory(prefix='rvm_accelerators_') as place:
        case_path, result_path = (os.path.join(place, name) for name in ('case.json', 'result.json'))
        with open(case_path, 'w', encoding='utf-8') as file:
            json.dump(case, file)
        program = os.path.join(HERE, 'accelerator_program.py')
        command = [os.path.join(folder, 'bin', 'python'), program, case_path, result_path]
        ended = subprocess.run(
            [*command, os.path.join(folder, 'compiled')],
            env=environment(platform, as_training=True) | {'PYTHONPATH': ROOT},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors='replace',
        )
        if ended.returncode:
            finding = f'does not compile: exit code {ended.returncode}, {reason(ended.stderr)}'
            return {'figures': None, 'findings': [finding], 'seconds': None}
        with open(result_path, encoding='utf-8') as file:
            return json.load(file)


def took(result):
    """How long compiling took, as text."""
    if result['figures'] is None:
        return 'failed'
    return 'unchanged, taken from the last run' if result['seconds'] is None else f'{result["seconds"]:.0f} s'


def recorded(case, result):
    """The entry for benchmarks/accelerators.json: GiB per device, GB per clip, and the version of JAX."""
    found, clips = result['figures'], case['batch'] // parse(case['topology']).devices
    return {
        'memory_gib': round(found['needs'] / 2**30, 2),
        'traffic_gb_a_clip': round(found['traffic'] / clips / 1e9, 3),
        'jax': found['jax'],
    }


def compared(case, found):
    """Findings about memory and traffic that are above the recorded figures."""
    by = '' if case.get('jax') in (None, found['jax']) else f' (recorded with JAX {case["jax"]})'
    findings = checks.grown('memory', found['memory_gib'], case.get('memory_gib'), 'GiB a device')
    findings += checks.grown('traffic', found['traffic_gb_a_clip'], case.get('traffic_gb_a_clip'), 'GB a clip')
    return [finding + by for finding in findings]


def table(cases, results, markdown):
    """The table: one line per program."""
    rows = [cells(case, result) for case, result in zip(cases, results, strict=True)]
    if markdown:
        rule = ['---', '---'] + ['---:'] * (len(HEADER) - 3) + ['---']
        return '\n'.join(f'| {" | ".join(row)} |' for row in [HEADER, rule, *rows])
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    return '\n'.join('  '.join(map(str.ljust, row, widths)) for row in [HEADER, *rows])


def cells(case, result):
    """The cells of a program in the table."""
    first = recipe_name(case), case['topology'], str(case['batch'] // parse(case['topology']).devices)
    verdict = 'FAILS' if result['findings'] else 'ok'
    if result['figures'] is None:
        return (*first, *['-'] * (len(HEADER) - len(first) - 1), verdict)
    found, figures = recorded(case, result), result['figures']
    moved = [figures['collectives'].get(kind) for kind in ('all-gather', 'reduce-scatter', 'all-reduce')]
    return (
        *first,
        f'{found["memory_gib"]:.1f}',
        f'{found["traffic_gb_a_clip"]:.2f}',
        ', '.join(map(str, figures['attention'])),
        ', '.join(f'{one["size"] / 1e9:.2f}' if one else '0' for one in moved) if any(moved) else '-',
        '-' if result['seconds'] is None else f'{result["seconds"]:.0f}',
        verdict,
    )


def recipe_name(case):
    """rvm_s of configs/rvm_s.py."""
    return os.path.basename(case['recipe']).removesuffix('.py')


if __name__ == '__main__':
    sys.exit(main())
