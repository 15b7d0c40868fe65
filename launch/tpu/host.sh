#!/usr/bin/env bash
# Runs on every host of a TPU slice, called by launch/tpu.sh over ssh. Each answer is one line that names the host:
#   RVM_HOST <number> <word> [detail]
# Layout on a host: ~/rvm_jax/src (the checkout), venv (the packages), run (pid, exit, stopped, log of the training).
set -euo pipefail

root=$HOME/rvm_jax
src=$root/src venv=$root/venv state=$root/run archive=$HOME/rvm_jax.tar.gz
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

metadata=http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number

number=$(curl --fail --silent --max-time 10 --header 'Metadata-Flavor: Google' "$metadata") || number=$(hostname)
number=${number##*-w-}  # a TPU host is also called t1v-...-w-<number>

answer() { printf 'RVM_HOST %s %s\n' "$number" "$*"; }

python_for_us() {  # a Python of at least 3.11; the runtime images may have an older one
    local python
    for python in python3.11 python3.12 python3.13 python3; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            command -v "$python"
            return
        fi
    done
    python3 -m pip install --quiet --user uv >&2 && python3 -m uv python install --quiet 3.11 >&2 &&
        python3 -m uv python find 3.11
}

install_packages() {
    local python
    if ! "$venv/bin/python" -m pip --version > /dev/null 2>&1; then
        rm -rf "$venv"
        python=$(python_for_us) && "$python" -m venv "$venv" || return
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$src/constraints.txt" \
        --editable "${src}[tpu,gcs]" && "$venv/bin/rvm" --help > /dev/null
}

install() {
    local wanted
    wanted=$(cksum < "$archive")
    if [[ $(cat "$root/installed" 2> /dev/null) != "$wanted" ]]; then
        rm -f "$root/installed"
        if ! install_packages > "$root/install.log" 2>&1; then
            tail -n 15 "$root/install.log" | sed "s/^/[host $number] /"
            answer failed
            return 1
        fi
        printf '%s\n' "$wanted" > "$root/installed"
    fi
    answer installed "$wanted"
}

prepare() {  # prepare COMMAND: what the training needs beyond its packages, such as a mount
    if ! (cd "$src" && bash -ec "$1") > "$root/prepare.log" 2>&1 < /dev/null; then
        tail -n 15 "$root/prepare.log" | sed "s/^/[host $number] /"
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
    local word=idle
    if running; then
        word=running
    elif [[ -f $state/exit ]]; then
        word="ended $(cat "$state/exit")"
    elif [[ -f $state/pid ]]; then
        word=lost  # rebooted, or killed together with the shell that would have noted its exit code
    fi
    if [[ -f $state/stopped && $word != running ]]; then
        word=stopped
    fi
    answer "$word"
}

start() {  # start LIBTPU_FLAGS ARGUMENTS...: `rvm ARGUMENTS...`, which outlives this connection
    local flags=$1
    shift
    if ! running; then
        mkdir -p "$state"
        rm -f "$state/exit" "$state/stopped"
        [[ ! -f $state/log ]] || mv "$state/log" "$state/log.before"  # tpu.sh follows each start's log from its first byte
        cd "$src"
        RVM_DISTRIBUTED=auto LIBTPU_INIT_ARGS="$flags" \
            setsid nohup bash "$src/launch/tpu/host.sh" record "$venv/bin/rvm" "$@" >> "$state/log" 2>&1 < /dev/null &
        echo $! > "$state/pid"
    fi
    answer started
}

record() {  # runs a command and notes its exit code
    local code=0
    run_and_forward "$@" || code=$?
    echo "$code" > "$state/exit.new"
    mv "$state/exit.new" "$state/exit"
}

stop() {  # asks the training to save and end
    if running; then
        touch "$state/stopped"
        kill -TERM "$(cat "$state/pid")"
    fi
    report
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
