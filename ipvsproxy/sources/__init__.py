"""Where objects come from: a folder of manifests, or the Kubernetes API; each yields events.

    directory   the folder, and when it is looked at
    watching    what the kernel tells of it
    manifests   the objects of one file
    picture     what is in all files together, and what of it is missing
    kubernetes  the API

A source knows objects and events; it knows nothing of who takes them.
"""
