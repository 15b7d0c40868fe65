#!/usr/bin/env bash
# Runs on every host of a TPU slice, called by launch/tpu.sh over ssh. Each answer is one line that names the host:
#   RVM_HOST <host> <word> <exit code or -> <process or -> <first or ->;
# Layout on a host: ~/rvm_jax/src (the checkout), venv (the packages), run (pid, exit, stopped, process, command and log
# of the training), data (--data). Never exits with 255: gcloud takes that for a lost connection, and runs it again.
set -euo pipefail

root=$HOME/rvm_jax
src=$root/src new=$root/new venv=$root/venv state=$root/run
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/common.sh
source "$here/../common.sh"
# shellcheck source=launch/tpu/host_packages.sh
source "$here/host_packages.sh"
# shellcheck source=launch/tpu/host_data.sh
source "$here/host_data.sh"
# shellcheck source=launch/tpu/host_log.sh
source "$here/host_log.sh"
# shellcheck source=launch/tpu/host_tpu.sh
source "$here/host_tpu.sh"

metadata() {  # metadata NAME: an attribute of this machine
    curl --fail --silent --max-time 10 --header 'Metadata-Flavor: Google' \
        "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

number_here() {  # 3, or 1.3 on the second of several slices
    local number environment slice
    number=$(metadata agent-worker-number) || number=$(hostname)
    number=${number##*-w-}  # a TPU host is also called t1v-...-w-<number>
    environment=$(metadata tpu-env) || environment=''
    slice=$(sed -n "s/^MEGASCALE_SLICE_ID: *'\([0-9]*\)'.*/\1/p" <<< "$environment")
    echo "${slice:+$slice.}$number"
}

# It does not change as long as the machine is there, and is asked for every few seconds.
number=$(cat "$root/number" 2> /dev/null) || { number=$(number_here) && mkdir -p "$root" && echo "$number" > "$root/number"; }

answer() {  # answer WORD; the line is one write, and whole wherever others write in between
    local process='' rank=''
    if [[ -f $state/process && $1 =~ ^(running|ended|stopped|lost)$ ]]; then
        read -r process rank < "$state/process" || true
    fi
    printf '\nRVM_HOST %s %s %s %s %s;\n' "$number" "$1" "${2:--}" "${process:--}" "${rank:--}"
}

tell_why() {  # tell_why FILE: its last lines, with the host's number
    tail -n 15 "$1" | sed "s/^/[host $number] /"
}

busy() {  # whether somebody else's words are to be kept from here: a training runs
    running && answer busy
}

install() {  # install MARK [offline]: from ~/rvm_jax/new; MARK is the checksum of the archive that came
    if [[ $(cksum < "$HOME/rvm_jax.tar.gz" | tr -d ' \n') != "$1" ]]; then
        echo "[host $number] the archive is not the one that was sent"
        answer failed
        return 1
    fi
    if [[ $(cat "$root/installed" 2> /dev/null) != "$1" ]]; then
        ! busy || return 1
        rm -rf "$root/installed" "$src"
        mv "$new" "$src"
        if ! install_packages "${2-}" > "$root/install.log" 2>&1; then
            tell_why "$root/install.log"
            answer failed
            return 1
        fi
        printf '%s\n' "$1" > "$root/installed"
    fi
    answer installed
}

prepare() {  # prepare DATA COMMAND: what the training needs beyond its packages: a bucket as a folder, a mount
    wait_for_apt
    if ! { [[ $1 == '' ]] || mount_bucket "$1"; } > "$root/prepare.log" 2>&1 < /dev/null ||
        ! (cd "$src" && bash -ec "${2:-true}") >> "$root/prepare.log" 2>&1 < /dev/null; then
        tell_why "$root/prepare.log"
        answer failed
        return 1
    fi
    answer prepared
}

running() {  # the pid could belong to someone else after a reboot
    [[ -f $state/pid && ! -f $state/exit ]] &&
        tr '\0' ' ' 2> /dev/null < "/proc/$(cat "$state/pid")/cmdline" | grep -q 'host.sh record'
}

report() {
    if running; then
        answer running
    elif [[ -f $state/stopped ]]; then
        answer stopped "$(cat "$state/exit" 2> /dev/null || true)"
    elif [[ -f $state/exit ]]; then
        answer ended "$(cat "$state/exit")"
    elif [[ -f $state/pid ]]; then
        answer lost  # rebooted, or killed together with the shell that would have noted its exit code
    else
        answer idle
    fi
}

start() {  # start TAKE COUNT NAME=VALUE... ARGUMENTS...: `rvm ARGUMENTS...`, which outlives this connection
    local take=$1 count=$2 environment
    shift 2
    environment=("${@:1:count}")
    shift "$count"
    mkdir -p "$state"
    exec 9> "$state/lock"
    flock 9  # two people may start it at the same moment
    if ! running; then
        end_leftovers
        free_tpu "$take" || return 1
        rm -f "$state/exit" "$state/stopped" "$state/process"
        [[ ! -f $state/log ]] || mv "$state/log" "$state/log.before"  # tpu.sh follows each start's log from its first byte
        quote rvm "$@" > "$state/command"
        cd "$src"
        env RVM_DISTRIBUTED=auto "RVM_PROCESS_FILE=$state/process" "${environment[@]}" \
            setsid nohup bash "$src/launch/tpu/host.sh" record "$venv/bin/rvm" "$@" >> "$state/log" 2>&1 < /dev/null 9>&- &
        echo $! > "$state/pid"
    fi
    answer started
}

record() {  # runs a command, keeps its log in the workdir, and notes its exit code
    local code=0 keeper target
    target=$(value_of --workdir "$@")/logs/host_${number}_$(date -u +%Y%m%d_%H%M%S).log
    keep_log "$target" &
    keeper=$!
    run_and_forward "$@" || code=$?
    kill "$keeper" 2> /dev/null || true
    copy_log "$target"
    echo "$code" > "$state/exit.new"
    mv "$state/exit.new" "$state/exit"
}

stop() {  # asks the training to save and end; what has ended is not to be started again either
    if running; then
        touch "$state/stopped"
        kill -TERM "$(cat "$state/pid")"
        answer running
    else
        [[ ! -f $state/pid ]] || touch "$state/stopped"
        report
    fi
}

halt() {  # asks what still runs to save and end, when another host has ended for good
    if running; then stop; else report; fi
}

end() {  # ends what is left of a run whose other hosts have ended
    if running; then
        kill -KILL -- "-$(cat "$state/pid")"
        echo 137 > "$state/exit"
    fi
    report
}

log_from() {  # the training's log from a byte on, a megabyte at most
    if [[ -f $state/log ]]; then
        tail -c "+$(($1 + 1))" "$state/log" | head -c 1000000
    fi
}

"$@"
