import json
import os

import check_accelerators as check
import pytest

from rvm_jax import config as configs
from rvm_jax.planning import topology

GIB = 2**30
CASE = {'recipe': 'configs/rvm_l.py', 'topology': 'h100:8', 'batch': 64, 'quick': False}
FIGURES = {
    'needs': 12 * GIB, 'traffic': 8 * 12e9, 'attention': [96, 96], 'jax': '0.10.2',
    'collectives': {'all-gather': {'size': 2.5e9}, 'all-reduce': {'size': 0.01e9}},
}  # fmt: skip


@pytest.fixture
def programs():
    with open(check.RECORD, encoding='utf-8') as file:
        return json.load(file)


def test_every_recipe_is_compiled_and_large_ones_for_eight(programs):
    recipes = {f'configs/{name}' for name in os.listdir('configs') if name.endswith('.py')}
    for one in ('h100:1', 'v6e:1x1'):
        assert {case['recipe'] for case in programs if case['topology'] == one} == recipes
    for eight in ('h100:8', 'v6e:2x4'):
        found = {case['recipe'] for case in programs if case['topology'] == eight}
        assert found == {'configs/rvm_l.py', 'configs/rvm_h.py'}
    for case in programs:
        assert case['batch'] % topology.parse(case['topology']).devices == 0
        configs.load(case['recipe'], [f'batch_size={case["batch"]}'])


def test_the_quick_part_is_s_and_a_frozen_l_for_one_gpu(programs):
    quick = [(check.recipe_name(case), case['topology']) for case in programs if check.is_chosen(case, True, [])]
    assert quick == [('rvm_s', 'h100:1'), ('dinov2_rvmrnn', 'h100:1')]


@pytest.mark.parametrize(
    ('words', 'is_chosen'),
    [([], True), (['rvm_l'], True), (['h100:8', 'rvm_l', 'rvm_s'], True), (['h100:1'], False), (['rvm_s'], False)],
)
def test_programs_are_chosen_by_recipe_and_topology(words, is_chosen):
    assert check.is_chosen(CASE, False, words) == is_chosen


def test_what_has_grown_by_more_than_five_percent_is_found():
    found = check.recorded(CASE, {'figures': FIGURES})
    assert found == {'memory_gib': 12.0, 'traffic_gb_a_clip': 12.0, 'jax': '0.10.2'}
    assert check.compared(CASE | found, found) == []
    assert check.compared(CASE | found | {'memory_gib': 11.0}, found) == [
        'memory 12.00 GiB a device, 9% above the recorded 11.00'
    ]
    older = CASE | found | {'traffic_gb_a_clip': 10.0, 'jax': '0.9.0'}
    assert check.compared(older, found)[0].endswith('above the recorded 10.00 (recorded with JAX 0.9.0)')
    assert len(check.compared(CASE, found)) == 2  # nothing is recorded


def test_the_table_has_a_line_a_program():
    well = {'figures': FIGURES, 'findings': [], 'seconds': 61.2}
    bad = {'figures': None, 'findings': ['does not compile: no'], 'seconds': None}
    lines = check.table([CASE, CASE], [well, bad], markdown=True).splitlines()
    assert lines[2] == '| rvm_l | h100:8 | 8 | 12.0 | 12.00 | 96, 96 | 2.50, 0, 0.01 | 61 | ok |'
    assert lines[3] == '| rvm_l | h100:8 | 8 | - | - | - | - | - | FAILS |'
    assert {line.count('|') for line in lines} == {len(check.HEADER) + 1}
    assert len(check.table([CASE], [well], markdown=False).splitlines()) == 2
