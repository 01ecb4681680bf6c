#!/usr/bin/env bash
# Starts a one-node Slurm cluster on this machine for tests: munged, slurmctld and slurmd
# as root, without systemd and cgroups, so that it also runs in a container.
#
# Usage:  tests/slurm/start.sh        (returns when the node is idle; stop with stop.sh)
#         export SLURM_CONF=/tmp/fairseq-scl-slurm/slurm.conf
#         sinfo
# Writes: SLURM_FOLDER (settings, key, state, logs). If Slurm or munge is missing, it
#         installs the Debian packages slurm-wlm and munge. The node pretends to have 4
#         processors. Jobs in the partition urgent pre-empt those in test. A cluster that
#         already works is left as it is.
# Cost:   7 seconds, 30 more to install Slurm; 30 MB of memory.
#
# Settings: SLURM_FOLDER  where all files are written  (default: /tmp/fairseq-scl-slurm)
set -euo pipefail
folder=${SLURM_FOLDER:-/tmp/fairseq-scl-slurm}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf

fail() {
  echo "start.sh: $*" >&2
  exit 2
}

install_slurm() {
  local log
  command -v apt-get >/dev/null ||
    fail "slurmctld or munged is missing, and apt-get was not found to install it"
  log=$(mktemp)
  echo "start.sh: installing slurm-wlm and munge"
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes \
    --no-install-recommends slurm-wlm munge; } >"$log" 2>&1; then
    fail "apt-get could not install slurm-wlm and munge, see $log: $(tail -n 1 "$log")"
  fi
  rm "$log"
}

# SlurmctldHost and NodeName must be names of this machine. config_overrides lets the node
# have more processors than it finds. A short cred_expire lets a requeued job start again
# after 6 seconds instead of 2 minutes.
write_settings() {
  cat >"$SLURM_CONF" <<CONF
ClusterName=fairseq-scl-test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
MailProg=/bin/true
MpiDefault=none
ReturnToService=2
KillWait=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=60 PriorityTier=1
PartitionName=urgent Nodes=$host MaxTime=60 PriorityTier=2
CONF
}

start_daemons() {
  [[ ! -e $folder || -z $(ls -A "$folder") ]] ||
    fail "$folder has other files: set SLURM_FOLDER to another folder"
  umask 022
  mkdir -p "$folder"/{munge,state,spool}
  write_settings
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
  munged --force --socket="$folder/munge/socket" --key-file="$folder/munge/key" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munge/munged.log" \
    --seed-file="$folder/munge/seed"
  slurmctld
  slurmd
}

is_idle() {
  [[ $(timeout 5 sinfo --noheader --format=%T 2>/dev/null) == idle ]]
}

is_up() {
  [[ -n $(timeout 5 sinfo --noheader --states=idle,mixed,alloc 2>/dev/null) ]]
}

[[ $EUID == 0 ]] || fail "slurmd starts jobs for other users: run this as root"
if is_up; then
  echo "start.sh: Slurm is already running, SLURM_CONF=$SLURM_CONF"
  exit 0
fi
for program in slurmctld slurmd sinfo munged; do
  command -v "$program" >/dev/null || {
    install_slurm
    break
  }
done
"$here/stop.sh" # clean up after a broken one
start_daemons
for ((second = 0; second < 60; second++)); do
  if is_idle; then
    echo "start.sh: Slurm is running, SLURM_CONF=$SLURM_CONF"
    exit 0
  fi
  sleep 1
done
fail "the node was not idle after 60 seconds, see $folder/slurmctld.log and slurmd.log"
