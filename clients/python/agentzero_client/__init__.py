"""Python client of AgentZero API.

`Client` and `AsyncClient` submit tasks and watch the hive.
"""
