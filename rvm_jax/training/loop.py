"""A run from start to end: the table of contents of the project."""

import contextlib
import os
from collections.abc import Callable

import ml_collections

from rvm_jax.arithmetic import our_settings
from rvm_jax.conversion.frozen import resolve
from rvm_jax.data.loader import make_loader
from rvm_jax.data.open_data import open_held_out, open_training
from rvm_jax.data.prepare.small_folder import with_shards
from rvm_jax.distributed.connect import connect
from rvm_jax.distributed.step_exchange import warm_up_collectives
from rvm_jax.errors import DataError, Stopped
from rvm_jax.models.rvm import RVM
from rvm_jax.signals import StopRequest
from rvm_jax.storage import files
from rvm_jax.storage.run_lock import release, run_lock
from rvm_jax.training import attention_check, initialize, run_record, sharding
from rvm_jax.training.batch_feed import BatchFeed, DataWait
from rvm_jax.training.checkpoint import Checkpoints
from rvm_jax.training.checkpoint_files import check_place
from rvm_jax.training.data_report import open_failure_log
from rvm_jax.training.evaluation import Evaluation
from rvm_jax.training.loss import Objective
from rvm_jax.training.profiler import Profiler
from rvm_jax.training.run_log import RunLog
from rvm_jax.training.state import make_programs
from rvm_jax.training.writer import Writer


def train(
    config: ml_collections.ConfigDict,
    workdir: str,
    load_initial: Callable[[str], RVM],
    objective: Objective | None = None,
) -> None:
    """Train until config.steps are done; the same call resumes after any interruption.

    load_initial(path) opens config.init_from. objective replaces the one that config.objective describes, see
    `loss.objective_of`. Raises UserError, before anything is compiled, if config, data, devices and workdir do not fit
    together; Stopped or Interrupted after a signal, with everything saved; Diverged when steps stay non-finite;
    DataError when too many videos fail.
    """
    check_place(workdir)
    with our_settings(), connect(config.hosts) as hosts, contextlib.ExitStack() as stack:
        _train(config, workdir, load_initial, objective, hosts, stack)


def _train(config, workdir, load_initial, objective, hosts, stack):
    # ---- Data and frozen encoder: the same in all processes ----
    source, held_out = open_training(config.data), open_held_out(config.data)
    arch, encoder_files = resolve(config)
    encoder = encoder_files.read()
    del encoder_files  # it may hold a second copy of the arrays
    run_record.check_hosts(hosts, config, source, held_out, encoder)

    # ---- Programs: mesh, model, optimizer and steps. Nothing is compiled yet ----
    programs = make_programs(config, arch, objective=objective)
    warm_up_collectives(hosts, programs.mesh)

    # ---- Workdir: from here on no other run may write there ----
    _lock(workdir, hosts, stack)
    programs = _with_right_attention(config, programs, workdir, objective, hosts)
    stop = stack.enter_context(StopRequest())
    is_begun = files.exists(os.path.join(workdir, run_record.CONFIG))
    source = with_shards(config, workdir, source, is_begun, is_alone=hosts.count == 1)

    # ---- State: resumed, from other weights, or fresh ----
    keep, fingerprint = config.checkpoint, run_record.config_hash(config)
    checkpoints = stack.enter_context(Checkpoints(workdir, keep.keep, keep.keep_every, fingerprint, hosts))
    changes = hosts.broadcast_from_first(
        lambda: run_record.check_same_run(workdir, config, source) if checkpoints.steps() else []
    )
    identity = run_record.data_identity(config, source, encoder)
    state, first = initialize.restore(
        config, programs.abstract_state, hosts, checkpoints, identity
    ) or initialize.create(config, programs, hosts, encoder, load_initial)
    hosts.broadcast_from_first(lambda: run_record.write_down(workdir, config, programs.arch, source, first, changes))
    frozen = encoder.placed(programs.abstract_frozen)
    del encoder  # its float32 copy in the memory of the host
    if first == config.steps:
        hosts.say(f'{workdir}: nothing to do, all {config.steps} steps are done')
        return
    hosts.say(initialize.summary(config, programs, source))

    # ---- Batches in, numbers and pictures out ----
    feed = stack.enter_context(_open_feed(config, workdir, programs, source, first, hosts))
    writer = stack.enter_context(Writer(workdir, first))
    log = stack.enter_context(RunLog(config, programs, hosts, feed, writer, stop))
    evaluation = Evaluation(config, programs, hosts, writer, held_out, log.evaluating)
    profiler = stack.enter_context(Profiler(config.profile, os.path.join(workdir, 'tensorboard'), first + 1))

    # ---- Steps ----
    done = first
    try:
        for step in range(first + 1, config.steps + 1):
            stop.current = f'step {step}, then saving and stopping'
            profiler.before(step, state)
            batch = feed.next_batch()
            log.starting()
            # This returns at once: the devices compute while the host prepares the next batch. Reading a metric now
            # would make the host wait for them, so the log reads it when the next step has been started.
            state, metrics = programs.train_step(state, batch, frozen)
            done = step
            log.finish(step, metrics)

            losses = evaluation.maybe(step, state, frozen, batch)
            is_end = step == config.steps or stop.agreed
            is_saved = is_end or step % keep.every == 0
            if is_saved or losses:  # a run resumed from this save does not log the steps before it again
                log.flush(losses)
            if is_end:
                checkpoints.save_now(step, state, identity)
            elif is_saved:
                checkpoints.save(step, state, identity)
            if stop.agreed and step < config.steps:
                raise stop.ended(f'saved at step {step}')
    except (Stopped, DataError):  # no more clips, or a signal: keep what is done
        # A save needs all processes. One of several that has no clips is alone here: the others have started this step
        # and wait for it on their devices. Then the last checkpoint is what is kept.
        if done > first and (done == step or hosts.count == 1):
            log.flush()
            checkpoints.save_now(done, state, identity)
        raise


def _lock(workdir, hosts, stack):
    """Hold the workdir's lock until the stack is closed, or the watchdog ends the process."""
    hosts.broadcast_from_first(lambda: stack.enter_context(run_lock(workdir)))
    hosts.before_leaving(lambda: release(workdir))
    run_record.check_shared(hosts, workdir)


def _with_right_attention(config, programs, workdir, objective, hosts):
    """The programs, made again with another attention if the fused one is wrong on these devices."""
    compiled = initialize.keep_compiled(workdir, programs.mesh)
    attention = attention_check.choose(config, programs.arch, programs.mesh, hosts, compiled)
    if attention == config.model.attention:
        return programs
    return make_programs(config, programs.arch, attention=attention, objective=objective)


@contextlib.contextmanager
def _open_feed(config, workdir, programs, source, first, hosts):
    """A BatchFeed that starts after so many steps."""
    rows = sharding.local_rows(programs.mesh, config.batch_size)
    failures = open_failure_log(os.path.join(workdir, run_record.REPORT), config.data.max_failures, hosts)
    with make_loader(
        source, config.data, seed=config.seed, batch_size=config.batch_size, start_step=first, rows=rows
    ) as loader:
        yield BatchFeed(loader, programs.mesh, source, DataWait(config.data, source), failures, hosts)
