# shellcheck shell=bash
# shellcheck disable=SC2154  # names come from host.sh
# The log of the training, kept in the run's workdir: the disks of the hosts go with the slice. Sourced by host.sh.

copy_log() {  # copy_log TARGET: with the package's own client of Google Cloud Storage; a minute at most, and never an error
    timeout 60 "$venv/bin/python" -c 'import sys; from rvm_jax.storage import files; files.write(sys.argv[2], files.read(sys.argv[1]))' \
        "$state/log" "$1" > "$state/log_copy" 2>&1 < /dev/null || true
}

keep_log() {  # keep_log TARGET: copies it each minute if it has changed
    local size before=''
    while sleep 60; do
        size=$(stat -c %s "$state/log")
        [[ $size == "$before" ]] || copy_log "$1"
        before=$size
    done
}
