"""Adapters of the hive's ports: MongoDB, SQL, Redis and memory."""
