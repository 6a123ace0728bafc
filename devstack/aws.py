"""The local AWS: delivery streams, the buckets that their records land in, and an outage on demand."""

import json

import boto3
from botocore.config import Config

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
"""moto takes any."""
DIRECT = Config(proxies={})
"""moto is on this machine, whatever proxy the environment names."""
ROLE_ARN = "arn:aws:iam::123456789012:role/firehose"


class LocalAws:
    """moto's server. Each delivery stream writes into a bucket of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = boto3.Session(
            CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1"
        )
        self._s3 = self._session.client("s3", endpoint_url=url, config=DIRECT)

    def create_stream(self, name: str, region: str) -> None:
        """Create a delivery stream that takes direct puts."""
        firehose = self._session.client("firehose", region, endpoint_url=self.url, config=DIRECT)
        self._s3.create_bucket(Bucket=bucket(name))
        firehose.create_delivery_stream(
            DeliveryStreamName=name,
            DeliveryStreamType="DirectPut",
            S3DestinationConfiguration={"RoleARN": ROLE_ARN, "BucketARN": f"arn:aws:s3:::{bucket(name)}"},
        )

    def delivered(self, name: str) -> list[list[str]]:
        """Read the records of each object in a stream's bucket, in their order. An object is one put."""
        objects = self._s3.list_objects_v2(Bucket=bucket(name)).get("Contents", [])
        bodies = [self._s3.get_object(Bucket=bucket(name), Key=found["Key"])["Body"] for found in objects]
        return [records(body.read().decode()) for body in bodies]

    def break_stream(self, name: str) -> None:
        """Let every put into a stream fail with a 500. Nothing may have landed in it yet."""
        self._s3.delete_bucket(Bucket=bucket(name))

    def repair_stream(self, name: str) -> None:
        """Let puts into a broken stream succeed again."""
        self._s3.create_bucket(Bucket=bucket(name))


def bucket(stream_name: str) -> str:
    """The bucket of a delivery stream. Buckets' names have no capitals."""
    return stream_name.lower()


def records(text: str) -> list[str]:
    """The JSON objects of a text, each as it stands there, with its newline where it has one."""
    found, decoder = [], json.JSONDecoder()
    while text:
        _, end = decoder.raw_decode(text)
        end += text.startswith("\n", end)
        found.append(text[:end])
        text = text[end:]
    return found
