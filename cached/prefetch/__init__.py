"""Prefetch: read a leased model into the page cache ahead of its loader. Standard library only.

`prefetch.py` reads, a window ahead; `loading_order.py` gives the order in which an engine reads its files, `memory.py`
the memory that is available for it.
"""
