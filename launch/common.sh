# shellcheck shell=bash
# shellcheck disable=SC2154  # dry_run comes from the script that sources this
# What tpu.sh, slurm.sh and the scripts that they start share; sourced. A dry run writes commands to file descriptor 3,
# the script's own output.

say() {
    local note=''
    if ${dry_run:-false}; then note=' (dry run)'; fi
    printf '%s%s: %s\n' "${0##*/}" "$note" "$*" >&2
}

tell() { if ! $dry_run; then say "$*"; fi; }  # what has happened; in a dry run nothing has

die() {  # die CODE MESSAGE
    local code=$1
    shift
    say "$*"
    exit "$code"
}

quote() {  # the words of a command as one line that a shell reads back as the same words
    local word line=''
    for word in "$@"; do
        if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
            word="'${word//\'/\'\\\'\'}'"
        fi
        line+="${line:+ }$word"
    done
    printf '%s\n' "$line"
}

run() {  # runs a command; a dry run shows it
    if $dry_run; then quote "$@" >&3; else "$@"; fi
}

ask() {  # ask ASSUMED COMMAND...: what the command prints; a dry run shows the command and uses ASSUMED as the answer
    local assumed=$1
    shift
    if $dry_run; then
        quote "$@" >&3
        printf '%s\n' "$assumed"
    else
        "$@"
    fi
}

run_and_forward() {  # runs a command, passes SIGTERM on to it, and fails with its exit code
    local child code=0
    trap 'kill -TERM "$!" 2> /dev/null' TERM
    "$@" &
    child=$!
    while kill -0 "$child" 2> /dev/null; do  # a signal ends the wait, not the command
        wait "$child" || true
    done
    wait "$child" || code=$?  # not the code of a wait that a signal ended
    return "$code"
}

pause() { (($1 == 0)) || sleep "$1"; }

need_value() {  # need_value OPTION COUNT: COUNT is $#, the option itself included
    (($2 > 1)) || die 2 "$1 needs a value; see --help"
}

value_of() {  # value_of --workdir ARGUMENTS...: the value of one argument of the training command, or nothing
    local flag=$1
    shift
    while (($#)); do
        case $1 in
            "$flag="*) printf '%s\n' "${1#*=}" ;;
            "$flag") printf '%s\n' "${2-}" ;;
        esac
        shift
    done | tail -n 1
}
