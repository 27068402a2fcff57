"""How long the parts of ipvsproxy take, and the whole of it on a real kernel, beside its floors.

    figures    one measured value, ratios to floors, the table          pure
    workload   the objects of a cluster with N Services                 pure
    cluster    the same while it changes, and the table that is to be   pure
    plot       charts of figures, as SVG                                pure
    inner      parse, translate, merge, plan, encode, decode            no kernel
    floors     the least that the same work can cost on this machine
    whole      a store, a reconciler and the kernel of a new namespace
    agent      the agent as a process, from an API source to the kernel
    changing   of that, the changes while it runs
    scene      of that, what both need
    source     the API source, a process
    judge      what the kernel holds, by the cheapest calls there are
    processes  the agent's process, the source's, what they use
    stage      one of inner, floors, whole, start, agent for one size, in a process of its own

Seconds of one machine say little about another, least of all inside a guest; so each figure is
shown with its ratio to a floor that was measured in the same run, and counts (operations, programs,
readings), which are the same on every machine, are kept apart from times.
"""
