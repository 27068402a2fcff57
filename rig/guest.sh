#!/bin/bash
# The first process of a guest (or of the fresh namespaces, natively): makes the machine ready, runs the command, reports
# its status. $RIG_WORK is the work folder: `settings` is read, `command` is run, `status` is written; nothing else is.
# Its own output goes to the console, where the rig shows lines that start with "rig:" and what looks like a crash.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# RIG_MACHINE, RIG_MODULES (names), RIG_MODULE_TREE, RIG_OUT, RIG_ERR (devices), RIG_TERMINAL ("ROWS COLUMNS" or empty)
# shellcheck source=/dev/null
. "$RIG_WORK/settings"

whole_machine() { [ "$RIG_MACHINE" != native ]; }

mounts() {
  if whole_machine; then
    mount -t proc proc /proc
    mountpoint -q /dev || mount -t devtmpfs dev /dev
    mkdir -p /dev/pts /dev/shm
    mount -t devpts -o ptmxmode=666 devpts /dev/pts
    mount -t tmpfs shm /dev/shm
    ln -sfn /proc/self/fd /dev/fd
    ln -sfn /proc/self/fd/0 /dev/stdin
    ln -sfn /proc/self/fd/1 /dev/stdout
    ln -sfn /proc/self/fd/2 /dev/stderr
    mount --bind "$RIG_MODULE_TREE" /lib/modules || echo "rig: cannot mount $RIG_MODULE_TREE over /lib/modules"
  fi
  echo ipvsproxy-rig >/proc/sys/kernel/hostname
  mount -t sysfs sys /sys
  mount -t tmpfs -o mode=755 run /run # network namespace names, xtables lock: nobody else's
  mkdir -p /run/netns /run/lock /run/tmp /run/rig
  chmod 1777 /run/tmp
}

network() {
  # shellcheck disable=SC2086
  modprobe -qa $RIG_MODULES 2>/dev/null
  ip link set lo up
}

# What a command left behind would hold the pipes open for ever; the machine ends anyway.
kill_the_rest() { # but these
  for process in /proc/[0-9]*; do
    case "$1 1 " in *" ${process#/proc/} "*) continue ;; esac
    [ -e "$process/exe" ] && kill -KILL "${process#/proc/}" 2>/dev/null # a kernel thread has none
  done
}

# Two pipes in between, so that the command does not believe it writes to a terminal.
run_with_pipes() {
  stty -F "$RIG_OUT" raw -echo
  stty -F "$RIG_ERR" raw -echo
  mkfifo /run/rig/out /run/rig/err
  cat /run/rig/out >"$RIG_OUT" &
  copiers=" $! "
  cat /run/rig/err >"$RIG_ERR" &
  copiers="$copiers$! "
  bash "$RIG_WORK/command" </dev/null >/run/rig/out 2>/run/rig/err
  status=$?
  kill_the_rest "$copiers"
  wait
  stty -F "$RIG_OUT" raw # waits until everything is written
  stty -F "$RIG_ERR" raw
}

run_with_terminal() {
  # shellcheck disable=SC2086
  set -- $RIG_TERMINAL
  stty -F "$RIG_OUT" sane rows "$1" columns "$2"
  setsid --ctty --wait bash "$RIG_WORK/command" <>"$RIG_OUT" >&0 2>&0
  status=$?
  stty -F "$RIG_OUT" raw
}

mounts
network
if ! whole_machine; then
  bash "$RIG_WORK/command" # not exec: as process 1 this shell reaps orphans, and its end ends them all
  exit
fi
if [ -n "$RIG_TERMINAL" ]; then run_with_terminal; else run_with_pipes; fi
echo "$status" >"$RIG_WORK/status"
sync
echo 1 >/proc/sys/kernel/sysrq
echo o >/proc/sysrq-trigger
sleep 5
