# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # names come from the other scripts of tpu.sh, and are used there
# How tpu.sh ends: what is still there, what it costs, what to do. Sourced by tpu.sh.

show_ends() {  # show_ends CODE: which host ended how, and the last words of one that ended with CODE
    local host shown
    for host in "${hosts[@]}"; do
        [[ ${did[$host]-} != ended ]] || say "host $host ended with exit code ${code[$host]}"
    done
    pick_ended "$1" || true
    shown=${picked[0]:-${hosts[0]}}
    say "last lines of host $shown:"
    on_hosts "$look_limit" "$shown" 'tail -n 20 rvm_jax/run/log' || true
    cat "$scratch/answers" >&2
}

leave() {  # leave CODE MESSAGE: ends; nothing runs on the slice any more
    local exit_code=$1
    shift
    if [[ $phase == idle || $slice_made == '' ]]; then
        die "$exit_code" "$*"
    fi
    if [[ $delete_at_end == '' ]]; then
        tell "the slice is still there and costs money: $(cost); launch/tpu.sh delete ends that"
    elif ! $dry_run && ! delete_until_gone; then
        exit_code=2
    else
        tell "$name is deleted from $zone"
    fi
    die "$exit_code" "$*; $(total_cost)"
}

conclude() {  # conclude VERDICT: ends this script when that is final
    case $1 in
        finished)
            if $dry_run; then
                exit 0
            fi
            leave 0 finished
            ;;
        failed*)
            ask_hosts "$look_limit" halt || true
            show_ends "${1#failed }"
            leave "${1#failed }" 'the training ended, and starting it again does not help'
            ;;
        stopped) leave 75 'stopped by launch/tpu.sh stop, everything saved; the same command resumes' ;;
        deleted) die 75 "$name was deleted by someone; the same command makes it again and resumes; $(total_cost)" ;;
        offline) die 75 "nothing was changed: the training continues by itself, and costs money ($(cost)); the same command follows it again" ;;
        unreachable)
            delete_at_end='' leave 75 "no host of $name in $zone answers over ssh, and whether a training runs there is not known: see ssh's" \
                "reason above, the network's firewall, --internal-ip and --tunnel-through-iap"
            ;;
        broken) leave 1 "host $failed_hosts could not be set up, nothing was started" ;;
        busy) delete_at_end='' leave 75 'the TPU is in use, see above; --take ends what uses it' ;;
    esac
}

interrupted() {  # interrupted SIGNAL: a signal to this script; requests are withdrawn, trainings go on
    local exit_code=75
    if [[ $creating != '' ]]; then  # Google may or may not take the request: its answer decides
        pending_signal=$1
        return 0  # a bare return would end this script, with what the signal did to `wait`
    fi
    trap '' INT TERM HUP
    [[ $1 != INT ]] || exit_code=130
    [[ $1 != HUP ]] || exec > /dev/null 2>&1  # the terminal is gone; writing to it would end this
    [[ $call == '' ]] || kill "$call" 2> /dev/null || true
    case $phase in
        asking)
            say "interrupted: the request for $name in $zone is withdrawn"
            delete_until_gone || exit 75
            die "$exit_code" "$name is deleted from $zone, nothing is requested; the same command resumes"
            ;;
        adopted) die "$exit_code" "interrupted; somebody else requested $name in $zone, so the request stays: launch/tpu.sh delete" ;;
        found) die "$exit_code" "interrupted; $name in $zone is still there and costs money ($(cost)), a training may run on it" ;;
        ready) leave "$exit_code" 'interrupted before the training was started' ;;
        running)
            die "$exit_code" "the training continues by itself, and costs money ($(cost)); the same command follows it again," \
                "launch/tpu.sh stop ends it"
            ;;
        *) die "$exit_code" 'interrupted; nothing is requested' ;;
    esac
}

catch_signals() {
    trap 'interrupted INT' INT
    trap 'interrupted TERM' TERM
    trap 'interrupted HUP' HUP
}
