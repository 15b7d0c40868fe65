# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # names come from the other scripts of tpu.sh, and are used there
# Asks for the slice, waits for it, and deletes it: one queued resource called $name. Sourced by tpu.sh.
# There is never a second one: a zone is asked only after the request in the zone before is NOT_FOUND.

# What a signal finds: idle, asking (a request of this command may exist), adopted (it is somebody else's), found (a slice
# on which something may run), ready (nothing runs on it), running (the training runs).
phase=idle
hopeless=()  # zones that refuse this request for good
request_margin=120 granted_limit=1800 settle_limit=600 unknown_limit=1800  # seconds

find_slice() {  # sets zone, request and word of the slice, absent when no zone has it; ends when zones cannot be read
    local candidate live='' dead='' where=()
    for candidate in "${zones[@]}"; do
        zone=$candidate
        look_until_known
        case $word in
            absent) ;;
            gone | leaving) dead=${dead:-$zone} ;;  # costs nothing any more, and is in nobody's way elsewhere
            *)
                live=${live:-$zone}
                ! $dry_run || break
                where+=("$zone ($(describe_state))")
                ;;
        esac
    done
    ((${#where[@]} < 2)) ||
        die 2 "$name is in several zones: ${where[*]}; launch/tpu.sh delete with these --zones ends them all"
    if [[ $live$dead != '' && ${live:-$dead} != "$zone" ]]; then
        zone=${live:-$dead}
        look_until_known
    fi
}

look_until_known() {  # look, until Google answers; ends when it never does
    local since
    since=$(now)
    while look; [[ $word == unknown ]]; do
        if [[ $reason =~ PERMISSION_DENIED|SERVICE_DISABLED|INVALID_ARGUMENT|UNAUTHENTICATED|active\ account|credentials ]]; then
            die 2 "zone $zone cannot be queried: $(short_reason); check --zones, --project, 'gcloud auth list' and" \
                "'gcloud services enable tpu.googleapis.com'"
        fi
        (($(now) - since < unknown_limit)) ||
            die 75 "zone $zone cannot be queried: $(short_reason); nothing was changed, try again later"
        say "zone $zone does not answer: $(short_reason); asking again"
        nap "$poll"
    done
}

need_slice() {
    find_slice
    [[ $word != absent ]] || die 2 "$name is in none of ${zones[*]}; launch/tpu.sh create makes it"
    [[ $word =~ ^(ready|sick)$ ]] ||
        die 2 "$name in $zone is $(describe_state), not ready; launch/tpu.sh create waits for it or replaces it"
}

check_slice() {  # what is there must be what is asked for
    [[ $node_type == "$accelerator" ]] ||
        die 2 "--accelerator $accelerator: $name in $zone is a $node_type; launch/tpu.sh delete ends it, or take another --name"
    $dry_run || ((${#nodes[@]} == node_count)) ||
        die 2 "--node-count $node_count: $name in $zone has ${#nodes[@]} slices; give that number, or take another --name"
}

replace() {  # deletes what is of no use any more
    phase=asking
    delete_until_gone || die 75 "nothing else was requested; launch/tpu.sh delete tries again"
    add_cost
    phase=idle
}

replace_ours() {  # replace, unless somebody else has done something about it in the meantime
    local made=$slice_made
    look
    case $word in
        absent | leaving) conclude deleted ;;
        queued | granted) say "somebody else has requested $name in $zone again" ;;
        *)
            if [[ $slice_made != "$made" ]]; then
                say "somebody else has already replaced $name in $zone"
            else
                replace
            fi
            ;;
    esac
}

wait_ready() {  # until the slice in $zone can be used; fails when it is not given; ends when somebody withdrew it
    local since queued_since granted='' settling='' silent='' seen='' age
    since=$(now) queued_since=$since
    while :; do
        look
        age=$(now)
        case $word in
            ready | sick) return 0 ;;
            absent | leaving)
                # Right after create, Google may not know yet what it has accepted.
                if [[ $seen != '' || $phase != asking ]]; then
                    conclude deleted
                elif ((age - since >= request_margin)); then
                    say "$zone: Google does not have the request that it accepted"
                    return 1
                fi
                ;;
            gone)
                google 60 gcloud compute tpus queued-resources describe "$name" "--zone=$zone" \
                    ${project:+"--project=$project"} '--format=value(state.failedData.error.message)' || true
                say "$zone: the request is $(describe_state)${reply:+: $reply}"
                ! is_hopeless "$reply" || hopeless+=("$zone")
                return 1
                ;;
            queued)
                if ((age - queued_since >= wait_seconds + request_margin)); then
                    say "$zone: still $request after $wait_seconds s"
                    return 1
                fi
                ;;
            granted)
                granted=${granted:-$age}
                if ((age - granted >= granted_limit)); then
                    say "$zone: still $request after $granted_limit s"
                    return 1
                fi
                ;;
            settling | fading)
                settling=${settling:-$age}
                if ((age - settling >= settle_limit)); then
                    say "$zone: still $(describe_state) after $settle_limit s"
                    return 1
                fi
                ;;
            unknown)
                silent=${silent:-$age}
                ((age - silent < unknown_limit)) ||
                    die 75 "Google has not said for $unknown_limit s what became of $name in $zone; it may be given, and cost money"
                ;;
        esac
        [[ $word == unknown ]] || silent=''
        [[ $word =~ ^(unknown|absent)$ ]] || seen=yes
        nap "$poll"
    done
}

ask_zone() {  # one try in $zone; leaves nothing behind there when it fails
    say "requesting $(slices_text) in $zone"
    send_request || return 1
    if $dry_run; then
        assumed_request=ACTIVE
        look
        return
    fi
    if [[ $phase == adopted ]] || alone; then
        wait_ready && return
    fi
    delete_until_gone || die 75 "no other zone is asked before that; launch/tpu.sh delete tries again"
    phase=idle
    return 1
}

ask_zones() {  # each zone once
    local candidate
    for candidate in "${zones[@]}"; do
        [[ " ${hopeless[*]} " != *" $candidate "* ]] || continue
        zone=$candidate
        if ask_zone; then
            return 0
        fi
    done
    return 1
}

take_what_is_there() {  # uses the slice that has this name; fails when there is none, or none that is left
    find_slice
    case $word in
        absent) return 1 ;;
        ready | sick)
            check_slice
            tell "$name is already there, in $zone: $(cost)"
            return
            ;;
        gone | leaving)
            say "$name in $zone is $(describe_state): it is deleted and requested again"
            replace
            return 1
            ;;
    esac
    phase=adopted
    say "$name is already requested in $zone: $(describe_state)"
    if wait_ready; then
        check_slice
        return
    fi
    replace
    return 1
}

obtain() {  # obtain once|endlessly: the slice, ready, in the first zone that gives it
    local began round delay
    began=$(now)
    for ((round = 0; ; round++)); do
        if take_what_is_there; then
            phase=found
            return
        fi
        if ask_zones; then
            phase=ready
            tell "$name is ready, in $zone: $(cost)"
            return
        fi
        ((${#hopeless[@]} < ${#zones[@]})) ||
            die 2 "no zone of ${zones[*]} accepts this request; Google's reasons are above. Nothing is requested"
        if [[ $1 == once && $give_up_after == '' ]]; then
            die 75 "no zone of ${zones[*]} gave $accelerator; try more zones, --spot, a longer --wait, or later"
        fi
        delay=$((60 << (round < 4 ? round : 4)))
        delay=$((delay + RANDOM % (delay / 4)))  # two people who ask at the same moment should not do it again
        if [[ $give_up_after != '' ]] && (($(now) - began + delay > give_up_after)); then
            die 75 "no zone of ${zones[*]} gave $accelerator in $give_up_after s; nothing is requested any more"
        fi
        say "no zone of ${zones[*]} gave $accelerator; asking again in $delay s, Ctrl-C ends this"
        nap "$delay"
    done
}

delete_slice() {  # in every zone
    local candidate any=false failed=false
    for candidate in "${zones[@]}"; do
        zone=$candidate
        read_request || die 2 "zone $zone cannot be queried: $(short_reason); $name may still be there and cost money"
        if [[ $request != NONE ]]; then
            any=true
            if [[ $request == ACTIVE ]]; then
                read_nodes || true
                tell "deleting $name in $zone: $(cost)"
            fi
            delete_until_gone || failed=true
            $failed || tell "$name is deleted from $zone"
        fi
    done
    ! $failed || exit 2
    $any || say "$name is in none of ${zones[*]}; nothing to delete. A train command that still runs elsewhere would request it again"
}
