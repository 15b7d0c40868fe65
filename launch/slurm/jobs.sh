# shellcheck shell=bash
# shellcheck disable=SC2154  # the options are slurm.sh's
# What launch/slurm.sh does with a job that was submitted: status, logs, stop; sourced.

read_job() {  # sets job_text and state; state is blank for a job that Slurm does not know, or does not know any more
    need_slurm scontrol
    if job_text=$(scontrol show job "$job" 2>&1); then
        state=$(field JobState "$job_text")
        return
    fi
    state=''
    [[ $job_text == *'Invalid job id'* ]] || die 75 "Slurm does not answer: $job_text"
}

has_ended() { [[ $state != @(PENDING|CONFIGURING|RUNNING|SUSPENDED|STOPPED|COMPLETING|RE*|SIGNALING|SPECIAL_EXIT|STAGE_OUT) ]]; }

log_path() {
    local path
    path=$(field StdOut "$job_text")
    printf '%s\n' "${path:-$logs/$job.log}"
}

in_words() {  # in_words CODE:SIGNAL, as Slurm has them
    if [[ $1 != *:0 ]]; then
        echo "ended by signal ${1#*:}"
        return
    fi
    printf 'exit code %s: ' "${1%:0}"
    case ${1%:0} in
        0) echo 'done' ;;
        2) echo 'a mistake in the command, the config or a path' ;;
        65) echo 'data that cannot be used' ;;
        75) echo 'stopped early; the same command resumes' ;;
        76) echo 'training diverged' ;;
        126 | 127) echo 'rvm could not be started' ;;
        130) echo 'Ctrl-C; the same command resumes' ;;
        *) echo 'the reason is in the log' ;;
    esac
}

status() {
    local log line
    if $dry_run; then
        run scontrol show job "$job"
        return
    fi
    read_job
    log=$(log_path)
    if [[ -z $state ]]; then
        if sacct --allocations --jobs="$job" --format=JobID,JobName,State,ExitCode,Elapsed,NodeList 2> /dev/null | grep -w "$job"; then
            return
        fi
        [[ -f $log ]] || die 2 "job $job: Slurm does not know it, and there is no log $log; if its logs are elsewhere, give --logs"
        echo "job $job: Slurm does not know it any more; the end of its log $log:"
        tail -n 5 "$log"
        return
    fi
    line="job $job $(field JobName "$job_text"): $state"
    if [[ $state == @(PENDING|RE*) ]]; then
        line+=", $(field Reason "$job_text")"
    elif has_ended; then
        line+=" after $(field RunTime "$job_text")"
        [[ $state != @(COMPLETED|FAILED) ]] || line+=", $(in_words "$(field ExitCode "$job_text")")"
    else
        line+=" for $(field RunTime "$job_text") of $(field TimeLimit "$job_text") on $(field NodeList "$job_text")"
    fi
    printf '%s; queued again %s times; log: %s\n' "$line" "$(field Restarts "$job_text")" "$log"
}

show_log() {
    local log
    if $dry_run; then
        run tail -n 200 -F "$logs/$job.log"
        return
    fi
    read_job
    log=$(log_path)
    if has_ended; then
        [[ -f $log ]] || die 2 "job $job${state:+ has ended as $state}: there is no log $log; if its logs are elsewhere, give --logs"
        exec tail -n 200 "$log"
    fi
    [[ -f $log ]] || say "job $job is $state; its log begins when it starts"
    exec tail -n 200 -F "$log"
}

stop() {
    local try
    if $dry_run; then
        run scontrol update "JobId=$job" Requeue=0
        run scancel --signal=TERM "$job"
        return
    fi
    read_job
    [[ -n $state ]] || die 2 "job $job: Slurm does not know it; it has ended long ago, or never was"
    if has_ended; then
        say "job $job has ended already: $state"
        return
    fi
    # From now on neither its script nor Slurm, after a lost node, puts it back into the queue.
    scontrol update "JobId=$job" Requeue=0 || die 2 "job $job could not be asked to stop, Slurm's reason is above"
    for ((try = 0; try < 30; try++)); do  # it may start, or end, between two commands
        if trains && scancel --signal=TERM "$job"; then
            say "job $job has been asked to save and end; launch/slurm.sh status $job shows when it has"
            return
        fi
        case $state in
            PENDING | RE* | SPECIAL_EXIT) scancel --state=PENDING "$job" || true ;;
            CONFIGURING) scancel "$job" || true ;;
            RUNNING) ((try < 5)) || scancel "$job" || true ;;  # the training is not started yet, or over
        esac
        sleep 1
        read_job
        if has_ended; then
            say "job $job has ended: $state"
            return
        fi
    done
    say "job $job is $state; it ends by itself, and does not go back into the queue"
}

trains() {  # its script alone is one step
    [[ $state == @(RUNNING|SUSPENDED|STOPPED) ]] &&
        squeue --noheader --steps "--jobs=$job" --format=%i | grep -q -v -E '\.(batch|extern|interactive)$'
}
