#!/bin/bash
# Inside the rig: starts the agent from the image's root as a container of the DaemonSet is started, once for each list
# of capabilities, each time in a network namespace of its own, and shows what the kernel then holds.
#   confined.sh ROOT MANIFESTS CAPABILITIES...      CAPABILITIES as setpriv takes them: +net_admin,+net_raw
set -eu
root=$1 manifests=$2
shift 2

inside() { # what both containers have: the image, read only; /proc; three devices
  chroot "$root" "$@"
}

mount --bind "$root" "$root"
mount -t tmpfs run "$root/run"
mkdir "$root/run/services"
cp "$manifests"/*.yaml "$root/run/services"
mount -t proc proc "$root/proc"
mount -t tmpfs dev "$root/dev"
cp -a /dev/null /dev/urandom "$root/dev"
touch /run/xtables.lock "$root/run/xtables.lock"
mount --bind /run/xtables.lock "$root/run/xtables.lock"
mount -o remount,ro,bind "$root"
mount -o remount,ro "$root/run"
mount -o remount,ro "$root/dev"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"

one_node() {
  ip link set lo up
  for name in vs/conntrack vs/expire_nodest_conn vs/expire_quiescent_template ip_forward; do
    [ "$1" = untouched ] || echo 1 >"/proc/sys/net/ipv4/$name" # as the init container leaves it
  done
  inside setpriv --bounding-set="-all,$2" --inh-caps=-all --no-new-privs env -i \
    PATH=/opt/ipvsproxy/bin:/usr/sbin:/usr/bin:/sbin:/bin NODE_NAME=node-a \
    ipvsproxy run --once --manifests /run/services 2>&1 || echo "exit status $?"
  ipvsadm -Sn
  ipset list -n
  iptables-legacy-save 2>/dev/null
  iptables-nft-save 2>/dev/null || true # the rig may have no nftables
  ip -brief address show kube-ipvs0 2>/dev/null || true
}
export -f one_node inside
export root

for capabilities; do
  echo "== $capabilities"
  unshare --net bash -c 'one_node prepared "$0"' "$capabilities"
done
echo "== untouched"
unshare --net bash -c 'one_node untouched "$0"' "$1"
