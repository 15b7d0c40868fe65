# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # names come from the other scripts of tpu.sh, and are used there
# The state of a slice in one word, and what is done about it. Sourced by tpu.sh.
#
# Google keeps two states: of the request (the queued resource) and of the nodes that it got. They change at different
# times: a node can be PREEMPTED for minutes while its request is still ACTIVE.
#
#   word      before a start                              while the training runs
#   absent    request it                                  somebody deleted it: end
#   queued    wait --wait seconds, then the next zone     wait
#   granted   wait half an hour more: it is paid for      wait
#   settling  wait ten minutes, then as gone              ask the hosts
#   ready     use it                                      ask the hosts
#   sick      use it if its hosts answer, else as gone    ask the hosts; as gone if some do not answer
#   fading    wait ten minutes for what it becomes        the same; then as gone
#   gone      delete it until NOT_FOUND, request again    the same
#   leaving   wait until NOT_FOUND, request again         somebody deleted it: end
#   unknown   look again; nothing is changed              look again; nothing is changed

word=''

decide() {  # decide REQUEST NODE HEALTH: sets word
    case $1/$2/$3 in
        NONE/*) word=absent ;;
        CREATING/* | ACCEPTED/* | WAITING_FOR_RESOURCES/*) word=queued ;;
        PROVISIONING/*) word=granted ;;
        SUSPENDING/*) word=fading ;;
        SUSPENDED/* | FAILED/*) word=gone ;;
        DELETING/*) word=leaving ;;
        ACTIVE/READY/ | ACTIVE/READY/HEALTHY) word=ready ;;
        ACTIVE/READY/*) word=sick ;;
        ACTIVE/CREATING/* | ACTIVE/STARTING/* | ACTIVE/RESTARTING/* | ACTIVE/REIMAGING/* | ACTIVE/REPAIRING/* | ACTIVE/UNHIDING/*)
            word=settling ;;
        ACTIVE/PREEMPTED/* | ACTIVE/TERMINATED/*) word=gone ;;
        ACTIVE/NONE/* | ACTIVE/DELETING/* | ACTIVE/STOPPING/* | ACTIVE/STOPPED/* | ACTIVE/HIDING/* | ACTIVE/HIDDEN/*)
            word=fading ;;
        *) word=unknown ;;
    esac
}

describe_state() {  # the states as Google calls them
    printf '%s' "$request"
    [[ $request != ACTIVE || $node_state == '' ]] || printf ', its node %s' "$node_state"
    [[ $request != ACTIVE || ${node_health:-HEALTHY} == HEALTHY ]] || printf ' and %s' "$node_health"
}
