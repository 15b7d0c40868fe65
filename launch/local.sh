#!/usr/bin/env bash
# A small pod on this machine: N real processes with K CPU devices each, for tests and debugging.
#
#   launch/local.sh [--processes N] [--devices K] [--grace SECONDS] -- train --config configs/tiny.py --workdir DIR ...
#
# After -- comes a command of rvm. Output of process 0 is shown as it is, output of the others with "[i] " in front.
# SIGTERM, SIGHUP and Ctrl-C go to all processes, which save the same step and end. If a process ends in another way, the
# others have SECONDS (default: 180, longer than the default hosts.heartbeat) to end by themselves. Then they are
# killed, with all processes that they started.
#
# The exit code is 0 if all ended with 0. Otherwise it is the first of these that a process ended with: 2, 65, 76, 1,
# any other, 130, 75 (docs/workdir.md explains them). A killed or crashed process counts as 75: starting again resumes.
set -euo pipefail

usage() {
  sed -n '2,13s/^# \{0,1\}//p' "$0"
}

fail() {
  echo "launch/local.sh: $*" >&2
  exit 2
}

is_count() {
  [[ $1 =~ ^[1-9][0-9]{0,3}$ ]]
}

processes=2 devices=1 grace=180
while (($#)); do
  if [[ $1 == --[a-z]*=* ]]; then # as two words
    set -- "${1%%=*}" "${1#*=}" "${@:2}"
    [[ $1 == --@(processes|devices|grace) ]] || fail "$1=$2: is not known; the command of rvm comes after --, see --help"
  fi
  case $1 in
    --processes | --devices | --grace)
      (($# > 1)) || fail "$1: has no value; give a number"
      is_count "$2" || fail "$1 '$2': is not a whole number from 1 to 9999; give something like $1 2"
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --help | -h)
      usage
      exit 0
      ;;
    --)
      shift
      break
      ;;
    *) fail "$1: is not known; the command of rvm comes after --, see --help" ;;
  esac
done
(($#)) || fail "no command; give one after --, such as -- train --config configs/tiny.py --workdir DIR"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rvm=$root/.venv/bin/rvm
[[ -x $rvm ]] || rvm=$(command -v rvm) || fail "rvm: is neither in $root/.venv/bin nor on PATH; run make .venv/package"

# A port that nobody listens on just now.
free_port() {
  local port
  for _ in {1..50}; do
    port=$((20000 + RANDOM % 12000))
    if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
  fail "no free port found between 20000 and 32000"
}

# Prefixes the lines of a process; those in which gloo reports its connections are left out.
show() {
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    [[ $line == '[Gloo] '* ]] || printf '%s%s\n' "$1" "$line"
  done
}

# How much an exit code tells: the largest of all is ours.
rank() {
  case $1 in
    2) echo 9 ;;
    65) echo 8 ;;
    76) echo 7 ;;
    1) echo 6 ;;
    130) echo 4 ;;
    75) echo 3 ;;
    0) echo 0 ;;
    *) echo 5 ;;
  esac
}

port=$(free_port)
export RVM_COORDINATOR=127.0.0.1:$port RVM_NUM_PROCESSES=$processes JAX_PLATFORMS=cpu PYTHONUNBUFFERED=1
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
unset JAX_NUM_CPU_DEVICES # JAX would take this number instead
pids=() shows=() index=() asked=''

# shellcheck disable=SC2329  # traps call it
signal_all() {
  local pid
  asked=$1
  for pid in "${pids[@]}"; do
    kill "-$1" -- "$2$pid" 2>/dev/null || true
  done
}

# Nothing that we started stays: each process leads a group of its own, with its loader workers.
trap 'signal_all KILL -' EXIT
trap 'signal_all TERM ""' TERM
trap 'signal_all HUP ""' HUP # under nohup it stays ignored, as bash cannot trap it
trap 'signal_all INT ""' INT

for ((i = 0; i < processes; i++)); do
  prefix=$( ((i == 0)) || echo "[$i] ")
  exec {out}> >(show "$prefix")
  shows+=($!)
  exec {err}> >(show "$prefix" >&2)
  shows+=($!)
  set -m # gives the process a group of its own
  RVM_PROCESS_ID=$i "$rvm" "$@" 1>&"${out}" 2>&"${err}" </dev/null &
  set +m
  pids+=($!) index[$!]=$i
  [[ -z $asked ]] || kill "-$asked" "$!" 2>/dev/null || true # it came while the processes were being started
  exec {out}>&- {err}>&-
done
exec {own}>&2 2> /dev/null # bash would announce whom a signal ended; we do, below

worst=0 deadline='' left=("${pids[@]}")
while ((${#left[@]})); do
  sleep 0.2 &
  wait $! || true # a trap cuts it short
  still=()
  for pid in "${left[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      still+=("$pid")
      continue
    fi
    code=0
    wait "$pid" || code=$?
    if ((code > 128 && code < 193 && code != 130)); then
      echo "launch/local.sh: process ${index[$pid]} was ended by SIG$(kill -l "$code")" >&"$own"
      code=75
    elif ((code == 126 || code == 127)); then
      echo "launch/local.sh: $rvm: cannot be started, the reason is above; make .venv/package makes it anew" >&"$own"
      code=2
    fi
    (($(rank "$code") <= $(rank "$worst"))) || worst=$code
    ((code == 0)) || : "${deadline:=$((SECONDS + grace))}"
  done
  left=("${still[@]}")
  if ((${#left[@]})) && [[ -n $deadline ]] && ((SECONDS >= deadline)); then
    echo "launch/local.sh: ${#left[@]} of $processes processes still run $grace s after one ended early: killed" >&"$own"
    (($(rank 75) <= $(rank "$worst"))) || worst=75
    break
  fi
done
signal_all KILL -
wait "${shows[@]}" || true # the last lines
exit "$worst"
