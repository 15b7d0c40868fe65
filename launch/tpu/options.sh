# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # names come from the other scripts of tpu.sh, and are used there
# What tpu.sh is told: its help and its options. Sourced by tpu.sh.

usage() {
    cat << 'USAGE'
usage: launch/tpu.sh COMMAND --name NAME --zones ZONE[,ZONE...] [options] [-- train ARGUMENTS]

  create   request the slice, zone after zone, and wait until it is ready. It costs money from then on
  setup    install this checkout (the files that git tracks, as they are now) on every host
  train    create and set up what is missing, then run `rvm train` on every host, show the run, and start it again after a
           preemption, until its steps are done. After a lost connection, the same command follows the running training
  status   show the slice, what it has cost so far, and what each host does
  logs     show the log of the host that shows the run, or of --worker
  stop     ask the training to save and end, and wait for it; the slice stays, and costs money
  delete   delete the slice, or withdraw the request for it, in all zones; ends the cost

Ctrl-C while `create` or `train` waits for the slice withdraws the request. Ctrl-C while the training runs leaves it running.

  --name NAME          name of the slice: lower-case letters, digits, hyphens
  --zones A,B          zones to try, in this order
  --project PROJECT    default: the project that gcloud is set to
  --dry-run            print every command, run none

the slice (create, train)
  --accelerator TYPE   v6e-256, v5litepod-16, ...; for TPU7x use launch/gke.sh
  --node-count N       several slices that train together; default 1
  --runtime VERSION    software of the hosts; default: what Google recommends for the accelerator
  --spot               cheaper, can be taken away at any time
  --reserved           from the project's reservation; --reservation NAME: from this one (needs gcloud alpha)
  --flex-start SECONDS for this long at most (needs gcloud alpha)
  --wait SECONDS       how long to wait for the slice in one zone; default 3600
  --give-up-after SECONDS  how long to ask the zones again and again; default: train for ever, create once
  --network NAME, --subnetwork NAME, --service-account EMAIL, --labels KEY=VALUE,..., --data-disk source=DISK[,mode=MODE]
                       as in gcloud compute tpus queued-resources create
  --create-flag FLAG   any other flag of it; may be repeated

the way to the hosts
  --user NAME          user on the hosts; default: yours
  --internal-ip        no external addresses: connect from inside the network
  --tunnel-through-iap no external addresses: connect through Google's Identity-Aware Proxy
  --ssh-flag FLAG      for ssh and scp, such as -oProxyJump=HOST; may be repeated
  --offline            the hosts have no way to the internet: gather packages here and copy them

the training
  --data gs://BUCKET/FOLDER  show this to the run as a folder (gcsfuse); sets --config.data.path
  --prepare COMMAND    run this on every host after installing, and again after each restart: for example a mount that
                       makes the videos visible. It must be able to run twice (setup, train)
  --env NAME=VALUE     environment of the training; may be repeated
  --flags NAME[,NAME]  compiler flags of launch/flags.sh: overlap, vmem, slices; default: none; none is measured
  --grace SECONDS      how long the training may take to save and end; default 600
  --take               end whatever else uses the TPU; without it, that is named and nothing is started
  --delete-at-end      delete the slice when the training has ended, for whatever reason (train)
  --worker N           the host whose log is shown (logs); SLICE.N with several slices
  --follow             keep showing the log (logs)

examples:
  launch/tpu.sh create --name rvm --zones us-east5-b,europe-west4-a --accelerator v6e-256 --spot
  launch/tpu.sh train --name rvm --zones us-east5-b,europe-west4-a --accelerator v6e-256 --spot --delete-at-end \
      --data gs://bucket/shards -- train --config configs/rvm_h.py --workdir gs://bucket/runs/h
  launch/tpu.sh delete --name rvm --zones us-east5-b,europe-west4-a

The workdir must be a gs:// path: a run resumes from its checkpoints, every host can read them there, and they stay when
the slice is gone. Exit codes: 0 done; 2 a mistake in the command or the run's arguments; 75 start again later; 1 a host
could not be set up (it is named), or the program failed; 65, 76, 130 as `rvm train` ended.
USAGE
}

name='' project='' accelerator='' runtime='' worker='' user='' data='' preparation='' route='' offline='' take=''
spot='' reserved='' reservation='' flex_start='' network='' subnetwork='' service_account='' labels='' data_disk=''
follow='' delete_at_end='' give_up_after='' node_count=1 wait_seconds=3600 grace=600 dry_run=false workdir=''
zones=() training=() environment=() create_flags=() ssh_flags=()

default_runtime() {
    case $1 in
        v6e-*) echo v2-alpha-tpuv6e ;;
        v5p-*) echo v2-alpha-tpuv5 ;;
        v5litepod-*) echo v2-alpha-tpuv5-lite ;;
        v4-*) echo tpu-ubuntu2204-base ;;
        tpu7x-* | v7x-* | TPU7x-*) die 2 "--accelerator $1: the TPU API that this script uses does not have TPU7x; use launch/gke.sh" ;;
        *) die 2 "--accelerator $1: no runtime is known for it; name one with --runtime" ;;
    esac
}

set_option() {  # set_option OPTION VALUE; fails when OPTION takes no value
    case $1 in
        --name) name=$2 ;;
        --zones) IFS=, read -r -a zones <<< "$2" ;;
        --project) project=$2 ;;
        --accelerator) accelerator=$2 ;;
        --node-count) node_count=$2 ;;
        --runtime) runtime=$2 ;;
        --reservation) reservation=$2 ;;
        --flex-start) flex_start=$2 ;;
        --wait) wait_seconds=$2 ;;
        --give-up-after) give_up_after=$2 ;;
        --network) network=$2 ;;
        --subnetwork) subnetwork=$2 ;;
        --service-account) service_account=$2 ;;
        --labels) labels=$2 ;;
        --data-disk) data_disk=$2 ;;
        --create-flag) create_flags+=("$2") ;;
        --user) user=$2 ;;
        --ssh-flag) ssh_flags+=("$2") ;;
        --data) data=$2 ;;
        --prepare) preparation=$2 ;;
        --env) environment+=("$2") ;;
        --flags) tpu_flags=$(named_flags tpu "$2") && environment+=("LIBTPU_INIT_ARGS=$tpu_flags") ;;
        --grace) grace=$2 ;;
        --worker) worker=$2 ;;
        *) return 1 ;;
    esac
}

takes_value() {  # takes_value OPTION
    [[ $1 =~ ^--(name|zones|project|accelerator|node-count|runtime|reservation|flex-start|wait|give-up-after|network|subnetwork|service-account|labels|data-disk|create-flag|user|ssh-flag|data|prepare|env|flags|grace|worker)$ ]]
}

read_options() {
    local tpu_flags
    while (($#)); do
        if [[ $1 == --*=* ]] && takes_value "${1%%=*}"; then
            set -- "${1%%=*}" "${1#*=}" "${@:2}"
        fi
        if takes_value "$1"; then
            need_value "$1" $#
            set_option "$1" "$2"
            shift 2
            continue
        fi
        case $1 in
            --spot) spot=yes ;;
            --reserved) reserved=yes ;;
            --internal-ip) route=internal ;;
            --tunnel-through-iap) route=iap ;;
            --offline) offline=yes ;;
            --take) take=yes ;;
            --delete-at-end) delete_at_end=yes ;;
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
    local one
    [[ $name =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] || die 2 "--name '$name': lower-case letters, digits and hyphens are needed"
    ((${#zones[@]} > 0)) || die 2 '--zones is missing: the zones to try, such as us-east5-b,europe-west4-a'
    [[ $wait_seconds$grace$node_count${give_up_after:-0}${flex_start:-0} =~ ^[0-9]+$ ]] ||
        die 2 '--wait, --grace, --give-up-after, --flex-start and --node-count are whole numbers'
    [[ $worker =~ ^([0-9]+(\.[0-9]+)?)?$ ]] || die 2 "--worker $worker: a number is needed, or SLICE.NUMBER"
    [[ $data == '' || $data =~ ^gs://[^/]+ ]] || die 2 "--data '$data': a gs:// path is needed; --prepare can mount anything else"
    for one in "${environment[@]}"; do  # XLA takes a blank value for the name of a file
        [[ $one =~ ^[A-Za-z_][A-Za-z0-9_]*=.*[^[:space:]] ]] || die 2 "--env '$one': NAME=VALUE is needed, and not a blank one"
    done
    if [[ $verb =~ ^(create|train)$ ]]; then
        [[ -n $accelerator ]] || die 2 '--accelerator is missing: the slice, such as v6e-256'
        [[ -n $runtime ]] || runtime=$(default_runtime "$accelerator")
    fi
    [[ $verb != train ]] || check_training
    $dry_run || command -v gcloud > /dev/null || die 2 "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
    [[ $route != iap ]] || $dry_run || [[ $(gcloud compute tpus queued-resources ssh --help 2>&1 < /dev/null) == *tunnel-through-iap* ]] ||
        die 2 "--tunnel-through-iap: this gcloud does not have it; gcloud components update"
}

check_training() {
    [[ ${training[0]-} == train ]] || die 2 'the command to run is missing: -- train --config RECIPE --workdir gs://...'
    workdir=$(value_of --workdir "${training[@]}")
    [[ $workdir == gs://?* ]] ||
        die 2 "--workdir '$workdir' is not reachable from every host, nor after a preemption; give a gs:// path"
    if [[ $data != '' && $(value_of --config.data.path "${training[@]}") == '' ]]; then
        # shellcheck disable=SC2088  # rvm expands it, on the host
        training+=('--config.data.path=~/rvm_jax/data')
    fi
}
