# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # names come from the other scripts of tpu.sh, and are used there
# Calls to Google. Each has a time limit and a closed stdin, and a signal does not have to wait for it. Sourced by tpu.sh.

reply='' reason=''   # what the last call printed; why it failed
call=''              # its process, as long as it runs
zone=''              # where to ask
request='' nodes=()  # state of the queued resource in $zone, and the names of its nodes
node_state='' node_health=''                # of the node that is worst off
node_type='' node_hosts=0                   # kind of one node, hosts of all nodes
assumed_request=ACTIVE                      # what a dry run takes for granted

now() { date +%s; }

nap() {  # nap SECONDS; a signal ends it
    sleep "$1" &
    call=$!
    wait "$call" || true
    call=''
}

google() {  # google LIMIT COMMAND...: runs it, LIMIT seconds at most; sets reply; fails with its exit code, sets reason
    local limit=$1 code=0 file=$scratch/${into:-reply}  # into=NAME google ...: what it printed is kept there, and in NAME.reason
    shift
    reply='' reason=''
    if $dry_run; then
        quote "$@" >&3
        : > "$file"
        return
    fi
    timeout --kill-after=10 "$limit" "$@" > "$file" 2> "$file.reason" < /dev/null &
    call=$!
    wait "$call" || code=$?
    while kill -0 "$call" 2> /dev/null; do  # a signal that can wait has ended the wait, not the call
        code=0
        wait "$call" || code=$?
    done
    call=''
    { reply=$(< "$file"); } 2> /dev/null  # what a program prints may have bytes that bash warns of
    ((code == 0)) || reason=$(tr -s '\0\n' '  ' < "$file.reason" | cut -c 1-600)
    ((code != 124)) || reason="no answer within $limit s $reason"
    return "$code"
}

queued() {  # queued VERB ARGUMENTS...: words of one queued-resources command in $zone, into command
    local verb=$1
    shift
    command=(gcloud compute tpus queued-resources "$verb" "$@" "--zone=$zone" ${project:+"--project=$project"})
}

read_request() {  # sets request, NONE when Google has no such request in $zone; fails with UNKNOWN when it does not say
    local command
    queued describe "$name" '--format=csv[no-heading](state.state,tpu.nodeSpec[].nodeId.list(separator=" "))'
    if google 60 "${command[@]}"; then
        ! $dry_run || reply="$assumed_request,$name"
        request=${reply%%,*} request=${request:-UNKNOWN}
        read -r -a nodes <<< "${reply#*,}"
        ((${#nodes[@]} > 0)) || nodes=("$name")
    elif [[ $reason == *NOT_FOUND* ]]; then
        request=NONE
    else
        request=UNKNOWN
        return 1
    fi
}

read_nodes() {  # sets node_*; fails when Google does not say
    local node state health kind count created
    node_state='' node_health='' node_type='' node_hosts=0
    for node in "${nodes[@]}"; do
        if google 60 gcloud compute tpus tpu-vm describe "$node" "--zone=$zone" ${project:+"--project=$project"} \
            '--format=csv[no-heading](state,health,acceleratorType.basename(),networkEndpoints.len(),createTime)'; then
            ! $dry_run || reply=READY,HEALTHY,$accelerator,1,
            IFS=, read -r state health kind count created <<< "$reply"
        elif [[ $reason == *NOT_FOUND* ]]; then
            state=NONE health='' kind='' count=0 created=''
        else
            node_state=UNKNOWN
            return 1
        fi
        node_hosts=$((node_hosts + ${count:-0})) node_type=${node_type:-$kind}
        [[ ${created-} == '' ]] || slice_made=$created slice_chips=$(($(chips_of "$kind") * ${#nodes[@]}))
        [[ $node_state != '' && ${state:-UNKNOWN} == READY ]] || node_state=${state:-UNKNOWN}
        [[ $node_health != '' && $health =~ ^(HEALTHY)?$ ]] || node_health=${health:-HEALTHY}
        [[ $node_state == READY ]] || return 0  # the worst is known
    done
}

look() {  # sets word, what the slice in $zone is now, see decide.sh
    node_state='' node_health=''
    read_request || true
    if [[ $request == ACTIVE ]]; then
        read_nodes || true
    fi
    decide "$request" "$node_state" "$node_health"
}
