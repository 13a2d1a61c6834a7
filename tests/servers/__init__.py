"""Real servers for tests, each on 127.0.0.1 and a free port, ready when its `with` block begins.

with Moto() as s3: s3.put("bucket", "llama/config.json", b"{}"); s3.endpoint
with RcloneS3() as s3: …    # s3.access_key, s3.secret_key; auth=False: open to all; etags=False: much faster
with GcsEmulator() as gcs: gcs.put("bucket", "llama/config.json", b"{}")
with AzureStub() as azure: azure.put("container", "llama/config.json", b"{}"); azure.credentials, azure.sas
with HubStub() as hub: commit = hub.add_commit("org/llama", {"config.json": b"{}"}); hub.bytes_served
with Tenants() as s3: s3.add("AKIA1", "team"); s3.put("team", "bucket", "llama/config.json", b"{}"); s3.body_bytes
with CountingProxy(s3.endpoint) as proxy: proxy.endpoint, proxy.bytes_down; proxy.cut(); proxy.restore()
with Moto() as s3, GuardedS3(s3.endpoint) as guarded: guarded.allow("AKIA…", lists=["bucket/"], reads=["bucket/b/"])
with EndlessServer() as endless: endless.endpoint, endless.pages; endless.hold(); endless.release()
with FaultOrigin() as origin: origin.put("llama", {"config.json": b"{}"}); origin.fail("cut"); origin.uri("s3", …)
"""

from tests.servers.azure import AzureStub, Azurite
from tests.servers.endless import EndlessServer
from tests.servers.fault import FaultOrigin
from tests.servers.files import Files
from tests.servers.gcs import GcsEmulator
from tests.servers.hub import HubStub
from tests.servers.moto import Moto
from tests.servers.proxy import CountingProxy
from tests.servers.rclone import RcloneS3
from tests.servers.rights import GuardedGcs, GuardedS3
from tests.servers.tenants import Tenants

__all__ = [
    "AzureStub",
    "Azurite",
    "CountingProxy",
    "EndlessServer",
    "FaultOrigin",
    "Files",
    "GcsEmulator",
    "GuardedGcs",
    "GuardedS3",
    "HubStub",
    "Moto",
    "RcloneS3",
    "Tenants",
]
