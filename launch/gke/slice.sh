# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared with the scripts that source this
# What Google calls a slice on GKE: accelerator label, topology, machine type, chips and hosts. Sourced by gke.sh.
# The numbers in names are chips for v5litepod and v6e, and TensorCores, two a chip, for v5p and tpu7x.

label='' machine='' chips=0 chips_per_host=0 hosts=0  # of one slice

describe_slice() {  # sets these, and topology where --topology is not given, from --accelerator
    local kind=${accelerator%-*} number=${accelerator##*-} flat=false
    [[ $number =~ ^[1-9][0-9]*$ ]] || die 2 "--accelerator '$accelerator': a type and a number are needed, such as v6e-256"
    chips=$number
    case $kind in
        v5litepod) label=tpu-v5-lite-podslice machine=ct5lp-hightpu flat=true ;;
        v6e) label=tpu-v6e-slice machine=ct6e-standard flat=true ;;
        v5p | tpu7x)
            ((number % 2 == 0)) || die 2 "--accelerator $accelerator: $kind counts TensorCores, two a chip; take an even number"
            chips=$((number / 2))
            label=tpu7x machine=tpu7x-standard
            [[ $kind == tpu7x ]] || label=tpu-v5p-slice machine=ct5p-hightpu
            ;;
        *) die 2 "--accelerator $accelerator: not known here; take v5litepod-N, v5p-N, v6e-N or tpu7x-N" ;;
    esac
    topology=${topology:-$(usual_topology)}
    [[ -n $topology ]] || die 2 "--accelerator $accelerator: no usual topology has $chips chips; name yours with --topology"
    [[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || die 2 "--topology '$topology': numbers are needed, such as 4x4x8"
    ((${topology//x/*} == chips)) || die 2 "--topology $topology: not a shape of the $chips chips of $accelerator"
    chips_per_host=$((chips == 1 ? 1 : 4))
    ((chips % chips_per_host == 0)) || die 2 "--accelerator $accelerator: hosts have $chips_per_host chips each"
    hosts=$((chips / chips_per_host))
    machine+=-${chips_per_host}t
    ((slices == 1 || hosts > 1)) || die 2 "--slices $slices: Google joins only slices of several hosts; take a larger slice"
}

usual_topology() {
    case $flat$chips in
        true1) echo 1x1 ;; true4) echo 2x2 ;; true8) echo 2x4 ;; true16) echo 4x4 ;; true32) echo 4x8 ;;
        true64) echo 8x8 ;; true128) echo 8x16 ;; true256) echo 16x16 ;;
        false1) [[ $label != tpu7x ]] || echo 1x1x1 ;;
        false4) echo 2x2x1 ;; false8) echo 2x2x2 ;; false16) echo 2x2x4 ;; false32) echo 2x4x4 ;; false64) echo 4x4x4 ;;
        false128) echo 4x4x8 ;; false256) echo 4x8x8 ;; false512) echo 8x8x8 ;; false1024) echo 8x8x16 ;;
        false2048) echo 8x16x16 ;; false4096) echo 16x16x16 ;;
    esac
}
