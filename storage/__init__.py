"""Adapters of the hive's ports: MongoDB, SQL and memory."""
