#!/usr/bin/env bash
# Trains on a TPU slice of any size: asks Google Cloud for it, installs this checkout on every host, starts the same
# command on all, follows it, and starts it again where it stopped after a preemption.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$repo/launch/common.sh"
# shellcheck source=launch/flags.sh
source "$repo/launch/flags.sh"
# shellcheck source=launch/tpu/slice.sh
source "$repo/launch/tpu/slice.sh"
# shellcheck source=launch/tpu/hosts.sh
source "$repo/launch/tpu/hosts.sh"
# shellcheck source=launch/tpu/watch.sh
source "$repo/launch/tpu/watch.sh"

usage() {
    cat << 'END'
usage: launch/tpu.sh COMMAND --name NAME --zones ZONE[,ZONE...] [options] [-- train ARGUMENTS]

  create   request the slice, zone after zone, and wait until it is ready
  setup    install this checkout (the files that git tracks, as they are now) on every host
  train    create and set up what is missing, then run `rvm train` on every host, follow it, and start it again after a
           preemption until its steps are done. After a lost connection, the same command follows the running training
  status   show the slice, and what each host is doing
  logs     show the log of one host
  stop     ask the training to save and end, and wait for it; the slice stays
  delete   delete the slice, or withdraw the request for it

  --name NAME          name of the slice: lower-case letters, digits, hyphens
  --zones A,B          zones to try, in this order
  --project PROJECT    default: the project that gcloud is set to
  --accelerator TYPE   v6e-256, v5litepod-16, ... (create, train)
  --runtime VERSION    software of the hosts; default: what Google recommends for the accelerator
  --spot               cheaper, can be taken away at any time
  --wait SECONDS       how long to wait for the slice in one zone; default 3600
  --prepare COMMAND    run this on every host after installing, and again after each restart: for example a mount that
                       makes the videos visible. It must be able to run twice (setup, train)
  --grace SECONDS      how long the training may take to save and end; default 600
  --flags NAME[,NAME]  compiler flags of launch/flags.sh: overlap, vmem, slices; default: none; none is measured
  --worker N           the host whose log is shown (logs); default 0
  --follow             keep showing the log (logs)
  --dry-run            print every command, run none

examples:
  launch/tpu.sh create --name rvm --zones us-east5-b,europe-west4-a --accelerator v6e-256 --spot
  launch/tpu.sh train --name rvm --zones us-east5-b,europe-west4-a --accelerator v6e-256 --spot \
      --prepare 'mountpoint -q /mnt/videos || { sudo mkdir -p /mnt/videos && sudo mount -o ro NFS:/videos /mnt/videos; }' -- \
      train --config configs/rvm_h.py --workdir gs://bucket/runs/h --config.data.path=/mnt/videos
  launch/tpu.sh delete --name rvm --zones us-east5-b,europe-west4-a

The workdir must be a gs:// path: a run resumes from its checkpoints, every host can read them there, and they stay when
the slice is gone. Exit codes: 0 done; 2 a mistake in the command or the run's arguments; 75 start again later; 1 a host
could not be set up (it is named); 65, 76, 130 as `rvm train` ended.
END
}

default_runtime() {
    case $1 in
        v6e-*) echo v2-alpha-tpuv6e ;;
        v5p-*) echo v2-alpha-tpuv5 ;;
        v5litepod-*) echo v2-alpha-tpuv5-lite ;;
        v4-*) echo tpu-ubuntu2204-base ;;
        *) die 2 "--accelerator $1: no runtime is known for it; name one with --runtime" ;;
    esac
}

read_options() {
    while (($#)); do
        case $1 in
            --name | --zones | --project | --accelerator | --runtime | --wait | --grace | --flags | --worker | --prepare)
                need_value "$1" $#
                case $1 in
                    --name) name=$2 ;;
                    --zones) IFS=, read -r -a zones <<< "$2" ;;
                    --project) project=$2 ;;
                    --accelerator) accelerator=$2 ;;
                    --runtime) runtime=$2 ;;
                    --wait) wait_seconds=$2 ;;
                    --grace) grace=$2 ;;
                    --flags) libtpu_flags=$(named_flags tpu "$2") ;;
                    --worker) worker=$2 ;;
                    --prepare) preparation=$2 ;;
                esac
                shift
                ;;
            --spot) spot=yes ;;
            --follow) follow=yes ;;
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
            *) die 2 "$1: unknown option; see --help" ;;
        esac
        shift
    done
}

check_options() {
    [[ $name =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] || die 2 "--name '$name': lower-case letters, digits and hyphens are needed"
    ((${#zones[@]} > 0)) || die 2 '--zones is missing: the zones to try, such as us-east5-b,europe-west4-a'
    [[ $wait_seconds$grace =~ ^[0-9]+$ ]] || die 2 '--wait and --grace are whole seconds'
    case $verb in
        create | train)
            [[ -n $accelerator ]] || die 2 '--accelerator is missing: the slice, such as v6e-256'
            runtime=${runtime:-$(default_runtime "$accelerator")}
            ;;
    esac
    $dry_run || command -v gcloud > /dev/null || die 2 "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
}

check_training() {
    [[ ${training[0]-} == train ]] || die 2 'the command to run is missing: -- train --config RECIPE --workdir gs://...'
    workdir=$(value_of --workdir "${training[@]}")
    [[ $workdir == gs://?* ]] ||
        die 2 "--workdir '$workdir' is not reachable from every host, nor after a preemption; give a gs:// path"
}

name='' project='' accelerator='' runtime='' spot='' follow='' libtpu_flags='' preparation='' worker=0 wait_seconds=3600 grace=600
dry_run=false zones=() training=()
poll=${RVM_LAUNCH_POLL:-15}          # seconds between two looks; a restart waits this long, then twice, ... 64 times
patience=${RVM_LAUNCH_PATIENCE:-8}   # looks in a row that may fail
retries=${RVM_LAUNCH_RETRIES:-8}     # starts in a row without a new checkpoint

verb=${1-}
[[ $verb != '' && $verb != --help && $verb != -h ]] || { usage; exit 0; }
shift
read_options "$@"
exec 3>&1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

case $verb in
    create)
        check_options
        assumed_state=NONE
        create_slice
        ;;
    setup)
        check_options
        need_slice
        if ! $dry_run; then
            reach_hosts
            (($(count_word running) == 0)) || die 2 'a training is running there; launch/tpu.sh stop ends it'
        fi
        count_hosts
        install_on_hosts
        ;;
    train)
        check_options
        check_training
        train
        ;;
    status)
        check_options
        show_status
        ;;
    logs)
        check_options
        need_slice
        show_logs
        ;;
    stop)
        check_options
        need_slice
        stop_training
        ;;
    delete)
        check_options
        delete_slice
        ;;
    *) die 2 "$verb: unknown command; see --help" ;;
esac
