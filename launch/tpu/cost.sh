# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # names come from the other scripts of tpu.sh, and are used there
# What the slice costs: chips times hours. Sourced by tpu.sh.

slice_made='' slice_chips=0  # when Google made the slice that is there, and its chips
chip_seconds=0               # of slices of this command that are gone

chips_of() {  # chips_of TYPE: before v5e and v6e, the number in a type counts cores, two a chip
    local number=${1##*-}
    case $1 in
        v2-* | v3-* | v4-* | v5p-*) echo $((number / 2)) ;;
        *) echo "$number" ;;
    esac
}

slices_text() { printf '%s' "$accelerator"; ((node_count == 1)) || printf ', %s slices' "$node_count"; }

tenth() { printf '%d.%d' $(($1 / $2)) $(($1 % $2 * 10 / $2)); }  # tenth A B: A / B with one digit

slice_age() {  # seconds since the slice was made; 0 when that is not known
    local made
    if [[ $slice_made != '' ]] && made=$(date -d "$slice_made" +%s 2> /dev/null); then
        echo $(($(now) - made))
    else
        echo 0
    fi
}

cost() {  # of the slice that is there
    printf '%d chips for %s h, %s chip-hours' "$slice_chips" "$(tenth "$(slice_age)" 3600)" \
        "$(tenth $((slice_chips * $(slice_age))) 3600)"
}

add_cost() {  # counts a slice that is gone
    chip_seconds=$((chip_seconds + slice_chips * $(slice_age)))
    slice_made=''
}

total_cost() {  # of the slices of this command
    printf '%s chip-hours' "$(tenth $((chip_seconds + slice_chips * $(slice_age))) 3600)"
}
