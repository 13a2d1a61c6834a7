"""Transport: what carries the sources, from the socket up to one answer.

    http1.py                      HTTP/1.1 on a socket, and what is refused of it
    idle.py clients.py            connections that are kept, apart by whose credentials they carry
    pool.py                       the fast path: ranged GETs, received into the caller's memory
    client.py                     the full client: redirects, retries, listings
    ranges.py                     pieces of a file, and the errors that every source raises
    failures.py                   what an error of a connection means, in a sentence
    header_deadline.py waiting.py how long an answer may take to begin, and calls that can be given up
    blocked_hosts.py              addresses that no caller can make the daemon ask

Nothing but visible ASCII, blanks and tabs goes into a request. A connection on which something came unasked is closed.
A token goes to the host that it is for, never along a redirect.
"""
