#!/bin/sh
# Keeps one machine running: starts it again when it asks for a reboot, ends when it powers off.
# Arguments: the cgroup directories to join, "--", and systemd-nspawn's command line.
#
# Without systemd as PID 1 nobody gives a machine a cgroup of its own, and two machines in one
# cgroup would manage each other's services.
join() {
  mkdir -p "$1" && echo $$ >"$1/cgroup.procs"
}

while [ "$1" != -- ]; do
  join "$1" || echo "vllm-lab: could not join $1"
  cgroups="${cgroups:-} $1"
  shift
done
shift

# Told to end, it waits for the machine's end and starts it no more.
stopping=
trap 'stopping=yes' TERM

failures=0
while :; do
  begun=$(date +%s)
  "$@"
  status=$?
  [ -z "$stopping" ] || exit 0
  # With --keep-unit a reboot ends systemd-nspawn with 133 (EXIT_FORCE_RESTART).
  if [ "$status" -eq 133 ]; then
    failures=0
  elif [ "$status" -ne 0 ] && [ "$failures" -lt 5 ] && [ $(($(date +%s) - begun)) -lt 5 ]; then
    # The last run's interface can outlive it by a moment.
    failures=$((failures + 1))
    sleep 1
  else
    echo "vllm-lab: the machine ended with status $status"
    exit "$status"
  fi
  # systemd-nspawn may have moved us below; its next run must begin where this one began.
  for directory in ${cgroups:-}; do
    join "$directory" 2>/dev/null
  done
done
