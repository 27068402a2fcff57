"""How long the parts of ipvsproxy take, and the whole of it on a real kernel, beside its floors.

    figures    one measured value, ratios to floors, the table          pure
    workload   the objects of a cluster with N Services                 pure
    inner      parse, translate, merge, plan, encode, decode            no kernel
    whole      a store, a reconciler and the kernel of a new namespace
    floors     the least that the same work can cost on this machine
    stage      one of the three, for one size, in a process of its own

Seconds of one machine say little about another, least of all inside a guest; so each figure is
shown with its ratio to a floor that was measured in the same run, and counts (operations, programs,
readings), which are the same on every machine, are kept apart from times.
"""
