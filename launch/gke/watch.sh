# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # options come from gke.sh
# Gives the run to the cluster and shows what becomes of it. The cluster itself starts it again. Sourced by gke.sh.

follower='' followed=none since=''

train() {
    local again='the training continues in the cluster; the same command follows it again, launch/gke.sh stop ends it'
    trap 'leave 130 "$again"' INT
    trap 'leave 143 "$again"' TERM
    trap 'leave 129 "$again"' HUP
    need_account
    ask_state
    if [[ $state == RUNNING ]]; then
        say "$name is already running; following it"
        [[ $there == "$fingerprint" ]] || say 'its options, image or arguments are not those given now, and stay as they are'
        since=--tail=200
    else
        if [[ $state != NONE ]]; then
            tell "$name is $state: it is deleted, and made anew"
            delete_run
            wait_deleted
        fi
        submit "$(date -u +%Y%m%dT%H%M%SZ)-$$" || die 2 'the cluster did not take the JobSet, kubectl'\''s reason is above'
        tell "$name is in the cluster: $slices slices of $hosts hosts, $((chips * slices)) chips. It waits for nodes as long as it takes"
    fi
    if $dry_run; then
        assumed_state='false|0|Completed|'
        read_state
        read_pods
        follow_logs 1
        say 'and so on, until the JobSet is Completed or Failed; the cluster starts it again by itself'
        return
    fi
    watch
}

leave() {  # leave CODE MESSAGE
    trap '' INT TERM HUP
    end_follower
    die "$1" "$2"
}

end_follower() {
    [[ -n $follower ]] || return 0
    kill "$follower" 2> /dev/null || true
    wait "$follower" 2> /dev/null || true
    follower=''
}

wait_deleted() {
    while [[ $state != NONE ]]; do
        $dry_run && return
        pause "$poll"
        read_state || true
    done
}

watch() {  # until the run has ended; ends this script
    local silent=0 stuck=0 shown='' line seen=$restarts
    while :; do
        if ! read_state; then
            silent=$((silent + 1))
            ((silent < patience)) || leave 75 "the cluster does not answer; $again"
        else
            silent=0
            case $state in
                NONE) leave 75 "$name was deleted by someone; the same command starts it again" ;;
                STOPPED) leave 75 'stopped by launch/gke.sh stop; the same command resumes' ;;
                FINISHED)
                    if [[ $followed != "$restarts" ]] && read_pods; then follow_logs "$(count_pods 4 Succeeded)"; fi
                    let_follower_end
                    leave 0 'finished; its nodes still cost money, unless the node pool makes itself smaller'
                    ;;
                FAILED) conclude_failed ;;
            esac
            if ((restarts > seen)); then
                say "the cluster starts it again (restart $restarts)"
                seen=$restarts
            fi
            if read_pods; then
                line="$(count_pods 4 Running) of $((hosts * slices)) hosts run, $(count_pods 7 '.+') have a node"
                [[ $line == "$shown" ]] || say "$line"
                shown=$line
                check_images
                follow_logs "$(count_pods 4 'Running|Succeeded|Failed')"
            fi
        fi
        pause "$poll"
    done
}

check_images() {  # a pod that cannot start holds its node, and waits for ever
    local why
    why=$(awk -F '|' '$5 ~ /^(ErrImagePull|ImagePullBackOff|InvalidImageName|CreateContainer(Config)?Error|RunContainerError)$/ \
        {print "slice " $1 " host " $2 ": " $5; exit}' "$scratch/pods")
    stuck=$((${#why} > 0 ? stuck + 1 : 0))
    ((stuck >= patience)) || return 0
    delete_run
    leave 2 "$why: its container cannot start; check --image $image and whether the nodes may read it. $name is deleted"
}

follow_logs() {  # follow_logs STARTED: shows what the pods print, once all have started
    local command
    if [[ -n $follower ]]; then
        kill -0 "$follower" 2> /dev/null && return
        wait "$follower" || true
        follower=''
    fi
    $dry_run || (($1 == hosts * slices)) || return 0
    if [[ $followed == "$restarts" ]]; then
        (($(count_pods 4 Running) > 0)) || return 0
        since=--since=$((poll + 5))s  # the connection broke: some lines may come twice
    else
        since=${since:---tail=-1}
    fi
    cube logs "--selector=$jobset_label=$name" --container=train --follow --prefix "--max-log-requests=$((hosts * slices))" \
        "$since" --request-timeout=0
    followed=$restarts since=''
    if $dry_run; then
        run "${command[@]}"
        return
    fi
    "${command[@]}" < /dev/null &
    follower=$!
}

let_follower_end() {  # it ends by itself when all pods have; what they printed last is on its way
    local tries=300
    while ((tries-- > 0)) && [[ -n $follower ]] && kill -0 "$follower" 2> /dev/null; do sleep 0.1; done
}

conclude_failed() {
    local code pod
    let_follower_end
    read_pods || true
    awk -F '|' '$6 != "" && $6 != 0 {print "slice " $1 " host " $2 " ended with exit code " $6}' "$scratch/pods" >&2
    code=$(cut -d '|' -f 6 "$scratch/pods" | grep -x -E "${final_codes//, /|}" | sort -n | head -n 1) ||
        code=$(cut -d '|' -f 6 "$scratch/pods" | grep -v -x -E '0?' | sort -n | tail -n 1) || code=1
    pod=$(awk -F '|' -v code="$code" '$6 == code {print $3; exit}' "$scratch/pods")
    if [[ -n $pod ]]; then
        local command
        say "last lines of $pod:"
        cube logs "$pod" --container=train --tail=20
        "${command[@]}" < /dev/null >&2 || true
    fi
    case $code in
        77) leave 75 'no new checkpoint came of several starts, so the cluster does not start it again; the same command does' ;;
        126 | 127 | 128) leave 1 "the image does not start launch/gke/pod.sh; build it with launch/gke.sh setup" ;;
        2 | 65 | 76 | 130) leave "$code" 'the training ended, and starting it again does not help' ;;
        *) leave 75 "the JobSet failed${reason:+: $reason}; the same command starts it again" ;;
    esac
}
