"""The store of base models: `MODELS_S3_*`, and where they are not set `S3_*`.

Several installations may share it. Its bucket is never marked, and never swept: both know only the buckets of
worker.config, in the store of `S3_*`.
"""

from __future__ import annotations

from typing import Protocol

from pydantic import SecretStr

from worker.storage.credentials import StoreSettings


class ModelsStoreSettings(StoreSettings, Protocol):
    """The settings that name the store and the bucket of base models."""

    @property
    def bucket_uploads(self) -> str: ...
    @property
    def models_s3_bucket(self) -> str | None: ...
    @property
    def models_s3_endpoint_url(self) -> str | None: ...
    @property
    def models_s3_region(self) -> str | None: ...
    @property
    def models_s3_access_key_id(self) -> str | None: ...
    @property
    def models_s3_secret_access_key(self) -> SecretStr | None: ...


class ModelsStore:
    """The settings of the store of base models, in the form of StoreSettings."""

    def __init__(self, settings: ModelsStoreSettings) -> None:
        own_address = settings.models_s3_endpoint_url
        own_keys = settings.models_s3_access_key_id or settings.models_s3_secret_access_key
        self.s3_endpoint_url = own_address or settings.s3_endpoint_url
        self.s3_region = settings.models_s3_region or settings.s3_region
        self.s3_access_key_id = settings.models_s3_access_key_id if own_keys else settings.s3_access_key_id
        self.s3_secret_access_key = settings.models_s3_secret_access_key if own_keys else settings.s3_secret_access_key
        # Supabase's legacy keys go to their own project only: one of them is sent as it is, and opens everything there.
        self.supabase_url = None if own_address else settings.supabase_url
        self.supabase_anon_key = settings.supabase_anon_key
        self.supabase_service_role_key = settings.supabase_service_role_key

        own = (own_address, settings.models_s3_region, own_keys, settings.models_s3_bucket)
        self.is_own = any(own)
        """Whether any of MODELS_S3_* is set."""
        names = ["s3_region"] if own_address else []
        names += ["s3_access_key_id", "s3_secret_access_key"] if own_address or own_keys else []
        self.names = {name: f"models_{name}" for name in names}
        """The fields to name in an error: those of S3_* would not help, or would change the other store."""
        self.is_uploads = (
            self.s3_endpoint_url == settings.s3_endpoint_url and settings.models_s3_bucket == settings.bucket_uploads
        )
        """Whether the bucket is that of people's photos."""
