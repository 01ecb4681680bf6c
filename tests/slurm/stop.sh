#!/usr/bin/env bash
# Stops the cluster started by start.sh and deletes all its files.
#
# Usage:  tests/slurm/stop.sh        (also if nothing is running; running jobs are killed)
# Writes: nothing; deletes SLURM_FOLDER.
# Cost:   5 seconds, up to 30 if jobs must be killed.
#
# Settings: SLURM_FOLDER  see start.sh      (default: /tmp/fairseq-scl-slurm)
set -euo pipefail
folder=${SLURM_FOLDER:-/tmp/fairseq-scl-slurm}
grep -qs '^ClusterName=fairseq-scl-test$' "$folder/slurm.conf" || exit 0
export SLURM_CONF=$folder/slurm.conf

# Jobs would survive the daemons.
if timeout 5 scancel --state=running 2>/dev/null; then
  for ((second = 0; second < 20; second++)); do
    [[ -n $(timeout 5 squeue --noheader --states=running,completing) ]] || break
    sleep 1
  done
fi
for daemon in slurmd slurmctld munged; do
  [[ -f $folder/$daemon.pid ]] || continue
  pid=$(<"$folder/$daemon.pid")
  # By now the number may be another process's.
  for ((tenth = 0; tenth < 100; tenth++)); do
    [[ -r /proc/$pid/comm && $(<"/proc/$pid/comm") == "$daemon" ]] || break
    kill "$pid"
    sleep 0.1
  done
done
rm -rf "$folder"
