"""Delivery into Amazon Kinesis Firehose: regions, clients, batches, requests and error classification."""
