"""The Hugging Face Hub: `hf://org/name@revision`.

`source.py` resolves a revision to its commit and lists the tree; one HEAD of a file that the Hub gives only to callers
with access proves a caller's rights. `reader.py` reads ranges by the signed links that the Hub redirects to;
`hf_transfer.py` hands large files to the real `hf_transfer`, in a process of its own (`hf_transfer_worker.py`), where
an administrator wants that. `errors.py` translates a status and `X-Error-Code`.
"""
