import io
import logging
import os

import pytest

from rvm_jax import terminal
from rvm_jax.terminal import columns, markdown, say, table, write_line


def test_notices_and_warnings_are_plain_lines_on_standard_error(capsys):
    say('100 % of the [clips]')
    logging.getLogger('rvm_jax.some.module').warning('%d of %d videos', 1, 2)
    assert capsys.readouterr() == ('', '100 % of the [clips]\n1 of 2 videos\n')


def test_a_handler_on_the_root_logger_doubles_no_line(capsys, monkeypatch):
    root = logging.StreamHandler()
    monkeypatch.setattr(logging.root, 'handlers', [*logging.root.handlers, root])
    say('once')
    assert capsys.readouterr().err == 'once\n'


def test_a_program_may_bring_a_handler_of_its_own(capsys, monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(logging.getLogger(terminal.PACKAGE), 'handlers', [logging.StreamHandler(text)])
    say('to the program')
    assert text.getvalue() == 'to the program\n' and capsys.readouterr().err == ''


def test_a_stream_without_a_reader_is_silenced():
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, 'w') as stream:
        for _ in range(3):
            write_line('nobody reads it', stream)
    write_line('closed', stream)


@pytest.mark.parametrize('width', [0, 6])
def test_a_table_aligns_what_it_is_about(width):
    lines = table([('on', 'a' * 500), ('size', '[red]1\n2[/red]')], width).split('\n')
    lead = max(width, 4) + 2
    assert lines == ['on'.ljust(lead) + 'a' * 500, 'size'.ljust(lead) + r'[red]1\n2[/red]']


def test_numbers_are_aligned_to_the_right():
    rows = ('model', 'J&F', 'PCK'), ('S', '9.5', '–'), ('a large one', '10.25', '3')
    assert columns(rows) == ['model          J&F  PCK', 'S              9.5    –', 'a large one  10.25    3']
    assert markdown(rows[0], rows[1:2], right=2) == '| model | J&F | PCK |\n| --- | ---: | ---: |\n| S | 9.5 | – |\n'


def test_work_without_a_terminal_tells_now_and_then_what_is_done(monkeypatch, capfd):
    monkeypatch.setattr(terminal, 'LINE_EVERY', 0.0)
    with terminal.progress_bars() as bars:
        bar = bars.add_task('reading', total=3)
        bars.update(bar, completed=1)
        bars.advance(bar)
        bars.advance(bar)
    assert capfd.readouterr().err.splitlines() == ['reading: 1 of 3', 'reading: 2 of 3']


def test_short_work_without_a_terminal_is_silent(capfd):
    with terminal.progress_bars() as bars:
        bar = bars.add_task('reading', total=2)
        bars.update(bar, completed=1)
    assert capfd.readouterr() == ('', '')
