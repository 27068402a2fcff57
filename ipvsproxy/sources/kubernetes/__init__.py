"""The Kubernetes API as a source: credentials and requests, list-and-watch, and Events.

    source        the events of all resources as one
    resources     which kinds are listed and watched
    reflector     list and watch of one resource
    dialect       how a resource is to be asked for from these servers
    client        requests: which server is asked, and what its answers mean
    messages      lists and watches as JSON
    errors        what can go wrong, as a closed set
    pace          how long to wait before the next try
    health        what becomes known of how the watches are doing
    access        where the servers are, and who we are to them
    session       configuration, credentials and TLS of one moment
    sending       who makes the requests: the library, or a plain HTTP session
    plugin        programs that give a credential
    inline_files  files that are written for credentials
    library       kubernetes_asyncio, as far as it is used
    events        conditions told as Warning Events: when
    announcement  and what, and what not again

Knows nothing of what becomes of an object; only `library`, `session`
and `sending` know the library.
"""
