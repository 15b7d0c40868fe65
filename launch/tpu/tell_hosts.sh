# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # names come from the other scripts of tpu.sh, and are used there
# Reaches the hosts of the slice: install, start, stop, ask, logs. Sourced by tpu.sh.
# Every host answers with a line of its own (tpu/host.sh). A host without its line has failed, whatever gcloud returned;
# lines of several hosts may be mixed, so only whole answers count.

hosts=()                                # "0" "1" ..., or "0.0" "0.1" "1.0" ... (slice.host) for several slices
declare -A did=() code=() process=()    # of each host that has answered: its word, exit code and process number
picked=()                               # those that were asked for last
first='' bare=0                         # the host of the process that shows the run; hosts without this checkout
host_script=rvm_jax/src/launch/tpu/host.sh
look_limit=90 first_limit=300 install_limit=1800 prepare_limit=3600  # seconds for all hosts together

connection() {  # connection ssh|scp WHICH: words that choose hosts (all, 3, 1,4, or 0.3) and limit the waiting, into words
    local flag which=$2
    words=(--quiet "--zone=$zone" ${project:+"--project=$project"})
    kind=tpu-vm target=${nodes[0]:-$name}
    if ((${#nodes[@]} > 1)) || [[ $route == iap ]]; then  # the GA command of a single node has no tunnel
        kind=queued-resources target=$name
        if [[ $which == *.* ]]; then words+=("--node=${which%.*}"); else words+=(--node=all); fi
    fi
    words+=("--worker=${which#*.}")
    case $route in
        iap) words+=(--tunnel-through-iap) ;;
        internal) words+=(--internal-ip) ;;
    esac
    for flag in -oBatchMode=yes -oConnectTimeout=15 -oServerAliveInterval=15 -oServerAliveCountMax=4 "${ssh_flags[@]}"; do
        words+=("--$1-flag=$flag")
    done
}

on_hosts() {  # on_hosts LIMIT WHICH COMMAND: over ssh; what the hosts print is in $scratch/answers
    local words kind target
    connection ssh "$2"
    into=answers google "$1" gcloud compute tpus "$kind" ssh "${user:+$user@}$target" "${words[@]}" "--command=$3"
}

copy_to_hosts() {  # copy_to_hosts WHICH FILE: into the home folder of each
    local words kind target
    connection scp "$1"
    into=answers google "$install_limit" gcloud compute tpus "$kind" scp "$2" "${user:+$user@}$target:" "${words[@]}"
}

ssh_reasons() {  # what ssh said, once each
    grep -v -e '^SSH: ' -e '^SCP: ' -e '^Using s' -e '^Retrying' -e '^$' "$scratch/answers.reason" 2> /dev/null | sort -u | tail -n 5 >&2 || true
}

name_hosts() {  # sets hosts from what Google says of the nodes
    local slice host per=$((node_hosts / ${#nodes[@]}))
    hosts=()
    ((per > 0)) || die 75 "$name in $zone does not say how many hosts it has"
    for ((slice = 0; slice < ${#nodes[@]}; slice++)); do
        for ((host = 0; host < per; host++)); do
            if ((${#nodes[@]} > 1)); then hosts+=("$slice.$host"); else hosts+=("$host"); fi
        done
    done
}

read_answers() {  # sets did, code, process, first and bare from $scratch/answers
    local mark host word_of code_of process_of rank
    did=() code=() process=() first='' bare=0
    if $dry_run; then
        first=${hosts[0]}
        return
    fi
    bare=$(grep -c RVM_BARE "$scratch/answers" || true)
    while read -r mark host word_of code_of process_of rank; do
        did[$host]=$word_of code[$host]=$code_of process[$host]=$process_of
        [[ $rank != first\; ]] || first=$host
    done < <(grep -a -o -E 'RVM_HOST [0-9.]+ [a-z]+ [0-9-]+ [0-9-]+ (first|-);' "$scratch/answers")
    : "$mark"
}

pick() {  # pick WORD...: sets picked, the hosts that have answered one of these words; fails when there are none
    local host
    picked=()
    for host in "${hosts[@]}"; do
        [[ " $* " != *" ${did[$host]--} "* ]] || picked+=("$host")
    done
    ((${#picked[@]} > 0))
}

pick_silent() { pick -; }  # the hosts that have not answered

host_lines() {  # what the hosts printed beside their answers
    sed -E 's/RVM_HOST [0-9.]+ [a-z]+ [0-9-]+ [0-9-]+ (first|-);//g; /^$/d' "$scratch/answers" >&2 || true
}

three_rounds() {  # three_rounds WORD DO: DO WHICH on all hosts; those that do not answer WORD are asked twice more
    local round which=all list missing
    for round in 1 2 3; do
        "$2" "$which" || true
        ! $dry_run || return 0
        read_answers
        missing=''
        for list in "${hosts[@]}"; do
            if [[ ${did[$list]--} == "$1" ]]; then reached[$list]=yes; fi
            [[ ${reached[$list]-} == yes ]] || missing+="${missing:+ }$list"
        done
        [[ -n $missing ]] || return 0
        if pick busy taken; then
            host_lines
            if pick taken; then return 4; else return 3; fi
        fi
        look
        [[ $word =~ ^(ready|sick|settling|unknown)$ ]] || break
        host_lines
        ssh_reasons
        ((round < 3)) || break
        say "host $missing of ${#hosts[@]} ($name, $zone) did not answer '$1'; asked again in $((2 * poll)) s, round $((round + 1)) of 3"
        if ((${#nodes[@]} == 1)); then which=${missing// /,}; fi
        nap $((2 * poll))
    done
    say "host $missing of ${#hosts[@]} ($name, $zone) did not answer '$1'; the slice is $(describe_state)"
    failed_hosts=$missing
    return 1
}

everywhere() {  # everywhere WORD DO; fails with 1: some hosts did not, 3: a training runs there, 4: others use the TPU
    local failed=0
    declare -gA reached=()
    three_rounds "$@" || failed=$?
    return "$failed"
}

pack() {  # the tracked files as they are in the working tree
    local untracked
    archive=$scratch/rvm_jax.tar.gz
    [[ ! -f $archive ]] || return 0  # a restart installs what this command began with
    if $dry_run; then
        archive=${TMPDIR:-/tmp}/rvm_jax.tar.gz
        echo "git -C $(quote "$repo") ls-files -z | tar -C $(quote "$repo") --null -T - -czf $(quote "$archive")" >&3
        return
    fi
    untracked=$(git -C "$repo" ls-files --others --exclude-standard | wc -l)
    ((untracked == 0)) || say "$((untracked)) files that git does not track are not sent; git add those that the run needs"
    git -C "$repo" ls-files -z | tar -C "$repo" --null -T - -czf "$archive"
}

install_round() {
    local unpack='mkdir -p rvm_jax && rm -rf rvm_jax/new && mkdir rvm_jax/new && tar -xzf rvm_jax.tar.gz -C rvm_jax/new'
    if [[ $offline != '' ]]; then
        copy_to_hosts "$1" "$packages" || ssh_reasons
    fi
    copy_to_hosts "$1" "$archive" || ssh_reasons
    on_hosts "$install_limit" "$1" \
        "flock rvm_jax.lock bash -c '$unpack && bash rvm_jax/new/launch/tpu/host.sh install $(archive_mark)${offline:+ offline}'"
}

archive_mark() { if $dry_run; then echo MARK; else cksum < "$archive" | tr -d ' \n'; fi; }

install_on_hosts() {  # the checkout and its packages on every host
    pack
    [[ $offline == '' ]] || pack_packages
    say "installing on ${#hosts[@]} hosts"
    everywhere installed install_round || return
    tell 'installed on every host'
    [[ $preparation$data == '' ]] || prepare_hosts
}

prepare_round() { on_hosts "$prepare_limit" "$1" "bash $host_script prepare $(quote "$data" "$preparation")"; }

prepare_hosts() {  # --data and --prepare on every host
    say "preparing ${#hosts[@]} hosts"
    everywhere prepared prepare_round || return
    tell 'prepared every host'
}

start_round() {
    on_hosts "$first_limit" "$1" \
        "bash $host_script start $(quote "${take:-no}" "${#environment[@]}" "${environment[@]}" "${training[@]}")"
}

start_on_hosts() { everywhere started start_round; }  # the same command on every host

ask_hosts() {  # ask_hosts [LIMIT [WORD]]: sets did, code, process and first; fails when a host has not answered
    on_hosts "${1:-$look_limit}" all "if test -e $host_script; then bash $host_script ${2:-report}; else echo RVM_BARE; fi" || true
    read_answers
    $dry_run || ! pick_silent || ((${#picked[@]} <= bare))
}

reach_hosts() {  # ask_hosts until all answer; fails when some never do: what runs there is then not known
    local tried
    for ((tried = 1; ; tried++)); do
        ask_hosts "$first_limit" && return
        look
        [[ $word =~ ^(ready|sick|settling|unknown)$ ]] || return 1
        ssh_reasons
        pick_silent || true
        say "host ${picked[*]} of ${#hosts[@]} ($name, $zone) does not answer; whether a training runs there is not known"
        ((tried < patience)) || return 1
        nap "$poll"
    done
}

stop_training() {  # SIGTERM on every host, then waits until each has saved and ended
    local deadline=$(($(now) + grace))
    ask_hosts "$look_limit" stop || ask_hosts "$look_limit" stop ||
        die 75 "not all hosts of $name could be asked to stop, ${#picked[@]} do not answer: ${picked[*]}; try again"
    if ! pick running; then
        tell 'no training is running; a train command that waits to start it again ends'
        return
    fi
    while pick running; do
        (($(now) < deadline)) || die 75 "still saving after $grace s: host ${picked[*]}"
        nap "$poll"
        ask_hosts || true
    done
    tell "the training has saved and ended on every host; the slice is still there and costs money ($(cost)): launch/tpu.sh" \
        "delete ends that"
}

show_status() {
    local host candidate any=false
    for candidate in "${zones[@]}"; do
        zone=$candidate
        look
        [[ $word != absent ]] || continue
        any=true
        echo "$name: $(describe_state) in $zone"
        [[ $word != unknown ]] || echo "  ($(short_reason))"
        [[ $word =~ ^(ready|sick|settling)$ ]] || continue
        echo "$node_type, $(cost)"
        name_hosts
        ask_hosts || say "host ${picked[*]} of ${#hosts[@]} does not answer"
        for host in "${hosts[@]}"; do
            printf 'host %s: %s' "$host" "${did[$host]-does not answer}"
            [[ ${code[$host]--} == - ]] || printf ' with exit code %s' "${code[$host]}"
            [[ ${process[$host]--} == - ]] || printf ', process %s' "${process[$host]}"
            if [[ $first == "$host" ]]; then echo ', shows the run'; else echo; fi
        done
        if on_hosts "$look_limit" "${first:-${hosts[0]}}" 'cat rvm_jax/run/command' && ! $dry_run; then
            sed 's/^/runs: /' "$scratch/answers"
        fi
    done
    $any || echo "$name: in none of ${zones[*]}"
}

show_logs() {  # of --worker, or of the host that shows the run
    local words kind target
    name_hosts
    [[ $worker != '' ]] || ask_hosts || true
    connection ssh "${worker:-${first:-${hosts[0]}}}"
    run gcloud compute tpus "$kind" ssh "${user:+$user@}$target" "${words[@]}" \
        "--command=tail -n 200 ${follow:+-F} rvm_jax/run/log" < /dev/null 2> "$scratch/answers.reason" || {
        ssh_reasons
        die 2 "no log could be read on host ${worker:-${first:-${hosts[0]}}}"
    }
}
