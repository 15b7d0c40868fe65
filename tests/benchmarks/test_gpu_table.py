"""The table of benchmarks/gpu.sh."""

import json

from gpu_table import HEADER, Outcome, find_facts, markdown, read_rows

FACTS = {
    'device': 'NVIDIA H200', 'platform': 'gpu', 'driver': '580.1', 'runtime': 'cudnn 9.10.2', 'jax': '0.11.2',
    'python': '3.12.3', 'cpu': 'EPYC, 16 cores', 'date': '2026-11-30 06:43 UTC', 'commit': '',
}  # fmt: skip
STEP = {
    'what': 's, ours', 'rate': 812.34, 'unit': 'clips', 'ms': 39.39, 'mfu': 0.4196, 'roofline': 0.5,
    'needs': 9.25 * 2**30, 'peak': None, 'note': 'a | b',
}  # fmt: skip


def table_of(page):
    return [line for line in page.splitlines() if line.startswith('|')]


def test_a_row_has_its_figures_and_a_dash_where_there_is_none():
    lines = table_of(markdown([Outcome('train s ours', 50.0, [{'facts': FACTS}, STEP], '')]))
    assert lines[2:] == ['| s, ours | 812.3 clips | 39.39 | 42.0% | 50.0% | 9.25 | – | a \\| b |']


def test_the_page_names_device_driver_versions_and_date():
    heading = markdown([Outcome('device', 9.0, [{'facts': FACTS}], '')]).splitlines()[0]
    assert heading == (
        '**NVIDIA H200**, driver 580.1, cudnn 9.10.2, JAX 0.11.2, Python 3.12.3, EPYC, 16 cores, 2026-11-30 06:43 UTC'
    )


def test_a_failed_stage_has_a_line_after_its_rows():
    lines = table_of(markdown([Outcome('train l ours', 90.0, [STEP], 'out of time after 90 s')]))
    assert len(lines) == 4
    assert lines[3] == '| **train l ours** | – | – | – | – | – | – | **out of time after 90 s** |'


def test_every_line_of_the_table_has_as_many_cells_as_its_head():
    outcomes = [Outcome('a', 1.0, [STEP, {'what': 'kernel', 'ms': 1.0}], 'failed: x'), Outcome('b', 0.0, [], 'none')]
    cells = {line.replace('\\|', '').count('|') for line in table_of(markdown(outcomes))}
    assert cells == {len(HEADER) + 1}


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / 'rows.jsonl'
    path.write_text(json.dumps({'facts': FACTS}) + '\n' + json.dumps(STEP) + '\n{"what": "b, ou')
    rows = read_rows(path)
    assert rows == [{'facts': FACTS}, STEP]
    assert find_facts([Outcome('x', 0.0, [], ''), Outcome('y', 0.0, rows, '')]) == FACTS
    assert read_rows(tmp_path / 'none.jsonl') == []
