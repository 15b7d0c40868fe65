#!/usr/bin/env bash
# Trains on a TPU slice of any size: asks Google Cloud for it, installs this checkout on every host, starts the same
# command on all, follows it, and starts it again where it stopped after a preemption.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$repo/launch/common.sh"
# shellcheck source=launch/flags.sh
source "$repo/launch/flags.sh"
# shellcheck source=launch/tpu/options.sh
source "$repo/launch/tpu/options.sh"
# shellcheck source=launch/tpu/decide.sh
source "$repo/launch/tpu/decide.sh"
# shellcheck source=launch/tpu/cost.sh
source "$repo/launch/tpu/cost.sh"
# shellcheck source=launch/tpu/google.sh
source "$repo/launch/tpu/google.sh"
# shellcheck source=launch/tpu/checks.sh
source "$repo/launch/tpu/checks.sh"
# shellcheck source=launch/tpu/request.sh
source "$repo/launch/tpu/request.sh"
# shellcheck source=launch/tpu/slice.sh
source "$repo/launch/tpu/slice.sh"
# shellcheck source=launch/tpu/packages.sh
source "$repo/launch/tpu/packages.sh"
# shellcheck source=launch/tpu/tell_hosts.sh
source "$repo/launch/tpu/tell_hosts.sh"
# shellcheck source=launch/tpu/end.sh
source "$repo/launch/tpu/end.sh"
# shellcheck source=launch/tpu/watch.sh
source "$repo/launch/tpu/watch.sh"

poll=15     # seconds between two looks; a restart waits this long, then twice, ... 64 times
patience=5  # looks in a row that some hosts may not answer

verb=${1-}
[[ $verb != '' && $verb != --help && $verb != -h ]] || { usage; exit 0; }
shift
[[ $verb =~ ^(create|setup|train|status|logs|stop|delete)$ ]] || die 2 "$verb: unknown command; see --help"
read_options "$@"
check_options
exec 3>&1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

case $verb in
    create)
        ! $dry_run || assumed_request=NONE
        catch_signals
        check_first
        obtain once
        tell 'it costs money from now on: launch/tpu.sh train uses it, launch/tpu.sh delete ends it'
        ;;
    setup)
        need_slice
        name_hosts
        check_key
        reach_hosts || die 75 "host ${picked[*]} of $name does not answer over ssh, see the reason above; nothing was installed"
        ! pick running || die 2 'a training is running there; launch/tpu.sh stop ends it'
        install_on_hosts || die 1 "host $failed_hosts is not set up"
        ;;
    train) train ;;
    status) show_status ;;
    logs)
        need_slice
        show_logs
        ;;
    stop)
        need_slice
        name_hosts
        stop_training
        ;;
    delete) delete_slice ;;
esac
