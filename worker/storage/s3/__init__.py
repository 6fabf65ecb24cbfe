"""boto3 and its transfers, for `object_store.py` alone."""
