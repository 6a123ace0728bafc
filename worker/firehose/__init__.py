"""Delivery into Amazon Kinesis Firehose: regions, clients, batches, requests and verdicts."""
