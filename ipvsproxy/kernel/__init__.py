"""The kernel's side of the port: the one package that speaks netlink, ipset, iptables and /proc.

    linux         the kernel of this machine, as one dataplane
    fake          a dataplane in memory that obeys the kernel's rules; and faulty ones
    rules         those rules, of operations
    balance       and of connections
    dry_run       a dataplane that never writes
    ipvs          virtual and real servers by netlink: `codec`, `configuration`; by `ipvs_sockopt`
    link          the dummy interface and its addresses: `rtnetlink`
    ipset         sets and their members: `ipset_codec` (netlink), `ipset_text` (the program)
    iptables      chains: `iptables_text`
    glance        what is counted only
    conntrack     flows that are to be forgotten
    sysctl        kernel settings
    surroundings  the node's own network; `listeners`, `notices` of changes
    foreign       what other proxies have left; `nftables`
    netlink       sockets; `message` is what goes through them
    process       programs that are started
    refusals      what an errno means
    preflight     whether this node can run the agent
    initial       what an init container does
    listing       virtual and real servers as `ipvsadm` prints them
    oom           this process's place when memory runs out

What blocks is called in one worker thread; whatever is refused comes back as an outcome.
"""
