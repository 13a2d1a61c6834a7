"""Transport: connections and requests for all sources, from the socket up to one answer.

    http1.py                      HTTP/1.1 on a socket, and the answers that are refused
    idle.py clients.py            connections that are kept, separated by the credentials sent over them
    pool.py                       the fast path: ranged GETs, received into the caller's memory
    client.py                     the full client: redirects, retries, listings
    ranges.py                     pieces of a file, and the errors that every source raises
    failures.py                   the meaning of a connection's error, in a sentence
    header_deadline.py waiting.py a limit on the wait for an answer's head, and calls that can be cancelled
    blocked_hosts.py              addresses that no caller can make the daemon contact

Nothing but visible ASCII, blanks and tabs goes into a request. A connection that received unrequested bytes is closed.
A token goes to its own host, never along a redirect.
"""
