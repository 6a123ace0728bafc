"""Flower with two more pages, System Alerts and Streams, and with fewer secrets."""
