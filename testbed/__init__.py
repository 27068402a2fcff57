"""A small cluster in network namespaces: two nodes with pods, clients outside, real packets.

The demonstration and the end-to-end tests stand on it. It needs root and a kernel with IPVS (see
`rig`), knows Kubernetes objects only as the YAML it writes, and the agent only as a program that it
starts: nothing here imports `ipvsproxy`, so that what it reports is a witness of its own.

    layout      who there is: nodes, pods, addresses (values only)
    namespaces  one network namespace: enter it, open a socket in it, run a program in it
    network     the links, addresses and routes of a layout, made and removed
    backend     what a pod answers
    client      what a client sees: answers, failures, load, long connections
    traffic     backends and clients on one event loop, in a thread, for synchronous callers
    survey      many questions of many clients at once
    web, ping   one HTTP request, one ICMP echo
    manifests   Services and EndpointSlices as files, replaced atomically
    witness     what ipvsadm, ipset, iptables-save and ip say, as text and parsed
    applied     what of a Service a node's kernel does not hold yet
    scenario    what happens to a cluster over time
    agent       the agent's process on one node
    cluster     all of it in one context manager

One process holds every backend and every client: a socket stays in the namespace in which it was
created (setns(2)), so no process per pod or per request is needed.
"""
