#!/usr/bin/env bash
# Installs the Debian packages of Slurm where they are missing and this user may. Never fails: without them the tests
# are skipped, and say so.
set -uo pipefail

PATH=$PATH:/usr/sbin  # where the daemons are
for program in munged slurmctld slurmd sbatch; do
    command -v "$program" > /dev/null || missing=$program
done
[[ -n ${missing-} ]] || exit 0
sudo=()
((EUID == 0)) || sudo=(sudo -n)
if ! command -v apt-get > /dev/null; then
    echo 'Slurm is not installed, and there is no apt-get to install it with' >&2
elif ! "${sudo[@]}" true 2> /dev/null; then
    echo 'Slurm is not installed; as root: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge' >&2
elif ! { "${sudo[@]}" apt-get -qq update &&
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get -qq install -y --no-install-recommends \
        slurmctld slurmd slurm-client munge; } > /dev/null; then
    echo 'Slurm could not be installed; the reason is above' >&2
fi
exit 0
