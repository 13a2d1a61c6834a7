"""Blobs: verified bytes under their sha256, and the downloads from which they are made.

    blobs.py                        names, sizes, publishing, removal
    ingest.py small_ingest.py       a download in progress: large files piece by piece, small ones in memory first
    piece_writer.py piece_journal.py  write a piece and record its progress; read the record after a crash
    hashers.py                      compute the sha256, and the source's checksums, as bytes are received
    piece_sums.py                   the XXH3-128 of each 16 MiB piece, beside large blobs
    verify.py quiet_reader.py       check a published blob, without evicting models from the page cache
    quarantine.py salvage.py        keep damaged blobs, and reuse their good pieces

A blob never changes after it is published: its mode is 0444, and a repair replaces it by rename. An ingest is invisible
until its size and digest are right. After a crash, pieces whose bytes still have the recorded checksum are kept, and
incomplete pieces as far as they were recorded; space is allocated before it is written to.

Workers may import this package, and nothing else of the store.
"""
