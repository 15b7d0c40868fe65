#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster: one JobSet, which the cluster itself starts again after a preemption, until the
# run's steps are done. The way to TPU7x, which launch/tpu.sh cannot reach.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$repo/launch/common.sh"
# shellcheck source=launch/flags.sh
source "$repo/launch/flags.sh"
# shellcheck source=launch/gke/slice.sh
source "$repo/launch/gke/slice.sh"
# shellcheck source=launch/gke/manifest.sh
source "$repo/launch/gke/manifest.sh"
# shellcheck source=launch/gke/cluster.sh
source "$repo/launch/gke/cluster.sh"
# shellcheck source=launch/gke/watch.sh
source "$repo/launch/gke/watch.sh"

usage() {
    cat << 'END'
usage: launch/gke.sh COMMAND --name NAME [options] [-- train ARGUMENTS]

  create   check the cluster: JobSet, rights, and a node pool for each slice; print the commands that make what is missing
  setup    build an image of this checkout (the files that git tracks, as they are now), and push it
  train    start `rvm train` on every host, and follow it; the cluster starts it again until its steps are done, also when
           nobody follows. After a lost connection, the same command follows the running training
  status   show the run, what each host is doing, and the chip-hours since the last start
  logs     show the logs of all hosts, or of one
  stop     ask the training to save and end, and wait for it; the same train command resumes
  delete   stop, and delete the run from the cluster; node pools stay

  --name NAME          name of the run in the cluster: lower-case letters, digits, hyphens; 40 at most
  --accelerator TYPE   v5litepod-256, v5p-8, v6e-256, tpu7x-128, ... (create, train)
  --topology SHAPE     shape of the slice; default: the usual one, such as 16x16 for v6e-256
  --slices N           slices that train together; default 1
  --spot               only spot nodes: cheaper, can be taken away at any time
  --image IMAGE        REGION-docker.pkg.dev/PROJECT/REPOSITORY/rvm_jax:TAG (setup, train)
  --data gs://B[/DIR]  show this bucket or folder at /data, read-only, by Cloud Storage FUSE
  --env NAME=VALUE     a variable for the training; may be given several times
  --prepare COMMAND    run this on every host before each start
  --grace SECONDS      how long the training may take to save and end; default 600
  --wait SECONDS       how long hosts that are there wait for the others at each start; default 1800
  --flags NAME[,NAME]  compiler flags of launch/flags.sh: overlap, vmem, slices; default: none; none is measured
  --service-account A  Kubernetes service account, which has the rights to the buckets; default: the namespace's own
  --host-network       give the pods the network of their nodes; their rights are then those of the nodes
  --namespace N, --context C    as in kubectl; default: what kubectl is set to
  --worker N           the host whose log is shown (logs); default: all
  --follow             keep showing the logs (logs)
  --dry-run            print every command and the JobSet, run none

example:
  run=(--name rvm --accelerator v6e-256 --spot --image us-docker.pkg.dev/PROJECT/images/rvm_jax:1 --data gs://BUCKET/shards)
  launch/gke.sh create "${run[@]}"
  launch/gke.sh setup "${run[@]}"
  launch/gke.sh train "${run[@]}" -- \
      train --config configs/rvm_h.py --workdir gs://BUCKET/runs/h --config.data.path=/data
  launch/gke.sh delete --name rvm

The workdir must be a gs:// path: a run resumes from its checkpoints. Exit codes: 0 done; 2 a mistake in the command or
the run's arguments; 75 start again later; 1 the image or a host could not be set up; 65, 76, 130 as `rvm train` ended.
docs/gke.md says what each command costs.
END
}

read_options() {
    while (($#)); do
        if [[ $1 == --[a-z]*=* ]]; then
            set -- "${1%%=*}" "${1#*=}" "${@:2}"
        fi
        case $1 in
            --name | --accelerator | --topology | --slices | --image | --data | --env | --prepare | --grace | --wait | \
                --flags | --service-account | --namespace | --context | --worker)
                need_value "$1" $#
                case $1 in
                    --name) name=$2 ;;
                    --accelerator) accelerator=$2 ;;
                    --topology) topology=$2 ;;
                    --slices) slices=$2 ;;
                    --image) image=$2 ;;
                    --data) data=${2%/} ;;
                    --env) environment+=("$2") ;;
                    --prepare) preparation=$2 ;;
                    --grace) grace=$2 ;;
                    --wait) wait_seconds=$2 ;;
                    --flags) libtpu_flags=$(named_flags tpu "$2") ;;
                    --service-account) service_account=$2 ;;
                    --namespace) namespace=$2 ;;
                    --context) context=$2 ;;
                    --worker) worker=$2 ;;
                esac
                shift
                ;;
            --spot) spot=yes ;;
            --host-network) host_network=yes ;;
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
    local pair
    [[ $name =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
        die 2 "--name '$name': lower-case letters, digits and hyphens are needed, 40 at most"
    [[ $wait_seconds =~ ^[1-9][0-9]*$ && $grace =~ ^[0-9]+$ ]] || die 2 '--wait and --grace are whole seconds'
    [[ $slices =~ ^[1-9][0-9]*$ ]] || die 2 "--slices '$slices': a number of slices is needed"
    [[ $worker =~ ^[0-9]*$ ]] || die 2 "--worker '$worker': the number of a host is needed"
    [[ -z $data || $data == gs://[a-z0-9]* ]] || die 2 "--data '$data': a bucket is needed, such as gs://BUCKET/shards"
    [[ $service_account =~ ^[a-z0-9.-]*$ ]] || die 2 "--service-account '$service_account': not a name in Kubernetes"
    for pair in ${environment[@]+"${environment[@]}"}; do
        [[ $pair =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || die 2 "--env '$pair': NAME=VALUE is needed"
        [[ $pair != LIBTPU_INIT_ARGS=* || -z $libtpu_flags ]] || die 2 '--env LIBTPU_INIT_ARGS and --flags: give one of them'
    done
    $dry_run || command -v kubectl > /dev/null ||
        die 2 'kubectl is not installed: https://cloud.google.com/kubernetes-engine/docs/how-to/cluster-access-for-kubectl'
}

check_slice() {
    [[ -n $accelerator ]] || die 2 '--accelerator is missing: the slice, such as v6e-256'
    describe_slice
}

check_training() {
    local workdir word
    [[ ${training[0]-} == train ]] || die 2 'the command to run is missing: -- train --config RECIPE --workdir gs://...'
    workdir=$(value_of --workdir "${training[@]}")
    [[ $workdir == gs://?* ]] ||
        die 2 "--workdir '$workdir' is not reachable from every host, nor after a preemption; give a gs:// path"
    [[ -n $image ]] || die 2 '--image is missing: what launch/gke.sh setup has pushed'
    for word in "${training[@]}" "$image" "$data" "$preparation" ${environment[@]+"${environment[@]}"}; do
        [[ ! ${word//[$'\n\r\t']/} =~ [[:cntrl:]] ]] || die 2 "$(quote "$word"): control characters cannot be passed on"
    done
    # Slices get their nodes at different times: the first ones wait longer for the others than `rvm train` would.
    [[ -n $(value_of --config.hosts.start_timeout "${training[@]}") ]] ||
        training+=("--config.hosts.start_timeout=$wait_seconds")
    fingerprint=$(manifest '' | cksum | cut -d ' ' -f 1)
}

build_image() {
    local untracked context=/dev/stdin
    local build=(docker build --platform=linux/amd64 "--tag=$image" --file=launch/Dockerfile -)
    [[ -n $image ]] || die 2 '--image is missing: REGION-docker.pkg.dev/PROJECT/REPOSITORY/rvm_jax:TAG'
    if $dry_run; then
        echo "git -C $(quote "$repo") ls-files -z | tar -C $(quote "$repo") --null -T - -c | $(quote "${build[@]}")" >&3
    else
        command -v docker > /dev/null || die 2 'docker is not installed: https://docs.docker.com/engine/install'
        untracked=$(git -C "$repo" ls-files --others --exclude-standard | wc -l)
        ((untracked == 0)) || say "$((untracked)) files that git does not track are not in the image; git add those that the run needs"
        git -C "$repo" ls-files -z | tar -C "$repo" --null -T - -c | "${build[@]}" >&2 ||
            die 1 "the image was not built, docker's reason is above"
    fi
    run docker push "$image" >&2 || die 1 "the image was not pushed, docker's reason is above; a new machine needs
  gcloud auth configure-docker ${image%%/*}"
    tell "$image is ready"
}

name='' accelerator='' topology='' slices=1 spot='' image='' data='' preparation='' grace=600 wait_seconds=1800
libtpu_flags='' service_account='' host_network='' namespace='' context='' worker='' follow='' fingerprint=''
dry_run=false environment=() training=() assumed_state=''
poll=${RVM_LAUNCH_POLL:-15}          # seconds between two looks
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
        check_slice
        check_cluster
        ;;
    setup)
        check_options
        build_image
        ;;
    train)
        check_options
        check_slice
        check_training
        train
        ;;
    status)
        check_options
        show_status
        ;;
    logs)
        check_options
        show_logs
        ;;
    stop)
        check_options
        stop_training
        ;;
    delete)
        check_options
        ask_state
        [[ $state != NONE ]] || $dry_run || die 0 "$name is not there; nothing to delete"
        delete_run
        tell "$name is deleted; its nodes still cost money, unless the node pool makes itself smaller"
        ;;
    *) die 2 "$verb: unknown command; see --help" ;;
esac
