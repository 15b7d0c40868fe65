#!/usr/bin/env bash
# Trains on GPU nodes under Slurm: one batch job that starts `rvm train` once a GPU, and goes back into the queue when
# it was stopped early with everything saved.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$repo/launch/common.sh"
# shellcheck source=launch/flags.sh
source "$repo/launch/flags.sh"
# shellcheck source=launch/slurm/shared.sh
source "$repo/launch/slurm/shared.sh"
# shellcheck source=launch/slurm/jobs.sh
source "$repo/launch/slurm/jobs.sh"

usage() {
    cat << 'END'
usage: launch/slurm.sh --nodes N --gpus-per-node K [options] -- train ARGUMENTS
       launch/slurm.sh status|logs|stop JOB

  --nodes N            nodes
  --gpus-per-node K    GPUs per node, or TYPE:K, such as h100:8; one process per GPU
  --cpus-per-gpu C     CPU cores per process, for reading videos; default 8
  --partition P, --account A, --time T    as in sbatch
  --grace SECONDS      how long before the time limit the training is asked to save and end; default 120
  --setup FILE         a file of shell commands that the job reads before each start, on its first node: modules, NCCL
                       variables. All processes get its environment. If its last command fails, the job ends
  --sbatch OPTION      any other option of sbatch, as often as needed: --sbatch --mem=0 --sbatch --qos=long
  --name NAME          name of the job; default rvm
  --logs DIR           folder for logs, on a disk that all nodes share; default: runs/slurm in this checkout
  --flags NAME[,NAME]  compiler flags of launch/flags.sh: overlap, pipeline, combine; default: none; none is measured
  --dry-run            print every command, run none

Each option can also be written as --nodes=N.

  status JOB   how the job is, or how it ended, and where its log is
  logs JOB     show its log, and follow it until Ctrl-C, unless the job has ended
  stop JOB     ask the training to save and end; the job does not go back into the queue. A waiting job is cancelled

For a job that Slurm has forgotten, status and logs look into runs/slurm, or into the folder given with --logs.

examples:
  launch/slurm.sh --nodes 4 --gpus-per-node 8 --partition gpu --time 24:00:00 -- \
      train --config configs/rvm_l.py --workdir /shared/runs/l --config.data.path=/shared/videos
  launch/slurm.sh stop 12345

With `-- doctor` instead of `-- train`, every process checks whether it is ready: docs/doctor.md.

This checkout, its .venv (pip install -e '.[cuda13]') and the workdir must be on a disk that all nodes share; the
workdir can also be a gs:// path. Paths after -- are relative to this checkout. Before the time limit, training saves and
the job goes back into the queue. docs/slurm.md has more.
END
}

read_options() {
    local attached
    while (($#)); do
        attached=false
        if [[ $1 == --[a-z]*=* ]]; then
            set -- "${1%%=*}" "${1#*=}" "${@:2}"
            attached=true
        fi
        case $1 in
            --nodes | --gpus-per-node | --cpus-per-gpu | --partition | --account | --time | --grace | --setup | --sbatch | \
                --name | --logs | --flags)
                need_value "$1" $#
                [[ -n ${2// /} ]] || die 2 "$1 has a blank value; see --help"
                $attached || [[ $2 != -* || $1 == --sbatch ]] || die 2 "$1 needs a value, but $2 follows; see --help"
                read_value "$1" "$2"
                shift
                ;;
            --dry-run | --help | -h)
                ! $attached || die 2 "$1 does not take a value; see --help"
                [[ $1 == --dry-run ]] || { usage; exit 0; }
                dry_run=true
                ;;
            --)
                shift
                training=("$@")
                return
                ;;
            *)
                [[ $verb != submit && -z $job && $1 =~ ^[0-9]+$ ]] || die 2 "$1: unknown option; see --help"
                job=$1
                ;;
        esac
        shift
    done
}

read_value() {
    case $1 in
        --nodes) nodes=$2 ;;
        --gpus-per-node) gpus=$2 ;;
        --cpus-per-gpu) cpus=$2 ;;
        --partition | --account) options+=("$1=$2") ;;
        --time) limit=$2 ;;
        --grace) grace=$2 ;;
        --setup) setup=$(absolute "$2") ;;
        --sbatch) add_option "$2" ;;
        --name) name=$2 ;;
        --logs) logs=$(absolute "$2") ;;
        --flags) xla_flags=$(named_flags gpu "$2") ;;
    esac
}

absolute() { if [[ $1 == /* ]]; then printf '%s\n' "$1"; else printf '%s\n' "$PWD/$1"; fi; }

add_option() {
    case $1 in
        --signal* | --time* | --nodes* | --output* | --error* | -[teoN]* | --open-mode* | --ntasks* | -n* | --requeue | --no-requeue | \
            --array* | -a* | --wrap* | --parsable | --test-only)
            die 2 "--sbatch $1: launch/slurm.sh sets this itself, or cannot work with it; see --help for its own options"
            ;;
        --gres=*gpu*) gpu_request='' ;;  # instead of --gpus-per-node
        -?*) ;;
        *) die 2 "--sbatch $1: give the option as sbatch takes it, such as --sbatch --mem=0" ;;
    esac
    options+=("$1")
}

need_slurm() {  # need_slurm COMMAND
    $dry_run || command -v "$1" > /dev/null ||
        die 2 "$1 is not installed here, or not on PATH; run this where Slurm's commands are, such as the login node"
}

check_options() {
    [[ $nodes =~ ^[1-9][0-9]*$ ]] || die 2 "--nodes '$nodes': a number of nodes is needed"
    [[ $gpus =~ ^([A-Za-z][^:]*:)?[1-9][0-9]*$ ]] || die 2 "--gpus-per-node '$gpus': a number of GPUs is needed, or TYPE:NUMBER"
    [[ $cpus =~ ^[1-9][0-9]*$ ]] || die 2 "--cpus-per-gpu '$cpus': a number of CPU cores is needed"
    [[ $grace =~ ^([3-9][0-9]|[1-9][0-9]{2,3})$ ]] || die 2 "--grace '$grace': whole seconds from 30 to 9999 are needed"
    ! is_too_short "$limit" "$grace" || die 2 "--time $limit: $(too_short "$limit" "$grace")"
    [[ -z $setup || -r $setup && -f $setup ]] || die 2 "--setup $setup: is not a file that can be read"
    [[ $logs != *[%\\]* ]] || die 2 "--logs $logs: Slurm takes % and \\ in the path of a log for something else; use another folder"
    [[ ${training[0]-} == @(train|doctor) ]] ||
        die 2 'the command to run is missing: -- train --config RECIPE --workdir DIR, or doctor in place of train'
    [[ -n $(value_of --workdir "${training[@]}") ]] || die 2 '--workdir is missing: a folder that all nodes share, or gs://...'
    $dry_run || [[ -x $repo/.venv/bin/rvm ]] ||
        die 2 "$repo/.venv/bin/rvm is missing: run make .venv/package there, then .venv/bin/pip install -e '.[cuda13]'"
}

submit() {
    check_options
    need_slurm sbatch
    [[ -z $limit ]] || options+=("--time=$limit")
    [[ -z $gpu_request ]] || options+=("--gpus-per-node=$gpus")
    run mkdir -p "$logs"
    # One task a GPU, each seeing all GPUs of its node: jax.distributed takes the one with the task's local number.
    # The signal goes to the tasks, not to the batch script, which then sees how they ended.
    local reply
    reply=$(ask '' sbatch "--job-name=$name" "--nodes=$nodes" "--ntasks-per-node=${gpus##*:}" "--cpus-per-task=$cpus" \
        ${options[@]+"${options[@]}"} "--signal=TERM@$grace" --requeue --open-mode=append "--output=$logs/%j.log" \
        "$repo/launch/slurm_job.sh" "$repo" "$logs" "$grace" "$setup" "$xla_flags" "${training[@]}") ||
        die 2 'sbatch did not take the job; the reason is above'
    if $dry_run; then return; fi
    printf '%s\n' "$reply"
    job=$(grep -o -E '[0-9]+' <<< "$reply" | head -n 1)
    rm -f "$logs/$job.barren"  # of an older job with this number
    say "the log of job $job is $logs/$job.log; launch/slurm.sh status|logs|stop $job"
}

verb=submit nodes='' gpus='' cpus=8 limit='' grace=120 setup='' name=rvm logs=$repo/runs/slurm xla_flags='' job=''
dry_run=false gpu_request=yes options=() training=()
case ${1-} in
    '')
        usage
        exit 0
        ;;
    status | logs | stop)
        verb=$1
        shift
        ;;
esac
read_options "$@"
exec 3>&1

if [[ $verb != submit && -z $job ]]; then
    die 2 "which job? launch/slurm.sh $verb JOB, with the number that sbatch gave"
fi
case $verb in
    submit) submit ;;
    status) status ;;
    logs) show_log ;;
    stop) stop ;;
esac
