# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # options and what others read come from gke.sh
# Asks the cluster through kubectl: nodes, the JobSet, its pods. Sourced by gke.sh.

state='' restarts=0 there='' reason=''  # of the JobSet: there is the fingerprint of its options, reason why it failed
jobset_label=jobset.sigs.k8s.io/jobset-name

cube() {  # cube VERB ARGUMENTS...: words of one kubectl command; a silent cluster fails after a minute
    command=(kubectl ${context:+"--context=$context"} ${namespace:+"--namespace=$namespace"} --request-timeout=60s "$@")
}

read_state() {  # sets state: NONE, RUNNING, STOPPED, FINISHED or FAILED; fails when the cluster could not be asked
    local command answer suspended true_conditions
    local fields='{.spec.suspend}|{.status.restarts}|{.status.conditions[?(@.status=="True")].type}'
    fields+='|{.metadata.annotations.rvm-jax/options}|{.status.conditions[?(@.type=="Failed")].message}'
    cube get jobset "$name" --ignore-not-found "--output=jsonpath=$fields"
    answer=$(ask "$assumed_state" "${command[@]}" < /dev/null) || return
    IFS='|' read -r suspended restarts true_conditions there reason <<< "$answer"
    case " $true_conditions " in
        *' Completed '*) state=FINISHED ;;
        *' Failed '*) state=FAILED ;;
        *)
            state=RUNNING
            [[ $suspended != true ]] || state=STOPPED
            [[ -n $answer ]] || state=NONE
            ;;
    esac
    restarts=${restarts:-0}
}

ask_state() { read_state || die 2 "the cluster cannot be asked, kubectl's reason is above; launch/gke.sh create says what is missing"; }

read_pods() {  # into $scratch/pods, a line each: slice, host, name, phase, why it waits, exit code, node, chips, start
    local command lines='{range .items[*]}{.metadata.labels.jobset\.sigs\.k8s\.io/job-index}'
    lines+='|{.metadata.annotations.batch\.kubernetes\.io/job-completion-index}|{.metadata.name}|{.status.phase}'
    lines+='|{.status.containerStatuses[?(@.name=="train")].state.waiting.reason}'
    lines+='|{.status.containerStatuses[?(@.name=="train")].state.terminated.exitCode}|{.spec.nodeName}'
    lines+='|{.spec.containers[?(@.name=="train")].resources.limits.google\.com/tpu}|{.status.startTime}{"\n"}{end}'
    cube get pods "--selector=$jobset_label=$name" "--output=jsonpath=$lines"
    ask '' "${command[@]}" < /dev/null > "$scratch/unsorted" || return
    sort -t '|' -k 1,1n -k 2,2n "$scratch/unsorted" | grep '|' > "$scratch/pods" || true
}

count_pods() {  # count_pods FIELD PATTERN: pods in which this field of their line matches
    awk -F '|' -v field="$1" -v pattern="^($2)\$" '$field ~ pattern {n++} END {print n + 0}' "$scratch/pods"
}

need_account() {  # without its service account no pod is ever made, and only an event says so
    local command
    [[ -n $service_account ]] || return 0
    cube get serviceaccount "$service_account" --output=name
    run "${command[@]}" < /dev/null > /dev/null || die 2 "--service-account $service_account: not there, kubectl's reason is above"
}

submit() {  # submit ID [--dry-run=server]: gives the JobSet to the cluster
    local command id=$1
    shift
    cube create "$@" --filename=-
    if $dry_run; then
        printf '%s << '\''END'\''\n' "$(quote "${command[@]}")" >&3
        manifest "$id" >&3
        echo END >&3
    else
        manifest "$id" | "${command[@]}" > /dev/null
    fi
}

check_cluster() {  # whether a run could start now; says which commands make what is missing
    local command line pool chips_there ready=0 selector="cloud.google.com/gke-tpu-accelerator=$label"
    need_account
    image=${image:-not-yet-built} training=(train)
    if ! submit check --dry-run=server; then
        say "the cluster does not take the JobSet, kubectl's reason is above. Without a cluster in kubectl's settings:
  gcloud container clusters get-credentials CLUSTER --location=LOCATION --project=PROJECT
Without JobSet (release 0.8.0 or later):
  kubectl apply --server-side --filename=https://github.com/kubernetes-sigs/jobset/releases/download/v0.8.0/manifests.yaml"
        return 2
    fi
    selector+=",cloud.google.com/gke-tpu-topology=$topology${spot:+,cloud.google.com/gke-spot=true}"
    line='{range .items[*]}{.metadata.labels.cloud\.google\.com/gke-nodepool} {.status.allocatable.google\.com/tpu}{"\n"}{end}'
    cube get nodes "--selector=$selector" "--output=jsonpath=$line"
    ask '' "${command[@]}" < /dev/null > "$scratch/nodes" || return 2
    while read -r pool chips_there; do
        [[ ${chips_there:-0} == "$chips_per_host" ]] ||
            die 2 "node pool $pool: its nodes offer ${chips_there:-no} chips, not $chips_per_host; make one of $machine"
    done < "$scratch/nodes"
    ready=$(sort "$scratch/nodes" | uniq -c | awk -v hosts="$hosts" '{n += int($1 / hosts)} END {print n + 0}')
    if ((ready >= slices)); then
        tell "ready: $ready of $slices slices ($label $topology, $hosts hosts each) have their nodes, which cost money from now on"
        return
    fi
    say "$ready of $slices slices ($label $topology, $hosts hosts each) have their nodes. A node pool that grows from zero is
made larger when a run asks for it. Otherwise these commands make one pool; each slice needs its own:"
    pool_commands >&2
    $dry_run || return 75
}

pool_commands() {  # gcloud commands that make a node pool for one slice
    local cluster=CLUSTER location=LOCATION project=PROJECT current pool=$name-1 shape=("--tpu-topology=$topology")
    current=${context:-$(kubectl config current-context 2> /dev/null)} || true
    if [[ $current =~ ^gke_([^_]+)_([^_]+)_(.+)$ ]]; then  # the names that get-credentials gives
        project=${BASH_REMATCH[1]} location=${BASH_REMATCH[2]} cluster=${BASH_REMATCH[3]}
    fi
    if [[ $label == tpu7x ]]; then  # its shape comes from a workload policy; a single host has only one
        shape=()
        if ((hosts > 1)); then
            shape=("--placement-policy=$pool")
            printf '  '
            quote gcloud compute resource-policies create workload-policy "$pool" --type=HIGH_THROUGHPUT \
                "--accelerator-topology=$topology" "--project=$project" --region=REGION
        fi
    fi
    printf '  '
    quote gcloud container node-pools create "$pool" "--cluster=$cluster" "--location=$location" "--project=$project" \
        --node-locations=ZONE "--machine-type=$machine" ${shape[@]+"${shape[@]}"} "--num-nodes=$hosts" ${spot:+--spot} \
        --scopes=https://www.googleapis.com/auth/cloud-platform
    printf '  '
    quote gcloud container node-pools delete "$pool" "--cluster=$cluster" "--location=$location" "--project=$project"
    echo '  (the last one ends its cost)'
}

show_status() {
    ask_state
    if [[ $state == NONE ]]; then
        echo "$name: not there"
        return
    fi
    echo "$name: $state, started again $restarts times${reason:+ ($reason)}"
    read_pods || die 2 "its pods cannot be listed, kubectl's reason is above"
    cost_so_far
    awk -F '|' '{printf "slice %s host %s: %s%s%s%s\n", $1, $2, $4, $5 ? " (" $5 ")" : "", $6 != "" ? " (exit code " $6 ")" : "",
        $7 ? " on " $7 : ", no node yet"}' "$scratch/pods"
}

cost_so_far() {  # chips of the pods that have a node, and their hours since the last start
    local in_use first now begun
    in_use=$(awk -F '|' '$7 && $4 != "Succeeded" && $4 != "Failed" {n += $8} END {print n + 0}' "$scratch/pods")
    echo "$in_use chips in use; nodes cost money as long as they exist, with or without a run"
    first=$(cut -d '|' -f 9 "$scratch/pods" | grep . | sort | head -n 1) || return 0
    now=$(date -u +%s)
    begun=$(date -u -d "$first" +%s 2> /dev/null || date -u -j -f %Y-%m-%dT%H:%M:%SZ "$first" +%s 2> /dev/null) || return 0
    awk -v chips="$in_use" -v seconds="$((now - begun))" -v first="$first" \
        'BEGIN {printf "since the last start (%s): %.1f h, %.1f chip-hours\n", first, seconds / 3600, chips * seconds / 3600}'
}

show_logs() {
    local command pod total
    read_pods || die 2 "its pods cannot be listed, kubectl's reason is above"
    total=$(count_pods 3 '.+')
    $dry_run || ((total > 0)) || die 2 "$name has no pods; launch/gke.sh status says why"
    cube logs "--selector=$jobset_label=$name" --prefix "--max-log-requests=$((total > 0 ? total : 1))" --ignore-errors
    if [[ -n $worker ]]; then
        pod=$(awk -F '|' -v n="$worker" 'NR == n + 1 {print $3}' "$scratch/pods")
        if $dry_run; then pod=POD; fi
        [[ -n $pod ]] || die 2 "--worker $worker: there are $total hosts, numbered from 0"
        cube logs "$pod"
    fi
    command+=(--container=train --tail=200)
    if [[ -n $follow ]]; then command+=(--follow --request-timeout=0); fi
    run "${command[@]}" < /dev/null || die 2 'no log could be read'
}

pods_gone() {  # waits until the pods have saved and ended; fails after --grace seconds
    local deadline=$((SECONDS + grace + 60))
    $dry_run && return
    while :; do
        if read_pods && (($(count_pods 4 'Running|Pending') == 0)); then return 0; fi
        ((SECONDS < deadline)) || return 1
        pause "$poll"
    done
}

stop_training() {
    local command
    assumed_state='false|0||'
    ask_state
    case $state in
        NONE) die 2 "$name is not there" ;;
        FINISHED | FAILED)
            tell "no training is running: $name is $state"
            return
            ;;
    esac
    cube patch jobset "$name" --type=merge '--patch={"spec":{"suspend":true}}'
    run "${command[@]}" < /dev/null > /dev/null || die 75 "$name could not be asked to stop, kubectl's reason is above"
    pods_gone || die 75 "still saving $((grace + 60)) s after the request; launch/gke.sh status shows which host"
    tell 'the training has saved and ended on every host; the same command resumes it. Its nodes still cost money, unless the
node pool makes itself smaller'
}

delete_run() {  # the pods get the same time to save as with stop
    local command
    cube delete jobset "$name" --ignore-not-found --cascade=foreground --wait=false
    run "${command[@]}" < /dev/null > /dev/null || die 2 "$name could not be deleted, kubectl's reason is above; it may still cost money"
    pods_gone || die 75 "$name: pods are still there $((grace + 60)) s after the request; launch/gke.sh status shows which"
}
