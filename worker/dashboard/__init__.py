"""Flower with three more pages, System Alerts, Streams and Dead Letters, and with fewer secrets."""
