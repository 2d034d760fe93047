"""The database: connections, statements, migrations. What is saved, and when it may be called so."""
