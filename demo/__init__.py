"""The demonstration: a kernel balances real connections by the scheduler that each Service names.

`python -m demo` shows it and ends with status 0 only if everything that it claims was measured to
be true; `python -m demo --shell` leaves a shell in the running cluster. Both need root and a kernel
with IPVS; `make demo` and `make shell` see to that.

    show    what is printed, and which claims held
    scene   the cluster of the demonstration: its pods and Services
    story   the sections, one after the other
    shell   the shell in the cluster
"""
