# shellcheck shell=bash
# shellcheck disable=SC2154  # options come from tpu.sh
# Trains until the run's steps are done: starts, follows, and starts again after a preemption. Sourced by tpu.sh.

verdict='' log_at=0

newest_step() {  # the newest checkpoint's step, 0 without one: what a restart has to beat; fails when it is not known
    local listing
    if ! listing=$(ask '' gcloud storage ls "${workdir%/}/checkpoints/" 2> "$scratch/listing"); then
        if ! grep -q 'matched no objects' "$scratch/listing"; then
            say "the checkpoints in $workdir cannot be listed: $(tail -n 1 "$scratch/listing")"
            return 1
        fi
    fi
    printf '0\n%s\n' "$listing" | sed -n 's#^\(.*/\)\{0,1\}\([0-9][0-9]*\)/\{0,1\}$#\2#p' | sort -n | tail -n 1
}

follow_log() {  # what the first host has written since the last time
    on_hosts 0 "bash $host_script log_from $log_at" > "$scratch/log" || return 0
    cat "$scratch/log"
    log_at=$((log_at + $(wc -c < "$scratch/log")))
}

codes() { sed -n "s/^RVM_HOST $1 ended \([0-9]*\)\$/$2/p" "$scratch/report" | sort -n; }

judge() {  # from each host's word to a verdict; fails while the training goes on
    local ended_code
    for ended_code in 2 65 76 130; do  # starting again would not help
        if codes '[0-9]*' '\1' | grep -q -x "$ended_code"; then
            verdict="failed $ended_code"
            return
        fi
    done
    if (($(count_word running) > 0)); then
        (($(count_word running) < hosts)) || return 1
        first_end=${first_end:-$SECONDS}
        ((SECONDS - first_end >= grace)) || return 1
        say "some hosts are still running $grace s after the first one ended; they are ended too"
        ask_hosts end || true
        verdict=again
    elif (($(count_word stopped) > 0)); then
        verdict=stopped
    elif (($(count_word 'ended 0') == hosts)); then
        verdict=finished
    elif codes '[0-9]*' '\1' | grep -q -x -E '75|1[3-9][0-9]' || (($(count_word 'lost|idle') + $(count_bare) > 0)); then
        verdict=again
    else
        verdict="failed $(codes '[0-9]*' '\1' | tail -n 1)"
    fi
}

watch_slice() {  # fails when the slice is gone, with the verdict
    if ! read_state; then
        state=UNKNOWN
    fi
    case $state in
        ACTIVE | UNKNOWN) return 0 ;;
        NONE | DELETING) verdict=deleted ;;
        *)
            say "$name in $zone is $state: preempted or broken"
            verdict=recreate
            ;;
    esac
    return 1
}

judge_silence() {  # a verdict once hosts have not answered for long; fails before
    local answers
    answers=$(count_answers)
    unreachable=$((unreachable + 1))
    partial=$((answers > 0 ? partial + 1 : 0))
    ((unreachable >= patience)) || return 1
    if ((answers == 0)) || [[ $state != ACTIVE ]]; then  # from here a healthy slice would look the same
        say "no answer from $name $unreachable times: $answers of $hosts hosts over ssh, and Google says $state"
        verdict=offline
    elif ((partial >= patience)); then
        say "$((hosts - answers)) of $hosts hosts are gone while the others answer"
        verdict=recreate
    else
        return 1
    fi
}

watch_run() {  # until there is a verdict
    local unreachable=0 partial=0 first_end=''
    verdict=''
    while watch_slice; do
        if ask_hosts; then
            unreachable=0 partial=0
            follow_log
            if $dry_run; then
                say 'and so on; after exit code 75 or a preemption: delete if it is broken, create, install, start as above'
                verdict=finished
                return
            fi
            judge && return
        elif judge_silence; then
            return
        fi
        pause "$poll"
    done
}

bring_up() {  # the slice, the packages and the training, each only where it is missing
    case $verdict in
        recreate) delete_here || return ;;
        again)  # hosts that have ended may be the first that is seen of a deletion; a preempted slice stays listed
            find_slice || return
            if [[ $state =~ ^(NONE|DELETING)$ ]]; then
                verdict=deleted
                conclude
            fi
            ;;
    esac
    verdict=''
    create_slice || return
    count_hosts || return
    if ! $dry_run; then
        reach_hosts || return
        if (($(count_word running) > 0)); then
            say 'the training is already running; following it'
            return
        fi
    fi
    log_at=0
    install_on_hosts || return
    if ! start_on_hosts; then
        ask_hosts end || true
        return 1
    fi
}

show_ends() {  # which host ended how, with its last words
    local number
    sed -n 's/^RVM_HOST \([0-9]*\) ended \([0-9]*\)$/host \1 ended with exit code \2/p' "$scratch/report" | sort -k 2 -n >&2
    number=$(codes '\([0-9]*\)' '\2 \1' | awk -v code="$1" '$1 == code {print $2; exit}')
    say "last lines of host ${number:-0}:"
    on_hosts "${number:-0}" 'tail -n 20 rvm_jax/run/log' >&2 || true
}

conclude() {  # ends this script when the verdict is final
    case $verdict in
        finished)
            tell "finished; the slice is still there: launch/tpu.sh delete ends its cost"
            exit 0
            ;;
        failed*)
            ask_hosts stop || true
            show_ends "${verdict#failed }"
            die "${verdict#failed }" 'the training ended, and starting it again does not help; the slice is still there'
            ;;
        stopped) die 75 'stopped by launch/tpu.sh stop, everything saved; the same command resumes' ;;
        deleted) die 75 "$name was deleted by someone; the same command makes it again and resumes" ;;
        offline) die 75 'nothing was changed: the training continues by itself; the same command follows it again' ;;
    esac
}

train() {
    local best barren=0 step brought
    trap 'die 130 "the training continues by itself; the same command follows it again, launch/tpu.sh stop ends it"' INT
    best=$(newest_step) || best=0
    bring_up || die $? "nothing was started; the slice, if there is one, is still there"
    while :; do
        watch_run
        conclude
        if step=$(newest_step); then  # not known: no mark against the run
            barren=$((step > best ? 0 : barren + 1))
            best=$((step > best ? step : best))
        fi
        brought=false
        until $brought; do
            ((barren < retries)) || die 75 "$retries starts without a new checkpoint after step $best; see launch/tpu.sh logs"
            say "starting again after step $best"
            pause $((poll * (1 << (barren < 6 ? barren : 6))))
            if bring_up; then brought=true; else barren=$((barren + 1)); fi
        done
    done
}
