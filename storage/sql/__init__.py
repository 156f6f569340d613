"""Identities in a relational database: SQLite by default, PostgreSQL for several nodes."""
