"""The operations of the REST contract, one module per tag."""
