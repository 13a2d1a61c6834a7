"""Blobs: verified bytes under their sha256, and everything on the way there.

    blobs.py                        names, sizes, publishing, removing
    ingest.py small_ingest.py       a download under way: large files piece by piece, small ones in memory first
    piece_writer.py piece_journal.py  write a piece and note how far it is; read that again after a crash
    hashers.py                      sha256 and XXH3 as the bytes come
    piece_sums.py                   the XXH3-128 of each 16 MiB piece, beside large blobs
    verify.py quiet_reader.py       check a blob that is here, without pushing models out of the page cache
    quarantine.py salvage.py        where damaged blobs lie, and which of their pieces are still good

A blob never changes after it is published: 0444, and replaced by rename if it is repaired. An ingest is invisible until
its size and digest are right. After a crash, pieces whose bytes still have the checksum that was noted are kept, and
begun pieces as far as they were noted; space is allocated before it is written to.

This is all of the store that workers may import.
"""
