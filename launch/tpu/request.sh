# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # names come from the other scripts of tpu.sh, and are used there
# One request for the slice, in $zone: sent, looked at, deleted. Sourced by tpu.sh.

creating='' pending_signal=''  # yes while Google is asked; a signal that waits for the answer
delete_limit=1800               # seconds

short_reason() {  # Google's words alone
    local text=${reason##*ERROR: }
    [[ $text != \(gcloud* ]] || text=${text#*\) }
    text=${text%"${text##*[![:space:]]}"}
    printf '%s' "${text:0:300}"
}

delete_until_gone() {  # in $zone, until Google says NOT_FOUND; fails when it does not come to that
    local command deadline told=''
    deadline=$(($(now) + delete_limit))
    queued delete "$name" --force --quiet --async
    if $dry_run; then
        google 120 "${command[@]}"
        assumed_request=NONE
        return
    fi
    while :; do
        read_request || true
        case $request in
            NONE) return 0 ;;
            DELETING | UNKNOWN) ;;
            *)
                if ! google 120 "${command[@]}" && [[ $reason != *NOT_FOUND* && $told == '' ]]; then
                    told=yes
                    say "$name in $zone is not deleted yet: $(short_reason); asking again"
                fi
                ;;
        esac
        if (($(now) >= deadline)); then
            say "$name in $zone could not be deleted in $delete_limit s: Google says $request; it may still cost money"
            return 1
        fi
        nap $((2 * poll))
    done
}

create_words() {  # words of the request, into command
    local track=()
    [[ $reservation == '' && $flex_start == '' ]] || track=(alpha)
    command=(gcloud "${track[@]}" compute tpus queued-resources create "$name" "--zone=$zone" ${project:+"--project=$project"}
        "--accelerator-type=$accelerator" "--runtime-version=$runtime"
        "--valid-until-duration=${wait_seconds}s"  # a request that nobody waits for must not be filled
        ${spot:+--spot} ${reserved:+--reserved} ${reservation:+"--reservation=$reservation"}
        ${flex_start:+--provisioning-model=flex-start} ${flex_start:+"--max-run-duration=${flex_start}s"}
        ${network:+"--network=$network"} ${subnetwork:+"--subnetwork=$subnetwork"} ${route:+--internal-ips}
        ${service_account:+"--service-account=$service_account"} ${labels:+"--labels=$labels"}
        ${data_disk:+"--data-disk=$data_disk"})
    if ((node_count > 1)); then
        command+=("--node-count=$node_count" "--node-prefix=$name")
    else
        command+=("--node-id=$name")
    fi
    command+=("${create_flags[@]}")
}

send_request() {  # asks Google in $zone; fails when it has no request afterwards, whatever create said
    local command code=0 refusal tries
    create_words
    phase=asking creating=yes
    google 600 "${command[@]}" || code=$?
    creating=''
    [[ $pending_signal == '' ]] || interrupted "$pending_signal"
    ((code != 0)) || return 0
    refusal=$(short_reason)
    if [[ $refusal == *ALREADY_EXISTS* ]]; then
        phase=adopted
        say "somebody else has requested $name in $zone at the same time; waiting for that"
        return 0
    fi
    for ((tries = 0; ; tries++)); do  # the answer may have been lost after Google took the request
        read_request || true
        case $request in
            UNKNOWN) ((tries < 120)) || die 75 "create failed in $zone ($refusal), and Google does not say whether it has the" \
                "request; it may be given, and cost money: launch/tpu.sh delete" ;;
            NONE) ((tries < 2)) || break ;;
            *)
                say "create failed in $zone ($refusal), but Google has the request; waiting for it"
                return 0
                ;;
        esac
        nap "$poll"
    done
    phase=idle
    say "$zone refused: $refusal"
    if is_hopeless "$refusal"; then
        hopeless+=("$zone")
    fi
    return 1
}

is_hopeless() {  # is_hopeless REFUSAL: whether asking again later gives the same answer
    [[ $1 =~ INVALID_ARGUMENT|PERMISSION_DENIED|UNAUTHENTICATED|FAILED_PRECONDITION|SERVICE_DISABLED|unrecognized\ arguments|Invalid\ choice|[Ll]imit:\ 0([^0-9]|$) ]]
}

alone() {  # whether no other zone has this name: two people may have asked at the same moment
    local mine=$zone other rival=''
    for other in "${zones[@]}"; do
        [[ $other != "$mine" ]] || continue
        zone=$other
        read_request || true
        [[ $request == NONE || $request == UNKNOWN ]] || rival=$other
    done
    zone=$mine
    [[ $rival != '' ]] || return 0
    say "somebody else has requested $name in $rival at the same time; the request in $zone is withdrawn"
    return 1
}
