#!/usr/bin/env bash
# Trains on GPU nodes under Slurm: one batch job that starts `rvm train` once a GPU, and goes back into the queue when
# it was stopped early with everything saved.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$repo/launch/common.sh"
# shellcheck source=launch/flags.sh
source "$repo/launch/flags.sh"

usage() {
    cat << 'END'
usage: launch/slurm.sh --nodes N --gpus-per-node K [options] -- train ARGUMENTS
       launch/slurm.sh status|logs|stop JOB [--logs DIR]

  --nodes N            nodes
  --gpus-per-node K    GPUs per node; one process per GPU
  --cpus-per-gpu C     CPU cores per process, for reading videos; default 8
  --partition P, --account A, --time T    as in sbatch
  --name NAME          name of the job; default rvm
  --logs DIR           folder for logs, on a disk that all nodes share; default: runs/slurm in this checkout
  --flags NAME[,NAME]  compiler flags of launch/flags.sh: overlap, pipeline, combine; default: none; none is measured
  --dry-run            print every command, run none

  status JOB   the state of the job
  logs JOB     show its log, and follow it
  stop JOB     ask the training to save and end; the job does not go back into the queue

examples:
  launch/slurm.sh --nodes 4 --gpus-per-node 8 --partition gpu --time 24:00:00 -- \
      train --config configs/rvm_l.py --workdir /shared/runs/l --config.data.path=/shared/videos
  launch/slurm.sh stop 12345

With `-- doctor` instead of `-- train`, every process checks whether it is ready: docs/doctor.md.

This checkout, its .venv (pip install -e '.[cuda13]') and the workdir must be on a disk that all nodes share; the
workdir can also be a gs:// path. Two minutes before the time limit, training saves and the job goes back into the queue.
END
}

read_options() {
    while (($#)); do
        case $1 in
            --nodes | --gpus-per-node | --cpus-per-gpu | --partition | --account | --time | --name | --logs | --flags)
                need_value "$1" $#
                case $1 in
                    --nodes) nodes=$2 ;;
                    --gpus-per-node) gpus=$2 ;;
                    --cpus-per-gpu) cpus=$2 ;;
                    --partition | --account | --time) placing+=("$1=$2") ;;
                    --name) name=$2 ;;
                    --logs) logs=$2 ;;
                    --flags) xla_flags=$(named_flags gpu "$2") ;;
                esac
                shift
                ;;
            --dry-run) dry_run=true ;;
            --help | -h)
                usage
                exit 0
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

submit() {
    [[ $nodes =~ ^[1-9][0-9]*$ ]] || die 2 "--nodes '$nodes': a number of nodes is needed"
    [[ $gpus =~ ^[1-9][0-9]*$ ]] || die 2 "--gpus-per-node '$gpus': a number of GPUs is needed"
    [[ ${training[0]-} == @(train|doctor) ]] ||
        die 2 'the command to run is missing: -- train --config RECIPE --workdir DIR, or doctor in place of train'
    [[ -n $(value_of --workdir "${training[@]}") ]] || die 2 '--workdir is missing: a folder that all nodes share, or gs://...'
    run mkdir -p "$logs"
    # One task a GPU, each seeing all GPUs of its node: jax.distributed takes the one with the task's local number.
    # The signal goes to the tasks, not to the batch script, which then sees how they ended.
    run sbatch "--job-name=$name" "--nodes=$nodes" "--ntasks-per-node=$gpus" "--gpus-per-node=$gpus" \
        "--cpus-per-task=$cpus" ${placing[@]+"${placing[@]}"} --signal=TERM@120 --requeue --open-mode=append \
        "--output=$logs/%j.log" "$repo/launch/slurm_job.sh" "$repo" "$logs" "$xla_flags" "${training[@]}"
}

need_job() { [[ -n $job ]] || die 2 "which job? launch/slurm.sh $verb JOB, with the number that sbatch gave"; }

stop() {
    $dry_run || [[ -d $logs ]] || die 2 "$logs: this folder does not exist; give the folder of the job's logs with --logs"
    run touch "$logs/$job.stop"  # read by slurm_job.sh: this one does not queue again
    if ! run scancel --signal=TERM "$job"; then
        rm "$logs/$job.stop"
        die 2 "job $job could not be asked to stop, Slurm's reason is above"
    fi
    tell "job $job has been asked to save and end; launch/slurm.sh status $job shows when it has"
}

verb=submit nodes='' gpus='' cpus=8 name=rvm logs=$repo/runs/slurm xla_flags='' job='' dry_run=false placing=() training=()
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

case $verb in
    submit) submit ;;
    status)
        need_job
        run squeue "--jobs=$job" '--format=%i %j %T %M %D %R'
        ;;
    logs)
        need_job
        run tail -n 200 -F "$logs/$job.log"
        ;;
    stop)
        need_job
        stop
        ;;
esac
