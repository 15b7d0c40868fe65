# shellcheck shell=bash
# shellcheck disable=SC2154  # names come from host.sh
# What the training reads: a bucket as a folder (--data); sourced by host.sh.

wait_for_apt() {  # new machines update themselves for minutes and hold apt's lock: every apt-get waits for it from now on
    if command -v apt-get > /dev/null && sudo -n true 2> /dev/null; then
        echo 'DPkg::Lock::Timeout "600";' | sudo -n tee /etc/apt/apt.conf.d/90rvm-wait > /dev/null
    fi
}

install_gcsfuse() {  # as Google documents it for Debian and Ubuntu
    local keyring=/usr/share/keyrings/cloud.google.asc apt=https://packages.cloud.google.com/apt
    curl --fail --silent --show-error --max-time 60 "$apt/doc/apt-key.gpg" | sudo -n tee "$keyring" > /dev/null || return
    echo "deb [signed-by=$keyring] $apt gcsfuse-$(lsb_release -c -s) main" |
        sudo -n tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null || return
    sudo -n apt-get -qq update && sudo -n apt-get -qq install -y gcsfuse
}

mount_bucket() {  # mount_bucket gs://BUCKET[/FOLDER]: read-only, as ~/rvm_jax/data
    local path=${1#gs://} folder bucket
    bucket=${path%%/*} folder=${path#"$bucket"}
    folder=${folder#/} folder=${folder%/}
    if [[ $(cat "$root/mounted" 2> /dev/null) == "$1" ]] && mountpoint -q "$root/data"; then
        return
    fi
    command -v gcsfuse > /dev/null || install_gcsfuse || return
    ! mountpoint -q "$root/data" || fusermount -u "$root/data" || return
    mkdir -p "$root/data"
    gcsfuse --implicit-dirs -o ro ${folder:+"--only-dir=$folder"} "$bucket" "$root/data" && printf '%s\n' "$1" > "$root/mounted"
}
