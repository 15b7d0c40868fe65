# shellcheck shell=bash
# shellcheck disable=SC2154  # names come from host.sh
# Python and the packages of the checkout on a host; sourced by host.sh.

wheels=$root/packages  # what --offline sends: wheels, uv's Python as python.tar.gz where there is one

python_for_us() {  # a Python of at least 3.11; the runtime images may have an older one
    local python
    for python in python3.11 python3.12 python3.13 python3 "$root"/python/*/bin/python3.11; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            command -v "$python"
            return
        fi
    done
    if [[ $1 == offline ]]; then
        echo 'no Python of at least 3.11 is here, and --offline sent none' >&2
        return 1
    fi
    python3 -m pip install --quiet --user uv >&2 && python3 -m uv python install --quiet 3.11 >&2 &&
        python3 -m uv python find 3.11
}

unpack_wheels() {
    rm -rf "$wheels"
    mkdir -p "$wheels" && tar -xf "$HOME/rvm_packages.tar" -C "$wheels" || return
    if [[ -f $wheels/python.tar.gz ]]; then
        rm -rf "$root/python"
        mkdir -p "$root/python" && tar -xzf "$wheels/python.tar.gz" -C "$root/python" || return
    fi
}

install_packages() {  # install_packages [offline]
    local python from=()
    if [[ $1 == offline ]]; then
        unpack_wheels || return
        from=(--no-index --find-links "$wheels")
    fi
    if ! "$venv/bin/python" -m pip --version > /dev/null 2>&1; then
        rm -rf "$venv"
        python=$(python_for_us "$1") && "$python" -m venv "$venv" || return
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${from[@]}" --constraint "$src/constraints.txt" \
        --editable "${src}[tpu,gcs]" && "$venv/bin/rvm" --help > /dev/null
}
