"""The operations of the REST contract, one module per tag.

They know the hive and its ports only.
"""
