# shellcheck shell=bash
# shellcheck disable=SC2154  # options come from tpu.sh
# Asks for, finds and deletes the slice: one queued resource with one node, both called $name. Sourced by tpu.sh.

zone='' state='' assumed_state=ACTIVE  # where the slice is, what Google says of it, what a dry run takes it to be

queued() {  # queued VERB ARGUMENTS...: words of one queued-resources command in $zone
    local verb=$1
    shift
    command=(gcloud compute tpus queued-resources "$verb" "$@" "--zone=$zone" ${project:+"--project=$project"})
}

read_state() {  # sets state: NONE when there is no such slice in $zone; fails when Google could not be asked
    local command answer
    queued list "--filter=name~/$name\$" '--format=value(state.state)'
    answer=$(ask "$assumed_state" "${command[@]}") || return
    state=${answer:-NONE}
}

find_slice() {  # sets zone and state, NONE when no zone has the slice; fails when a zone could not be asked
    for zone in "${zones[@]}"; do
        if ! read_state; then
            say "zone $zone cannot be queried, Google's reason is above; check --zones, --project and 'gcloud auth list'"
            return 2
        fi
        [[ $state == NONE ]] || return 0
    done
}

need_slice() {
    find_slice
    [[ $state != NONE ]] || die 2 "$name is in none of ${zones[*]}; launch/tpu.sh create makes it"
    [[ $state == ACTIVE ]] || die 2 "$name in $zone is $state, not ACTIVE; launch/tpu.sh create waits for it or replaces it"
}

delete_here() {  # also withdraws a request that still waits in the queue
    local command
    queued delete "$name" --force --quiet
    if ! run "${command[@]}"; then
        say "$name in $zone could not be deleted, Google's reason is above; it may still cost money"
        return 1
    fi
    assumed_state=NONE
}

check_accelerator() {  # what is there must be what is asked for
    local there
    there=$(ask "$accelerator" gcloud compute tpus tpu-vm describe "$name" "--zone=$zone" ${project:+"--project=$project"} \
        '--format=value(acceleratorType)') || die 75 "$name in $zone does not say what it is, Google's reason is above"
    [[ ${there##*/} == "$accelerator" ]] ||
        die 2 "--accelerator $accelerator: $name in $zone is a $there; launch/tpu.sh delete ends it, or take another --name"
}

wait_active() {  # fails when the request fails, or after --wait seconds
    local command deadline=$((SECONDS + wait_seconds))
    while :; do
        if read_state; then
            case $state in
                ACTIVE) return 0 ;;
                FAILED | SUSPENDED | SUSPENDING | DELETING | NONE)
                    queued describe "$name" '--format=yaml(state)'
                    run "${command[@]}" >&2 || true
                    say "$zone: the request is $state"
                    return 1
                    ;;
            esac
        fi
        if ((SECONDS >= deadline)); then
            say "$zone: still $state after $wait_seconds s"
            return 1
        fi
        pause "$poll"
    done
}

ask_zone() {  # one try in $zone; leaves nothing behind there when it fails
    local command
    queued create "$name" "--node-id=$name" "--accelerator-type=$accelerator" "--runtime-version=$runtime" \
        "--valid-until-duration=${wait_seconds}s" ${spot:+--spot}  # a request that nobody waits for must not be filled
    say "requesting $accelerator in $zone"
    if ! run "${command[@]}"; then
        say "$zone refused"
        return 1
    fi
    assumed_state=ACTIVE
    wait_active && return
    if read_state && [[ $state == NONE ]]; then
        return 1
    fi
    delete_here
    return 1
}

create_slice() {  # makes the slice ACTIVE in the first zone that gives it; what is already there is used
    find_slice || return
    case $state in
        NONE) ;;
        ACTIVE)
            check_accelerator
            tell "$name is already there, in $zone"
            return
            ;;
        FAILED | SUSPENDED | SUSPENDING | DELETING)
            say "$name in $zone is $state: it is deleted and requested again"
            delete_here || return
            ;;
        *)
            say "$name is already requested in $zone: $state"
            if wait_active; then
                check_accelerator
                return
            fi
            delete_here || return
            ;;
    esac
    for zone in "${zones[@]}"; do
        if ask_zone; then
            tell "$name is ready, in $zone"
            return
        fi
    done
    say "no zone of ${zones[*]} gave $accelerator; try more zones, --spot, a longer --wait, or later"
    return 75
}

delete_slice() {
    local any=false
    for zone in "${zones[@]}"; do
        read_state || die 2 "zone $zone cannot be queried; $name may still be there and cost money"
        if [[ $state != NONE ]]; then
            any=true
            delete_here || exit 2
            tell "$name is deleted from $zone"
        fi
    done
    $any || say "$name is in none of ${zones[*]}; nothing to delete"
}
