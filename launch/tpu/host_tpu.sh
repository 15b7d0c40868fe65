# shellcheck shell=bash
# shellcheck disable=SC2154  # names come from host.sh
# Who uses the TPU of a host; sourced by host.sh. A TPU serves one process; a second one fails minutes after its start.

system=${RVM_TPU_SYSTEM:-}  # where dev and tmp are, other than /
lock_file=$system/tmp/libtpu_lockfile

as_root() {  # the processes of others show their open files to root alone
    if sudo -n true 2> /dev/null; then sudo -n "$@"; else "$@"; fi
}

holders() {  # pids that have the TPU open, or libtpu's lock file
    as_root find /proc -mindepth 3 -maxdepth 3 -path '/proc/[0-9]*/fd/*' \( -lname "$system/dev/accel*" \
        -o -lname "$system/dev/vfio/[0-9]*" -o -lname "$lock_file" \) 2> /dev/null | cut -d / -f 3 | sort -u -n || true
}

end_leftovers() {  # of this launcher's own last start: workers that outlived their training
    local old
    old=$(cat "$state/pid" 2> /dev/null) || return 0
    if [[ -r /proc/$old ]] && ! running; then
        return 0  # the number belongs to somebody else by now
    fi
    ! kill -KILL -- "-$old" 2> /dev/null || sleep 0.2
}

free_tpu() {  # free_tpu yes|no: fails when somebody uses the TPU; yes ends that first
    local pid pids
    pids=$(holders)
    for pid in $pids; do
        printf '[host %s] the TPU is used by process %s of %s: %s\n' "$number" "$pid" "$(stat -c %U "/proc/$pid" 2> /dev/null)" \
            "$(tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline" | cut -c 1-200)"
    done
    if [[ $pids != '' && $1 == yes ]]; then
        # shellcheck disable=SC2086
        as_root kill -TERM $pids 2> /dev/null || true
        for ((pid = 0; pid < 150; pid++)); do
            [[ $(holders) != '' ]] || break
            sleep 0.2
        done
        pids=$(holders)
        # shellcheck disable=SC2086
        [[ $pids == '' ]] || as_root kill -KILL $pids 2> /dev/null || true
        pids=''
    fi
    if [[ $pids != '' ]]; then
        answer taken
        return 1
    fi
    if [[ -e $lock_file ]]; then  # left by a process that was killed; libtpu of another user would stop at it
        as_root rm -f "$lock_file"
    fi
}
