#!/usr/bin/env bash
# First process of every pod of launch/gke.sh, with the arguments of `rvm`: checks what GKE says of the slice, counts the
# start, prepares, trains. Ends with the exit code of `rvm train`, from which the JobSet knows whether to start again.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/common.sh
source "$here/../common.sh"
dry_run=false
least=${RVM_LAUNCH_LEAST:-60}  # seconds

slice=${RVM_LAUNCH_SLICE:-0} host=${JOB_COMPLETION_INDEX:-0}  # numbers that JobSet gives

check_hosts() {  # without these names each host would take itself for the whole slice
    local given=${TPU_PROCESS_ADDRESSES:-${TPU_WORKER_HOSTNAMES-}} names
    IFS=, read -r -a names <<< "$given"
    ((${#names[@]} * ${MEGASCALE_NUM_SLICES:-1} == RVM_LAUNCH_HOSTS)) ||
        die 2 "$RVM_LAUNCH_HOSTS hosts were asked for, but GKE names ${#names[@]} (TPU_WORKER_HOSTNAMES=$given)" \
            "in each of ${MEGASCALE_NUM_SLICES:-1} slices (MEGASCALE_NUM_SLICES)"
    # JAX would find these itself, but asks the metadata server for what a single slice does not have.
    export RVM_COORDINATOR=$RVM_LAUNCH_NAME-slice-0-0.$RVM_LAUNCH_NAME:8482 RVM_NUM_PROCESSES=$RVM_LAUNCH_HOSTS
    export RVM_PROCESS_ID=$((slice * ${#names[@]} + host))
}

main() {
    local code=0
    if ((RVM_LAUNCH_HOSTS > 1)); then check_hosts; fi
    run_and_forward python "$here/count_start.py" "$(value_of --workdir "$@")" "$slice $host" || code=$?
    case $code in
        0) ;;
        1 | 2) return 77 ;;  # a start that cannot be counted could come again for ever
        *) return "$code" ;;
    esac
    cd "$here/../.."
    if [[ -n ${RVM_LAUNCH_PREPARE-} ]]; then
        run_and_forward bash -ec "$RVM_LAUNCH_PREPARE" || code=$?
        if ((code != 0)); then
            say "--prepare ended with exit code $code"
            return 1  # its own code could be one that is final
        fi
    fi
    run_and_forward rvm "$@"
}

code=0
main "$@" || code=$?
case $code in
    0 | 2 | 65 | 76 | 77 | 130) ;;
    *)  # JobSet starts again at once: not more than once a minute, so that the first host comes to count every start
        say "ended with exit code $code; the JobSet starts it again"
        trap 'exit "$code"' TERM
        sleep "$((SECONDS < least ? least - SECONDS : 0))" &
        wait "$!"
        ;;
esac
exit "$code"
