# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # names come from the other scripts of tpu.sh, and are used there
# Trains until the run's steps are done: starts, follows, and starts again after a preemption. Sourced by tpu.sh.
# Two loops, kept apart: obtain (slice.sh) waits for chips as long as it takes; train counts starts without progress.

verdict='' log_at=0 failed_hosts=''
barren=0 crashes=0  # starts in a row without a new checkpoint, and those of them that ended with an error of the program
most_barren=5 most_crashes=3

newest_step() {  # sets step: the newest checkpoint's, 0 without one; fails when it is not known
    step=0
    if ! google 120 gcloud storage ls "${workdir%/}/checkpoints/" && [[ $reason != *'matched no objects'* ]]; then
        say "the checkpoints in $workdir cannot be listed: $(short_reason)"
        return 1
    fi
    step=$(printf '0\n%s\n' "$reply" | sed -n 's#^\(.*/\)\{0,1\}\([0-9][0-9]*\)/\{0,1\}$#\2#p' | sort -n | tail -n 1)
}

follow_log() {  # what the host that shows the run has written since the last time
    [[ $first != '' ]] || return 0
    on_hosts "$look_limit" "$first" "bash $host_script log_from $log_at" || return 0
    cat "$scratch/answers" || true
    log_at=$((log_at + $(wc -c < "$scratch/answers")))
}

pick_ended() {  # pick_ended CODE: sets picked, the hosts that have ended with it; fails when there are none
    local host
    picked=()
    for host in "${hosts[@]}"; do
        [[ ${did[$host]-} != ended || ${code[$host]} != "$1" ]] || picked+=("$host")
    done
    ((${#picked[@]} > 0))
}

judge() {  # from each host's answer to a verdict; fails while the training goes on
    local one
    for one in 2 65 76 130; do  # starting again would not help
        if pick_ended "$one"; then
            verdict="failed $one"
            return
        fi
    done
    if pick running; then
        ((${#picked[@]} < ${#hosts[@]})) || return 1
        first_end=${first_end:-$(now)}
        (($(now) - first_end >= grace)) || return 1
        say "host ${picked[*]} still runs $grace s after the first one ended; it is ended too"
        ask_hosts "$look_limit" end || true
        verdict=again
    elif pick stopped; then
        verdict=stopped
    elif pick_ended 0 && ((${#picked[@]} == ${#hosts[@]})); then
        verdict=finished
    elif pick_ended 1; then  # JAX's runtime errors among others: of a chip, of the network, of a held port
        verdict=crashed
    else
        verdict=again
    fi
}

judge_slice() {  # from the state of the slice to a verdict; fails while it may be in use
    look
    case $word in
        absent | leaving) verdict=deleted ;;
        gone)
            say "$name in $zone is $(describe_state): preempted or broken"
            verdict=recreate
            ;;
        fading | settling)
            settling=${settling:-$(now)}
            if (($(now) - settling < settle_limit)) || { [[ $word == settling ]] && ! pick_silent; }; then
                return 1
            fi
            say "$name in $zone has been $(describe_state) for $settle_limit s"
            verdict=recreate
            ;;
        *)
            settling=''
            return 1
            ;;
    esac
}

judge_silence() {  # a verdict once hosts have not answered for long; fails before
    pick_silent || true
    unreachable=$((unreachable + 1)) since=${since:-$(now)}
    if ((unreachable == 1)); then
        ssh_reasons
        say "host ${picked[*]} of ${#hosts[@]} ($name, $zone) does not answer; the slice is $(describe_state)"
    fi
    ((unreachable >= patience)) || return 1
    if [[ $word == unknown || $word == ready && ${picked[*]} == "${hosts[*]}" ]]; then
        (($(now) - since >= unknown_limit)) || return 1  # it may be the way there
        say "no answer from $name for $(($(now) - since)) s: host ${picked[*]} over ssh, and Google says $(describe_state)"
        verdict=offline
    else
        say "host ${picked[*]} of ${#hosts[@]} is gone for $(($(now) - since)) s; the slice is $(describe_state)"
        verdict=recreate
    fi
}

watch_run() {  # until there is a verdict
    local unreachable=0 since='' first_end='' settling=''
    verdict=''
    while ! judge_slice; do
        if [[ $word == fading ]]; then
            :  # its hosts are being taken away
        elif ask_hosts; then
            unreachable=0 since=''
            follow_log
            if $dry_run; then
                say 'and so on; after exit code 75 or a preemption: delete if it is broken, create, install, start as above'
                verdict=finished
                return
            fi
            judge && return
        else
            follow_log
            judge_silence && return
        fi
        nap "$poll"
    done
}

bring_up() {  # the slice, the packages and the training, each only where it is missing; fails with verdict set
    local failed=0
    verdict='' log_at=0
    obtain endlessly
    name_hosts
    if ! $dry_run; then
        reach_hosts || { out_of_reach; return 1; }
        if pick running; then
            phase=running
            say "the training is already running in $zone ($(cost)); following it"
            return
        fi
        if ((started > 0)) && pick stopped; then  # while this script waited for its next start
            verdict=stopped
            return 1
        fi
        [[ $phase != found ]] || phase=ready  # nothing runs on it
    fi
    install_on_hosts || failed=$?
    if ((failed == 0)); then
        start_on_hosts || failed=$?
    fi
    case $failed in
        0) phase=running ;;
        3) busy_hosts ;;
        4)
            ask_hosts "$look_limit" end || true
            verdict=busy
            ;;
        *) not_brought_up ;;
    esac
    ((failed == 0)) || return 1
    ! $dry_run || return 0
    say "training on $(slices_text) in $zone since step $step: ${#hosts[@]} hosts, $(cost)"
}

out_of_reach() {  # sets verdict: not all hosts of a slice answer before a start
    pick_silent || true
    if [[ $word =~ ^(ready|unknown)$ ]] && ((${#picked[@]} == ${#hosts[@]})); then
        verdict=unreachable
    else
        verdict=recreate
    fi
}

not_brought_up() {  # sets verdict: a slice on which the training could not be installed or started
    ask_hosts "$look_limit" end || true
    look
    if [[ ! $word =~ ^(ready|sick|settling|unknown)$ ]]; then
        verdict=recreate
    elif ((started == 0)); then
        verdict=broken
    else
        verdict=again
    fi
}

busy_hosts() {  # sets verdict: somebody else has started this training a moment before
    ask_hosts || true
    verdict=again
    ! pick running || verdict=taken
}

count_start() {  # after a start: has it made progress?
    local before=$best
    if newest_step && ((step > best)); then
        best=$step
    fi
    if ((best > before)); then
        barren=0 crashes=0
    else
        barren=$((barren + 1))
        [[ $verdict != crashed ]] || crashes=$((crashes + 1))
    fi
    step=$best
    if ((crashes >= most_crashes)); then
        show_ends 1
        leave 1 "$crashes starts ended with exit code 1 and without a new checkpoint after step $best"
    fi
    ((barren < most_barren)) ||
        leave 75 "$barren starts without a new checkpoint after step $best; see launch/tpu.sh logs"
}

train() {
    local best step=0 started=0 delay
    catch_signals
    check_first
    newest_step || leave 2 'nothing was created'
    best=$step
    while :; do
        if bring_up; then
            started=$((started + 1))
            watch_run
            phase=ready  # nothing runs, or nothing that can be reached
        fi
        conclude "$verdict"
        [[ $verdict == taken ]] || count_start
        [[ $verdict != recreate ]] || replace_ours
        delay=$((poll << (barren < 6 ? barren : 6)))
        say "starting again after step $best, in $delay s"
        nap "$delay"
        if [[ $verdict =~ ^(again|crashed)$ ]]; then  # hosts that end may be the first that is seen of a deletion
            look
            [[ ! $word =~ ^(absent|leaving)$ ]] || conclude deleted
        fi
    done
}
