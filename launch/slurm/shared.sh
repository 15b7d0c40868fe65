# shellcheck shell=bash
# What slurm.sh and its batch script slurm_job.sh share; sourced.

field() {  # field NAME TEXT: the value of NAME in what `scontrol show job` has printed
    case $1 in
        StdOut) sed -n 's/^ *StdOut=//p' <<< "$2" ;;  # a path can have blanks
        *) sed -n -E "s/^(.* )?$1=([^ ]*).*/\2/p" <<< "$2" ;;
    esac | head -n 1
}

time_seconds() {  # seconds of a time as Slurm writes it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; nothing for UNLIMITED
    local days=0 hours=0 minutes=0 seconds=0 number='([0-9]+)'
    if [[ $1 =~ ^$number-$number(:$number)?(:$number)?$ ]]; then
        days=${BASH_REMATCH[1]} hours=${BASH_REMATCH[2]} minutes=${BASH_REMATCH[4]:-0} seconds=${BASH_REMATCH[6]:-0}
    elif [[ $1 =~ ^$number:$number:$number$ ]]; then
        hours=${BASH_REMATCH[1]} minutes=${BASH_REMATCH[2]} seconds=${BASH_REMATCH[3]}
    elif [[ $1 =~ ^$number(:$number)?$ ]]; then
        minutes=${BASH_REMATCH[1]} seconds=${BASH_REMATCH[3]:-0}
    else
        return 0
    fi
    echo $((((10#$days * 24 + 10#$hours) * 60 + 10#$minutes) * 60 + 10#$seconds))
}

is_too_short() {  # is_too_short TIME GRACE: Slurm would ask the training to end as soon as it starts
    local seconds
    seconds=$(time_seconds "$1")
    # Slurm looks at its jobs now and then only, and signals up to a minute early.
    [[ -n $seconds ]] && ((seconds > 0 && seconds <= $2 + 60))
}

too_short() {  # the message for it
    echo "the time limit $1 is too short: the training is asked to save and end $2 s before it, and Slurm does that up to" \
        "a minute early. Give a longer --time or a smaller --grace"
}
