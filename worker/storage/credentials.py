"""The object store's address and keys from the settings: S3 access keys, or the legacy keys of a Supabase project."""

from __future__ import annotations

import re
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from worker.storage.s3.client import DEFAULT_REGION, StoreConfig


class StoreSettings(Protocol):
    """The settings that name a store and its keys."""

    @property
    def s3_endpoint_url(self) -> str | None: ...
    @property
    def s3_region(self) -> str | None: ...
    @property
    def s3_access_key_id(self) -> str | None: ...
    @property
    def s3_secret_access_key(self) -> SecretStr | None: ...
    @property
    def supabase_url(self) -> str | None: ...
    @property
    def supabase_anon_key(self) -> SecretStr | None: ...
    @property
    def supabase_service_role_key(self) -> SecretStr | None: ...


def store_config(settings: StoreSettings) -> StoreConfig:
    """Return how to reach the store. Call it when `missing` and `unsupported_keys` are empty."""
    address, region = _endpoint(settings) or "", settings.s3_region or DEFAULT_REGION
    if _uses_legacy_keys(settings):
        return StoreConfig(
            endpoint_url=address,
            region=region,
            access_key_id=_project_ref(settings.supabase_url) or "",
            secret_access_key=_plain(settings.supabase_anon_key),
            session_token=_plain(settings.supabase_service_role_key),
        )
    return StoreConfig(
        endpoint_url=address,
        region=region,
        access_key_id=settings.s3_access_key_id or "",
        secret_access_key=_plain(settings.s3_secret_access_key),
    )


def missing(settings: StoreSettings) -> dict[str, str]:
    """Return the fields that are missing to reach the store, each with a phrase that follows its name."""
    problems = {}
    address = _endpoint(settings)
    if address is None:
        problems["s3_endpoint_url"] = "is missing"
    elif _is_supabase(address) and settings.s3_region is None:
        problems["s3_region"] = "is missing; it must be the region of the Supabase project"
    keys = ("s3_access_key_id", "s3_secret_access_key")
    if _uses_legacy_keys(settings):
        keys = ("supabase_anon_key", "supabase_service_role_key")
    return problems | {name: "is missing" for name in keys if not getattr(settings, name)}


def unsupported_keys(settings: StoreSettings) -> dict[str, str]:
    """Return the fields with a Supabase key that S3 does not accept, each with a phrase that follows its name."""
    if not _uses_legacy_keys(settings):
        return {}
    keys = {name: _plain(getattr(settings, name)) for name in ("supabase_anon_key", "supabase_service_role_key")}
    return {
        name: "is not a JWT, and Supabase's S3 accepts no other legacy keys; create S3 access keys instead "
        "(Project Settings, Storage), for example S3_ACCESS_KEY_ID=ACCESS_KEY_ID"
        for name, key in keys.items()
        if key and not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", key)
    }


def _endpoint(settings: StoreSettings) -> str | None:
    """Return the S3 endpoint: S3_ENDPOINT_URL, or else the Supabase project's own."""
    if settings.s3_endpoint_url or settings.supabase_url is None:
        return settings.s3_endpoint_url
    ref = _project_ref(settings.supabase_url)
    # Supabase's storage host accepts large files faster than the project's address does.
    origin = f"https://{ref}.storage.supabase.co" if ref else settings.supabase_url
    return f"{origin}/storage/v1/s3"


def _uses_legacy_keys(settings: StoreSettings) -> bool:
    """Return True if Supabase's JWTs are the credentials. S3 access keys go first; other servers accept no JWTs."""
    own_keys = settings.s3_access_key_id or settings.s3_secret_access_key
    return not own_keys and _project_ref(settings.supabase_url) is not None


def _is_supabase(address: str) -> bool:
    return (urlsplit(address).hostname or "").endswith(".supabase.co")


def _project_ref(address: str | None) -> str | None:
    """Return `abc` of https://abc.supabase.co; None for any other server."""
    if address is None or not _is_supabase(address):
        return None
    return (urlsplit(address).hostname or "").split(".")[0]


def _plain(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
