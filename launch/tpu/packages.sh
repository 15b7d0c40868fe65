# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # names come from the other scripts of tpu.sh, and are used there
# --offline: packages for hosts without a way to the internet, gathered here. Sourced by tpu.sh.

pack_packages() {  # sets packages: one file with the wheels that constraints.txt pins, and a Python for older images
    local folder=$scratch/packages
    packages=$scratch/rvm_packages.tar
    [[ ! -f $packages ]] || return 0
    if $dry_run; then
        packages=${TMPDIR:-/tmp}/rvm_packages.tar
        echo "tar -cf $(quote "$packages") WHEELS" >&3
        return
    fi
    say 'gathering the packages here, for hosts without a way to the internet; this takes minutes'
    mkdir "$folder"
    python3 -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$repo" > "$scratch/pip" 2>&1 || no_packages
    # hatchling builds the checkout on the hosts; the platform is that of all TPU images
    python3 -m pip download --quiet --dest "$folder" --only-binary=:all: --python-version 3.11 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --constraint "$repo/constraints.txt" --find-links "$folder" \
        'rvm_jax[tpu,gcs]' pip setuptools wheel hatchling editables > "$scratch/pip" 2>&1 || no_packages
    pack_python "$folder"
    tar -C "$folder" -cf "$packages" .
    say "packages: $(du -sh "$packages" | cut -f 1)"
}

pack_python() {  # pack_python FOLDER: images of Ubuntu 22.04 have Python 3.10 alone; uv knows where to get a newer one
    local uv=(uv)
    command -v uv > /dev/null || uv=(python3 -m uv)
    if "${uv[@]}" python install --quiet --install-dir "$scratch/python" 3.11 > "$scratch/uv" 2>&1; then
        tar -C "$scratch/python" -czf "$1/python.tar.gz" .
    else
        say "no Python could be fetched with uv ($(tail -n 1 "$scratch/uv")); hosts whose image has no Python 3.11 will fail"
    fi
}

no_packages() {
    die 1 "the packages could not be gathered here, nothing was started: $(tail -n 3 "$scratch/pip" | tr '\n' ' ')"
}
