"""The database as a pod and as its owner reach it: pool, claims, errors, migrations, logins."""
