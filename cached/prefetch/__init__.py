"""Prefetch: read a leased model into the page cache ahead of its loader. Standard library only.

`prefetch.py` reads, a window ahead; `loading_order.py` knows in which order an engine reads its files, `memory.py` how
much memory there is for it.
"""
