"""`download_file` of every object below a prefix, one after the other: each is fetched in ten ranges at once."""

import os
import sys

import boto3

endpoint, bucket, prefix, target = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
    for item in page["Contents"]:
        s3.download_file(bucket, item["Key"], os.path.join(target, os.path.basename(item["Key"])))
