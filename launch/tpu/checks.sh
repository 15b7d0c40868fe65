# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # names come from the other scripts of tpu.sh, and are used there
# What is looked at before anything is created: mistakes that would otherwise be found on a slice that is paid for.
# Sourced by tpu.sh.

key=$HOME/.ssh/google_compute_engine  # where gcloud keeps the key for all hosts

check_account() {  # that gcloud has an account
    google 60 gcloud auth list --filter=status:ACTIVE '--format=value(account)' ||
        die 2 "gcloud does not work: $(short_reason)"
    $dry_run || [[ $reply != '' ]] || die 2 "gcloud has no account; log in: gcloud auth login"
}

check_key() {  # that ssh to many hosts at once needs no passphrase: gcloud stops when an agent runs without its key
    local mark code=0
    if $dry_run; then
        return
    fi
    if [[ ! -f $key ]]; then
        mkdir -p "${key%/*}"
        ssh-keygen -q -t rsa -N '' -C "${user:-$(id -un)}" -f "$key" ||
            die 2 "$key, the key for the hosts, could not be made; gcloud compute config-ssh makes it"
        say "made $key, the key for the hosts"
    fi
    mark=$(ssh-add -l 2> /dev/null) || code=$?
    if ((code == 2)); then  # no agent: then the key itself must be usable
        ssh-keygen -y -P '' -f "$key" > /dev/null 2>&1 ||
            die 2 "$key has a passphrase, and no ssh-agent runs: eval \"\$(ssh-agent)\" && ssh-add $key"
    elif [[ $mark != *$(ssh-keygen -lf "$key" | cut -d ' ' -f 2)* ]]; then
        ssh-add -q "$key" < /dev/null 2> /dev/null ||
            die 2 "the ssh-agent does not have $key, and gcloud stops without it: ssh-add $key"
    fi
}

check_bucket() {  # check_bucket URL: that it can be listed; an empty one can
    local tries
    for ((tries = 1; ; tries++)); do
        google 120 gcloud storage ls "${1%/}/" && return
        [[ $reason != *'matched no objects'* ]] || return 0
        if ((tries == 3)) || [[ $reason =~ 40[0-9]|not\ found|not\ have|active\ account|denied ]]; then
            die 2 "$1 cannot be listed: $(short_reason); nothing was created"
        fi
        nap "$poll"
    done
}

check_zones() {  # that a zone offers the accelerator; drops those that do not
    local candidate offered=()
    for candidate in "${zones[@]}"; do
        if google 60 gcloud compute tpus accelerator-types describe "$accelerator" "--zone=$candidate" \
            ${project:+"--project=$project"} '--format=value(type)' || [[ $reason != *NOT_FOUND* ]]; then
            offered+=("$candidate")
        else
            say "zone $candidate has no $accelerator"
        fi
    done
    ((${#offered[@]} > 0)) || die 2 "none of ${zones[*]} has $accelerator; 'gcloud compute tpus accelerator-types list' shows what a zone has"
    hopeless=()
    for candidate in "${zones[@]}"; do
        [[ " ${offered[*]} " == *" $candidate "* ]] || hopeless+=("$candidate")
    done
}

quota_name() {  # what Google calls the quota of a type: a pattern for its identifier
    case $accelerator in
        v6e-*) echo TPUV6E ;;
        v5p-*) echo TPUV5P ;;
        v5litepod-*) echo TPUV5s ;;
        v4-*) echo TPUV4 ;;
    esac
}

check_quota() {  # says where the quota is smaller than the request; Google refuses that, so it costs nothing to go on
    local id where value kind chips
    [[ $reserved$reservation$flex_start == '' ]] || return 0
    chips=$(($(chips_of "$accelerator") * node_count))
    google 120 gcloud beta quotas info list --service=tpu.googleapis.com --quiet "--project=${project:-$(own_project)}" \
        "--filter=quotaId~^$(quota_name)" '--flatten=dimensionsInfos' \
        '--format=csv[no-heading](quotaId,dimensionsInfos.dimensions.zone,dimensionsInfos.details.value)' || return 0
    while IFS=, read -r id where value; do
        kind=''
        [[ $id != *Preemptible* ]] || kind=yes
        [[ $kind == "$spot" && " ${zones[*]} " == *" $where "* && $value =~ ^[0-9]+$ ]] || continue
        ((value >= chips)) || say "zone $where: the quota $id is $value chips, $chips are asked for"
    done <<< "$reply"
}

own_project() {
    if $dry_run; then echo PROJECT; else gcloud config get-value project 2> /dev/null < /dev/null; fi
}

check_first() {  # everything that can be known before a slice costs money
    check_account
    check_key
    [[ ${workdir-} == '' ]] || check_bucket "$workdir/checkpoints"
    [[ $data == '' ]] || check_bucket "$data"
    check_zones
    check_quota
}
