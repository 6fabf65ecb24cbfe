"""How the settings are grouped in `.env.example` and in the reference."""

from __future__ import annotations

HEADINGS = {
    "database_url": "The database",
    "s3_endpoint_url": "The object store, with S3 access keys",
    "supabase_url": "The object store, with Supabase's legacy keys instead",
    "bucket_uploads": "Buckets",
    "models_s3_bucket": "Base models in a bucket or store of their own, which installations may share",
    "models_dir": "This pod",
    "hf_token": "For commands",
    "max_affinity_wait_s": "Times, in seconds",
}
"""The first field of each group, and what the group is called."""

NEEDED = {
    "database_url": "needed",
    "s3_endpoint_url": "needed",
    "s3_region": "needed on Supabase, else `us-east-1`",
    "s3_access_key_id": "needed",
    "s3_secret_access_key": "needed",
}
"""Fields that an installation with S3 access keys needs, and which of them only Supabase needs."""
