"""Access to the database, for pods and for its owner: pool, claims, errors, migrations, logins."""
