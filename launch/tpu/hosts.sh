# shellcheck shell=bash
# shellcheck disable=SC2154  # options come from tpu.sh
# Reaches the hosts of the slice: install, start, stop, ask, logs. Sourced by tpu.sh.
# Every host answers with a line of its own (tpu/host.sh); a host without its line has failed, whatever gcloud returned.

hosts=0
host_script=rvm_jax/src/launch/tpu/host.sh

on_hosts() {  # on_hosts WHICH COMMAND: over ssh; what gcloud prints is shown only when it fails
    local code=0
    run gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" ${project:+"--project=$project"} --quiet \
        "--worker=$1" "--command=$2" 2> "$scratch/ssh" || code=$?
    ((code == 0)) || grep -v -e '^SSH: ' -e '^Using ssh batch' "$scratch/ssh" >&2 || true
    return "$code"
}

count_hosts() {
    hosts=$(ask 1 gcloud compute tpus tpu-vm describe "$name" "--zone=$zone" ${project:+"--project=$project"} \
        '--format=value(networkEndpoints.len())') && [[ $hosts =~ ^[1-9][0-9]*$ ]] && return
    say "$name in $zone does not say how many hosts it has"
    return 1
}

every_host() {  # every_host WORD FILE: whether each host said WORD; names those that did not, and shows what they said
    local number missing=''
    for ((number = 0; number < hosts; number++)); do
        grep -q "^RVM_HOST $number $1\$" "$2" || missing+=" $number"
    done
    [[ -n $missing ]] || return 0
    grep -v '^RVM_HOST' "$2" >&2 || true
    say "host$missing of $hosts ($name, $zone) did not answer '${1%% *}'"
    return 1
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

install_on_hosts() {  # the checkout and its packages on every host; fails, naming the host, when one does not have them
    local unpack='mkdir -p rvm_jax && rm -rf rvm_jax/src && mkdir rvm_jax/src && tar -xzf rvm_jax.tar.gz -C rvm_jax/src'
    pack || return
    run gcloud compute tpus tpu-vm scp "$archive" "$name:rvm_jax.tar.gz" "--zone=$zone" ${project:+"--project=$project"} \
        --quiet --worker=all > "$scratch/copied" 2>&1 || cat "$scratch/copied" >&2
    say "installing on $hosts hosts"
    on_hosts all "$unpack && bash $host_script install" > "$scratch/answers" || true
    $dry_run || every_host "installed $(cksum < "$archive")" "$scratch/answers" || return
    tell 'installed on every host'
    [[ -z $preparation ]] || prepare_hosts
}

prepare_hosts() {  # --prepare on every host; fails, naming the host, where it failed
    say "preparing $hosts hosts"
    on_hosts all "bash $host_script prepare $(quote "$preparation")" > "$scratch/answers" || true
    $dry_run || every_host prepared "$scratch/answers" || return
    tell 'prepared every host'
}

start_on_hosts() {  # the same command on every host; fails, naming the host, when one did not start
    local command
    command="bash $host_script start $(quote "$libtpu_flags" "${training[@]}")"
    on_hosts all "$command" > "$scratch/answers" || true
    $dry_run || every_host started "$scratch/answers"
}

ask_hosts() {  # each host's word into $scratch/report; fails when a host cannot be reached
    on_hosts all "if test -e $host_script; then bash $host_script ${1:-report}; else echo RVM_BARE; fi" > "$scratch/report"
}

reach_hosts() {  # ask_hosts until all answer; fails after some tries: what runs there is then not known
    local tried
    for ((tried = 1; ; tried++)); do
        ask_hosts && return
        if ((tried >= patience)); then
            say "not every host of $name answers, the reason is above; whether a training runs there is not known"
            return 75
        fi
        pause "$poll"
    done
}

count_answers() { grep -c -E '^RVM_(HOST|BARE)' "$scratch/report" || true; }

count_bare() { grep -c '^RVM_BARE' "$scratch/report" || true; }

count_word() { grep -c -E "^RVM_HOST [0-9]+ ($1)( |\$)" "$scratch/report" || true; }

stop_training() {  # SIGTERM on every host, then waits until each has saved and ended
    local deadline=$((SECONDS + grace))
    ask_hosts stop || die 75 "not every host of $name could be asked to stop; the reason is above, try again"
    if (($(count_word 'running|stopped') == 0)); then
        tell 'no training is running'
        return
    fi
    while (($(count_word running) > 0)); do
        ((SECONDS < deadline)) || die 75 "still saving after $grace s: host $(sed -n 's/^RVM_HOST \([0-9]*\) running$/\1/p' \
            "$scratch/report" | sort -n | tr '\n' ' ')"
        pause "$poll"
        ask_hosts || true
    done
    tell 'the training has saved and ended on every host; the slice is still there: launch/tpu.sh delete ends its cost'
}

show_status() {
    find_slice
    if [[ $state == NONE ]]; then
        echo "$name: in none of ${zones[*]}"
        return
    fi
    echo "$name: $state in $zone"
    [[ $state == ACTIVE ]] || return 0
    ask_hosts || say 'not every host could be reached'
    sed -n 's/^RVM_HOST \([0-9]*\) \(.*\)$/host \1: \2/p' "$scratch/report" | sort -k 2 -n
}

show_logs() {
    on_hosts "$worker" "tail -n 200 ${follow:+-F} rvm_jax/run/log" || die 2 "no log could be read on host $worker"
}
