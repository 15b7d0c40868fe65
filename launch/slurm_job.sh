#!/usr/bin/env bash
# The batch script of launch/slurm.sh: slurm_job.sh CHECKOUT LOGS XLA_FLAGS train ARGUMENTS...
# Runs on the first node each time the job leaves the queue.
set -euo pipefail

repo=$1 logs=$2 flags=$3
shift 3
# shellcheck source=launch/common.sh
source "$repo/launch/common.sh"

workdir=$(value_of --workdir "$@")
codes=$logs/$SLURM_JOB_ID.codes          # one file per task: how it ended
barren_file=$logs/$SLURM_JOB_ID.barren   # "step starts": starts in a row without a checkpoint newer than step
retries=${RVM_LAUNCH_RETRIES:-8}

newest_step() {  # 0 without a checkpoint; fails when the folder, on a disk or in a bucket, could not be read
    local names
    names=$("$repo/.venv/bin/python" -c 'import sys, rvm_jax.storage.files; print(*rvm_jax.storage.files.names(sys.argv[1]), sep="\n")' \
        "${workdir%/}/checkpoints") || return
    printf '0\n%s\n' "$names" | grep -x -E '[0-9]+' | sort -n | tail -n 1
}

progress() {  # fails after too many starts without a new checkpoint
    local best=0 starts=0 step
    [[ ! -f $barren_file ]] || read -r best starts < "$barren_file"
    if ! step=$(newest_step); then
        say "the checkpoints in $workdir cannot be listed, the reason is above; this start is not counted"
        return
    fi
    starts=$((step > best ? 0 : starts + 1))
    printf '%s %s\n' "$step" "$starts" > "$barren_file"
    ((starts < retries))
}

ended_with() { cat "$codes"/* 2> /dev/null | sort -n | grep -x -m 1 -E "$1"; }

if [[ -e $logs/$SLURM_JOB_ID.stop ]]; then
    say 'stopped by launch/slurm.sh stop'
    exit 75
fi
rm -rf "$codes"
mkdir -p "$codes"
cd "$repo"
export RVM_DISTRIBUTED=auto XLA_FLAGS="${XLA_FLAGS-} $flags"

# Each task notes its own exit code: srun returns only the highest. A task that ends early does not get the others
# killed before they have saved; they stop by themselves, and srun ends what is left after ten minutes.
code=0
# Slurm signals only the task, not what it starts, so the task passes SIGTERM on to the training.
# shellcheck disable=SC2016  # expanded by the task's shell
srun --kill-on-bad-exit=0 --wait=600 "--cpus-per-task=$SLURM_CPUS_PER_TASK" bash -c '
    source "$1/launch/common.sh"
    codes=$2 code=0
    shift 2
    run_and_forward "$@" || code=$?
    echo "$code" > "$codes/$SLURM_PROCID"
    exit "$code"' task "$repo" "$codes" "$repo/.venv/bin/rvm" "$@" || code=$?

if final=$(ended_with '2|65|76|130'); then
    say "task $(cd "$codes" && grep -l -x "$final" -- * | tr '\n' ' ')ended with exit code $final; starting again does not help"
    exit "$final"
fi
if ((code == 0)) || [[ -e $logs/$SLURM_JOB_ID.stop ]]; then
    exit "$code"
fi
if ! ended_with '75|1[3-9][0-9]' > /dev/null && ((code < 128)); then
    exit "$code"
fi
if ! progress; then
    say "$retries starts without a new checkpoint; giving up"
    exit 75
fi
say "stopped early with exit code $code; the job goes back into the queue"
scontrol requeue "$SLURM_JOB_ID"
