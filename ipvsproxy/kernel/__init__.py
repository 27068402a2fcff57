"""The kernel's side of the port: the one package that speaks netlink, ipset, iptables and /proc."""
