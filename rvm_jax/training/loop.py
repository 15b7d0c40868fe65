"""A run from start to end: the table of contents of the project."""

import contextlib
import os

from rvm_jax.arithmetic import our_settings
from rvm_jax.conversion.frozen import resolve
from rvm_jax.data.loader import make_loader
from rvm_jax.data.open_data import open_held_out, open_training
from rvm_jax.distributed.connect import connect
from rvm_jax.distributed.step_exchange import warm_up_collectives
from rvm_jax.errors import DataError, Stopped
from rvm_jax.models import trainable
from rvm_jax.signals import StopRequest
from rvm_jax.storage.run_lock import release, run_lock
from rvm_jax.training import attention_check, initialize, run_record, sharding
from rvm_jax.training.checkpoint import Checkpoints
from rvm_jax.training.checkpoint_files import check_place
from rvm_jax.training.evaluation import Evaluation
from rvm_jax.training.profiler import Profiler
from rvm_jax.training.progress import Progress
from rvm_jax.training.run_log import RunLog
from rvm_jax.training.state import make_programs
from rvm_jax.training.writer import Writer


def train(config, workdir, load_initial):
    """Train until config.steps are done; the same call resumes after any interruption.

    load_initial(path) opens config.init_from. Raises UserError, before anything is compiled, if config, data, devices
    and workdir do not fit together; Stopped or Interrupted after a signal, with everything saved; Diverged when steps
    stay non-finite; DataError when too many videos fail.
    """
    check_place(workdir)
    with our_settings(), connect(config.hosts) as hosts:
        _train(config, workdir, load_initial, hosts)


def _train(config, workdir, load_initial, hosts):
    # Data, and what a frozen encoder holds: the same in all processes.
    source, held_out = open_training(config.data), open_held_out(config.data)
    arch, encoder_files = resolve(config)
    encoder = encoder_files.read()
    del encoder_files  # some hold arrays
    run_record.check_hosts(hosts, config, source, held_out, encoder)

    # Programs: mesh, model, optimizer and steps. Nothing is compiled yet.
    programs = make_programs(config, arch)
    mesh = programs.mesh
    warm_up_collectives(hosts, mesh)

    with contextlib.ExitStack() as stack:
        # The workdir: from here on no other run may write there.
        hosts.broadcast_from_first(lambda: stack.enter_context(run_lock(workdir)))
        hosts.before_leaving(lambda: release(workdir))
        run_record.check_shared(hosts, workdir)
        compiled = initialize.keep_compiled(workdir, mesh)
        attention = attention_check.choose(config, arch, mesh, hosts, compiled)
        if attention != config.model.attention:
            programs = make_programs(config, arch, attention=attention)
        stop = stack.enter_context(StopRequest())

        # State: restored, taken from other weights, or fresh.
        keep, fingerprint = config.checkpoint, run_record.config_hash(config)
        checkpoints = stack.enter_context(Checkpoints(workdir, keep.keep, keep.keep_every, fingerprint, hosts))
        changes = hosts.broadcast_from_first(
            lambda: run_record.check_same_run(workdir, config, source) if checkpoints.steps() else []
        )
        identity = run_record.data_identity(config, source, encoder)
        state, first = initialize.restore_or_create(
            config, programs, encoder, hosts, checkpoints, identity, load_initial
        )
        hosts.broadcast_from_first(
            lambda: run_record.write_down(workdir, config, programs.arch, source, first, changes)
        )
        frozen = encoder.placed(programs.abstract_frozen)
        del encoder  # its float32 copy on the host
        if first == config.steps:
            hosts.say(f'{workdir}: nothing to do, all {config.steps} steps are done')
            return
        hosts.say(initialize.summary(config, programs, source))

        # Batches in, numbers and pictures out.
        rows = sharding.local_rows(mesh, config.batch_size)
        loader = stack.enter_context(
            make_loader(
                source, config.data, seed=config.seed, batch_size=config.batch_size, start_step=first, rows=rows
            )
        )
        writer = stack.enter_context(Writer(workdir, first))
        out = None if hosts.is_first else stack.enter_context(open(os.devnull, 'w', encoding='utf-8'))
        progress = stack.enter_context(Progress(config.steps, out))
        log = RunLog(config, programs.arch, workdir, hosts, mesh, source, loader, writer, progress, stop)
        stack.callback(log.close)
        evaluation = Evaluation(config, hosts, mesh, programs.eval_step, writer, programs.arch.patch_size, held_out)
        profiler = stack.enter_context(Profiler(config.profile, os.path.join(workdir, 'tensorboard'), first + 1))

        # Steps. The device works on one while the host prepares the next and reads the numbers of the one before.
        done = first
        try:
            for step in range(first + 1, config.steps + 1):
                stop.current = f'step {step}, saving'
                profiler.before(step, state)
                batch = log.next_batch()
                state, metrics = programs.train_step(state, batch, frozen)
                done, is_last = step, step == config.steps
                log.finish(step, metrics)
                losses = evaluation.maybe(step, trainable.of_model(state, frozen), batch, is_last)
                is_saved = is_last or stop.agreed or step % keep.every == 0
                if is_saved or losses:  # the log must not lack a step that a resumed run will not repeat
                    log.flush(losses)
                    writer.loss_curve()
                    writer.flush()
                if is_last or stop.agreed:
                    checkpoints.save_now(step, state, identity)
                elif is_saved:
                    checkpoints.save(step, state, identity)
                if stop.agreed and not is_last:
                    raise stop.ended(f'saved at step {step}')
        except (Stopped, DataError):  # no more clips, or a signal: keep what is done
            if done > first and (done == step or hosts.count == 1):  # one of several without clips cannot save alone
                log.flush()
                checkpoints.save_now(done, state, identity)
            raise
