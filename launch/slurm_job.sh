#!/usr/bin/env bash
# The batch script of launch/slurm.sh: slurm_job.sh CHECKOUT LOGS GRACE SETUP XLA_FLAGS train ARGUMENTS...
# Runs on the first node each time the job leaves the queue. SETUP and XLA_FLAGS may be blank.
set -euo pipefail

repo=$1 logs=$2 grace=$3 setup=$4 flags=$5
shift 5
BASH_ARGV0=slurm_job.sh  # Slurm runs a copy with another name
# shellcheck source=launch/common.sh
source "$repo/launch/common.sh"
# shellcheck source=launch/slurm/shared.sh
source "$repo/launch/slurm/shared.sh"

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

ask_slurm() { field "$1" "$(scontrol show job "$SLURM_JOB_ID")"; }

is_stopped() { [[ $may_requeue == 1 && $(ask_slurm Requeue) == 0 ]]; }  # by launch/slurm.sh stop

ended_with() { cat "$codes"/* 2> /dev/null | sort -n | grep -x -m 1 -E "$1"; }

queue_again() {  # queue_again REASON
    if is_stopped; then
        say "$1, and the job does not go back into the queue: launch/slurm.sh stop"
        exit 75
    fi
    if ! progress; then
        say "$retries starts without a new checkpoint; giving up"
        exit 75
    fi
    say "$1; the job goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || die 75 'Slurm did not take it back, the reason is above; the same command resumes'
}

watch_the_limit() {  # Slurm does not queue a job again that reaches its time limit
    local left
    left=$(time_seconds "$limit")
    until [[ -n $left ]] && ((left <= 15)); do
        sleep $((${left:-615} - 15))  # a job without a limit may get one
        left=$(time_seconds "$(squeue --noheader "--jobs=$SLURM_JOB_ID" --format=%L)")
    done
    queue_again 'the time limit came before the training had saved and ended'
}

set_up() {  # reads the user's file, which need not be written for these settings of bash
    local code=0
    set +euo pipefail
    # shellcheck disable=SC1090
    source "$setup" || code=$?
    set -euo pipefail
    ((code == 0)) || die 2 "--setup $setup: its last command failed with exit code $code"
}

may_requeue=$(ask_slurm Requeue)  # 0 from the start where a site never does
limit=$(ask_slurm TimeLimit)
! is_too_short "$limit" "$grace" || die 2 "$(too_short "$limit" "$grace")"
rm -rf "$codes"
mkdir -p "$codes"
cd "$repo"
[[ -z $setup ]] || set_up
cd "$repo"  # wherever the file went
if is_stopped; then
    say 'stopped by launch/slurm.sh stop'
    exit 75
fi
export RVM_DISTRIBUTED=auto XLA_FLAGS="${XLA_FLAGS-} $flags"
[[ -n ${XLA_FLAGS// /} ]] || unset XLA_FLAGS  # XLA takes one that is blank for the name of a file

# A task that ends early does not get the others killed before they have saved: they notice, save and end. What is left
# after this time does not end by itself. Processes that lost another one notice it after config.hosts.heartbeat.
heartbeat=$(value_of --config.hosts.heartbeat "$@")
[[ $heartbeat =~ ^[0-9]+$ ]] || heartbeat=100
wait_seconds=$(((grace > heartbeat ? grace : heartbeat) + 60))

# Each task notes its own exit code: srun returns only the highest. Slurm signals the task, and not always what it
# starts, so the task passes SIGTERM on to the training. With --export=ALL the tasks have the environment of this script
# also where a site or a user submits with --export=NONE.
set -m  # a group of its own, so that its sleep ends with it
watch_the_limit &
set +m
# shellcheck disable=SC2016  # expanded by the task's shell
srun --export=ALL --kill-on-bad-exit=0 "--wait=$wait_seconds" "--cpus-per-task=$SLURM_CPUS_PER_TASK" bash -c '
    source "$1/launch/common.sh"
    codes=$2 code=0
    shift 2
    run_and_forward "$@" || code=$?
    echo "$code" > "$codes/$SLURM_PROCID"
    exit "$code"' task "$repo" "$codes" "$repo/.venv/bin/rvm" "$@" || true
kill -- "-$!"

if final=$(ended_with '2|65|76|12[67]|130'); then
    say "task $(cd "$codes" && grep -l -x "$final" -- * | tr '\n' ' ')ended with exit code $final; starting again does not help"
    exit "$final"
fi
noted=$(find "$codes" -type f | wc -l)
if ((noted == SLURM_NTASKS)) && ! worst=$(ended_with '[1-9][0-9]*'); then
    exit 0
fi
# A program that breaks breaks again, unless another task was killed, or gone without a note, and broke it.
if ((noted == SLURM_NTASKS)) && ! ended_with '75|1[2-9][0-9]|2[0-9][0-9]' > /dev/null; then
    exit "$worst"
fi
queue_again 'stopped early'
