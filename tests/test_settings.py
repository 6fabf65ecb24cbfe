import os
import shutil
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.errors import SettingsError
from worker.renamed_settings import OLD_NAMES
from worker.settings import Settings, env_example

ROOT = Path(__file__).parent.parent
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.anon-marker"
SERVICE_JWT = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZSJ9.service-marker"
DATABASE = {"DATABASE_URL": "postgresql://likeness_worker:pass-marker@db.example.com:5432/postgres"}
KEYS = {
    "S3_ENDPOINT_URL": "http://127.0.0.1:9000",
    "S3_ACCESS_KEY_ID": "key-id",
    "S3_SECRET_ACCESS_KEY": "secret-marker",
}
LEGACY = {
    "SUPABASE_URL": "https://abcdefgh.supabase.co",
    "SUPABASE_ANON_KEY": JWT,
    "SUPABASE_SERVICE_ROLE_KEY": SERVICE_JWT,
    "S3_REGION": "eu-central-1",
}
OTHERS = {
    "DATABASE_LISTEN_URL": "postgresql://u:pass-marker@h/db",
    "S3_REGION": "eu-central-1",
    "BUCKET_UPLOADS": "up",
    "BUCKET_MODELS": "mod_els",
    "BUCKET_MESHES": "mesh-es",
    "MODELS_S3_BUCKET": "bases",
    "MODELS_S3_ENDPOINT_URL": "http://127.0.0.1:9001",
    "MODELS_S3_REGION": "eu-west-1",
    "MODELS_S3_ACCESS_KEY_ID": "models-key-id",
    "MODELS_S3_SECRET_ACCESS_KEY": "models-secret-marker",
    "MODELS_DIR": "/models of mine",
    "MODELS_MAX_GB": "1.5",
    "WORK_DIR": "/work",
    "WORKER_KINDS": "training, generation",
    "FETCH_PRIVATE_HOSTS": "shop.internal, localhost:54321",
    "UPSCALER": "spandrel",
    "WORKER_NAME": "pod 1",
    "LOG_FORMAT": "json",
    "HF_TOKEN": "hf_token",
    "MAX_AFFINITY_WAIT_SECONDS": "5",
    "CHECKPOINT_EVERY_SECONDS": "0.5",
}
MODELS_STORE = {name: value for name, value in OTHERS.items() if name.startswith("MODELS_S3_")}
MARKERS = ("pass-marker", "secret-marker", "anon-marker", "service-marker")


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    """Remove our variables from the environment, and change to a folder without .env."""
    for line in env_example().splitlines():
        monkeypatch.delenv(line.lstrip("#").split("=")[0], raising=False)
    for name in ("NEXT_PUBLIC_SUPABASE_URL", *OLD_NAMES.values()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def load(monkeypatch, variables: dict[str, str], **options: bool) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings.load(**options)


def refused(monkeypatch, variables: dict[str, str]) -> list[str]:
    """Return the lines of the error, after checking that neither they nor the traceback show a secret."""
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, variables)
    shown = "".join(traceback.format_exception(caught.value))
    assert not any(marker in shown for marker in MARKERS)
    return str(caught.value).splitlines()


class TestReading:
    def test_defaults(self, monkeypatch):
        settings = load(monkeypatch, DATABASE | KEYS)
        assert settings.database_url.get_secret_value() == DATABASE["DATABASE_URL"]
        assert settings.listen_url == settings.database_url
        assert (settings.bucket_uploads, settings.bucket_models) == ("uploads", "model_artifacts")
        assert settings.models_dir.parts[-2:] == ("likeness", "models")
        assert settings.models_max_gb is None
        assert settings.worker_kinds == frozenset()
        assert settings.worker_name
        assert settings.log_format == "auto"
        assert (settings.max_affinity_wait_s, settings.checkpoint_every_s) == (60.0, 120.0)

    def test_every_name_is_read(self, monkeypatch):
        settings = load(
            monkeypatch,
            DATABASE
            | KEYS
            | {
                "DATABASE_LISTEN_URL": "postgresql://u@h/db",
                "BUCKET_UPLOADS": "up",
                "BUCKET_MODELS": "mod_els",
                "BUCKET_MESHES": "mesh-es",
                "MODELS_DIR": "~/models",
                "MODELS_MAX_GB": "1.5",
                "WORKER_KINDS": "training, generation",
                "FETCH_PRIVATE_HOSTS": "shop.internal, localhost:54321",
                "WORKER_NAME": "pod-1",
                "LOG_FORMAT": "json",
                "MAX_AFFINITY_WAIT_SECONDS": "5",
                "CHECKPOINT_EVERY_SECONDS": "0.5",
            },
        )
        assert settings.listen_url.get_secret_value() == "postgresql://u@h/db"
        assert (settings.bucket_uploads, settings.bucket_models) == ("up", "mod_els")
        assert settings.models_dir == Path.home() / "models"
        assert settings.models_max_gb == 1.5
        assert settings.worker_kinds == {"training", "generation"}
        assert (settings.worker_name, settings.log_format) == ("pod-1", "json")
        assert (settings.max_affinity_wait_s, settings.checkpoint_every_s) == (5.0, 0.5)

    def test_the_environment_overrides_the_file(self, monkeypatch, tmp_path):
        lines = [f"{name}={value}" for name, value in (DATABASE | KEYS).items()]
        (tmp_path / ".env").write_text("\n".join([*lines, "WORKER_NAME=file", "LOG_FORMAT=json", "OTHERS=1"]))
        settings = load(monkeypatch, {"WORKER_NAME": "environment"})
        assert (settings.worker_name, settings.log_format) == ("environment", "json")

    def test_an_empty_variable_means_the_default(self, monkeypatch):
        settings = load(monkeypatch, DATABASE | KEYS | {"WORKER_KINDS": "", "MODELS_MAX_GB": "", "S3_REGION": ""})
        assert settings.models_max_gb is None
        assert settings.store_config.region == "us-east-1"

    def test_settings_cannot_be_changed(self, monkeypatch):
        settings = load(monkeypatch, DATABASE | KEYS)
        with pytest.raises(ValidationError):
            settings.worker_name = "other"

    def test_secrets_are_not_shown(self, monkeypatch):
        settings = load(monkeypatch, DATABASE | KEYS | LEGACY)
        shown = f"{settings!r} {settings} {settings.store_config!r} {settings.model_dump_json()}"
        assert not any(marker in shown for marker in MARKERS)


class TestStore:
    def test_access_keys(self, monkeypatch):
        store = load(monkeypatch, DATABASE | KEYS | {"S3_REGION": "auto"}).store_config
        assert (store.endpoint_url, store.region) == ("http://127.0.0.1:9000", "auto")
        assert (store.access_key_id, store.secret_access_key) == ("key-id", "secret-marker")
        assert store.session_token is None

    @pytest.mark.parametrize("name", ["SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"])
    def test_supabases_legacy_keys(self, monkeypatch, name):
        """Access key = project ref, secret = anon key, session token = service_role key."""
        variables = {key: value for key, value in LEGACY.items() if key != "SUPABASE_URL"}
        store = load(monkeypatch, DATABASE | variables | {name: LEGACY["SUPABASE_URL"] + "/"}).store_config
        assert store.endpoint_url == "https://abcdefgh.storage.supabase.co/storage/v1/s3"
        assert (store.region, store.access_key_id) == ("eu-central-1", "abcdefgh")
        assert (store.secret_access_key, store.session_token) == (JWT, SERVICE_JWT)

    def test_access_keys_override_legacy_keys(self, monkeypatch):
        own = {name: value for name, value in KEYS.items() if name != "S3_ENDPOINT_URL"}
        store = load(monkeypatch, DATABASE | LEGACY | own).store_config
        assert store.endpoint_url == "https://abcdefgh.storage.supabase.co/storage/v1/s3"
        assert (store.access_key_id, store.session_token) == ("key-id", None)

    def test_a_self_hosted_supabase_is_used_at_its_own_address(self, monkeypatch):
        own = {name: value for name, value in KEYS.items() if name != "S3_ENDPOINT_URL"}
        store = load(monkeypatch, DATABASE | own | {"SUPABASE_URL": "http://127.0.0.1:54321"}).store_config
        assert store.endpoint_url == "http://127.0.0.1:54321/storage/v1/s3"

    def test_a_command_without_storage_needs_none(self, monkeypatch):
        settings = load(monkeypatch, DATABASE, storage=False)
        with pytest.raises(SettingsError, match="S3_ENDPOINT_URL is missing"):
            _ = settings.store_config


class TestStoreOfBaseModels:
    def test_without_settings_of_its_own_it_is_the_one_store_and_its_bucket_of_loras(self, monkeypatch):
        settings = load(monkeypatch, DATABASE | KEYS)
        assert settings.models_store_config == settings.store_config
        assert settings.base_models_bucket == settings.bucket_models

    def test_each_setting_that_is_not_set_is_that_of_the_store(self, monkeypatch):
        settings = load(monkeypatch, DATABASE | KEYS | {"S3_REGION": "eu-central-1", "MODELS_S3_BUCKET": "bases"})
        store = settings.models_store_config
        assert replace(store, setting_prefix="S3") == settings.store_config
        assert (settings.base_models_bucket, settings.bucket_models) == ("bases", "model_artifacts")

    def test_another_store_changes_nothing_for_the_files_of_people(self, monkeypatch):
        settings = load(monkeypatch, DATABASE | KEYS | MODELS_STORE)
        store = settings.models_store_config
        assert (store.endpoint_url, store.region) == ("http://127.0.0.1:9001", "eu-west-1")
        assert (store.access_key_id, store.secret_access_key) == ("models-key-id", "models-secret-marker")
        assert (settings.store_config.endpoint_url, settings.store_config.access_key_id) == (
            "http://127.0.0.1:9000",
            "key-id",
        )
        assert (settings.bucket_uploads, settings.bucket_models) == ("uploads", "model_artifacts")
        assert "secret-marker" not in f"{settings!r} {store!r} {settings.model_dump_json()}"

    def test_legacy_keys_open_another_bucket_of_their_own_project(self, monkeypatch):
        settings = load(monkeypatch, DATABASE | LEGACY | {"MODELS_S3_BUCKET": "bases"})
        assert settings.models_store_config.session_token == SERVICE_JWT

    @pytest.mark.parametrize("missing", ["MODELS_S3_ACCESS_KEY_ID", "MODELS_S3_SECRET_ACCESS_KEY"])
    def test_half_a_key_is_not_completed_with_half_of_the_other(self, monkeypatch, missing):
        (line,) = refused(monkeypatch, DATABASE | KEYS | MODELS_STORE | {missing: ""})
        assert line.startswith(f"{missing} is missing; for example {missing}=")

    def test_a_project_of_supabase_needs_its_region(self, monkeypatch):
        address = {"MODELS_S3_ENDPOINT_URL": "https://abc.storage.supabase.co/storage/v1/s3"}
        (line,) = refused(monkeypatch, DATABASE | KEYS | MODELS_STORE | address | {"MODELS_S3_REGION": ""})
        assert line.startswith("MODELS_S3_REGION is missing")

    def test_what_both_stores_lack_is_named_once(self, monkeypatch):
        lines = refused(monkeypatch, DATABASE | {"MODELS_S3_BUCKET": "bases"})
        assert [line.split()[0] for line in lines] == ["S3_ENDPOINT_URL", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"]

    def test_the_bucket_of_photos_is_refused(self, monkeypatch):
        (line,) = refused(monkeypatch, DATABASE | KEYS | {"BUCKET_UPLOADS": "up", "MODELS_S3_BUCKET": "up"})
        assert line.startswith("MODELS_S3_BUCKET is refused: it is BUCKET_UPLOADS")

    def test_it_is_read_without_the_other_store(self, monkeypatch):
        settings = load(monkeypatch, MODELS_STORE, storage=False, database=False)
        assert settings.models_store_config.endpoint_url == "http://127.0.0.1:9001"


def test_legacy_keys_are_sent_to_no_other_store(monkeypatch):
    lines = refused(monkeypatch, DATABASE | LEGACY | {"MODELS_S3_ENDPOINT_URL": "http://127.0.0.1:9001"})
    assert [line.split(";")[0] for line in lines] == [
        "MODELS_S3_ACCESS_KEY_ID is missing",
        "MODELS_S3_SECRET_ACCESS_KEY is missing",
    ]


class TestRefusals:
    def test_all_missing_settings_are_named_at_once_with_examples(self, monkeypatch):
        lines = refused(monkeypatch, {})
        names = ["DATABASE_URL", "S3_ENDPOINT_URL", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"]
        assert [line.split()[0] for line in lines] == names
        for name, line in zip(names, lines, strict=True):
            assert f"{name} is missing; for example {name}=" in line

    @pytest.mark.parametrize(
        ("text", "why"), [(b"WORKER_NAME=caf\xe9\n", "is not UTF-8"), (None, "cannot be read (Input/output error)")]
    )
    def test_an_unreadable_file_is_named_and_the_environment_is_still_read(self, monkeypatch, tmp_path, text, why):
        if text is None:
            (tmp_path / ".env").symlink_to("/proc/self/mem")  # not even root can read its beginning
        else:
            (tmp_path / ".env").write_bytes(text)
        lines = refused(monkeypatch, DATABASE)
        assert lines[0].startswith(f".env {why}; save it as UTF-8")
        assert not any("DATABASE_URL" in line for line in lines)

    def test_supabase_needs_its_own_region(self, monkeypatch):
        """A request signed for another region fails with SignatureDoesNotMatch."""
        (line,) = refused(monkeypatch, DATABASE | LEGACY | {"S3_REGION": ""})
        assert line.startswith("S3_REGION is missing; it must be the region of the Supabase project")

    def test_half_of_the_legacy_keys_is_not_enough(self, monkeypatch):
        (line,) = refused(monkeypatch, DATABASE | LEGACY | {"SUPABASE_SERVICE_ROLE_KEY": ""})
        assert line.startswith("SUPABASE_SERVICE_ROLE_KEY is missing")

    def test_supabases_new_keys_do_not_open_storage(self, monkeypatch):
        new = {"SUPABASE_SERVICE_ROLE_KEY": "sb_secret_service-marker"}
        (line,) = refused(monkeypatch, DATABASE | LEGACY | new)
        assert line.startswith("SUPABASE_SERVICE_ROLE_KEY is not a JWT")
        assert "S3_ACCESS_KEY_ID" in line

    @pytest.mark.parametrize(
        ("name", "value", "what"),
        [
            ("DATABASE_URL", "mysql://u:pass-marker@h/db", "must be a Postgres URL"),
            ("DATABASE_URL", "postgresql+asyncpg://u:pass-marker@h/db", "must be a Postgres URL"),
            ("DATABASE_URL", "postgresql://postgres:[YOUR-PASSWORD]@h/db", "still contains [YOUR-PASSWORD]"),
            ("DATABASE_URL", f"postgresql://u:pass-marker@{'h' * 64}.com/db", "names a host that cannot exist"),
            ("DATABASE_URL", "POSTGRESQL://u:pass-marker@h/db", "must start with postgresql:// in lower case"),
            ("DATABASE_LISTEN_URL", "h:5432", "must be a Postgres URL"),
            ("S3_ENDPOINT_URL", "http://h..com", "names a host that cannot exist"),
            ("S3_ENDPOINT_URL", "127.0.0.1:9000", "must be an http(s) URL"),
            ("MODELS_S3_ENDPOINT_URL", "127.0.0.1:9000", "must be an http(s) URL"),
            ("MODELS_S3_BUCKET", "a/b", "is invalid"),
            ("S3_ENDPOINT_URL", "http://id:secret-marker@h", "must not contain credentials"),
            ("SUPABASE_URL", "abcdefgh.supabase.co", "must be an http(s) URL"),
            ("S3_REGION", "us-east-1/", "must be a region: up to 63 letters, digits and hyphens"),
            ("S3_REGION", "us-east-1\\n", "must be a region"),
            ("MODELS_S3_REGION", "-", "must be a region"),
            ("BUCKET_UPLOADS", "a/b", "is invalid"),
            ("MODELS_DIR", "$HOME/models", "contains $HOME, which only a shell expands"),
            ("WORK_DIR", "/tmp/${USER}", "contains ${USER}, which only a shell expands"),
            ("WORK_DIR", "~no-such-user/work", "begins with ~ and the name of no user"),
            ("MODELS_MAX_GB", "lots", "is invalid: Input should be a valid number"),
            ("MODELS_MAX_GB", "0", "is invalid"),
            ("WORKER_KINDS", "training;generation", "must be a list of job kinds separated by commas"),
            ("WORKER_KINDS", " , ,", "must be a list of job kinds separated by commas"),
            ("FETCH_PRIVATE_HOSTS", "https://shop.internal", "must be a list of hosts separated by commas"),
            ("WORKER_NAME", "x" * 101, "is invalid"),
            ("LOG_FORMAT", "xml", "is invalid: Input should be 'auto', 'console' or 'json'"),
            ("MAX_AFFINITY_WAIT_SECONDS", "-1", "is invalid"),
            ("CHECKPOINT_EVERY_SECONDS", "0", "is invalid"),
            ("CHECKPOINT_EVERY_SECONDS", "inf", "is invalid"),
        ],
    )
    def test_a_malformed_setting_is_named_without_its_value(self, monkeypatch, name, value, what):
        (line,) = refused(monkeypatch, DATABASE | KEYS | {name: value})
        assert line.startswith(f"{name} ")
        assert what in line
        assert f"for example {name}=" in line
        assert value not in line or len(value) == 1

    @pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_LISTEN_URL"])
    @pytest.mark.parametrize("before", ["", "1", "se"], ids=["at the start", "after digits", "after letters"])
    @pytest.mark.parametrize("character", "@/#?%[]")
    def test_a_password_that_is_not_percent_encoded_is_refused_and_never_shown(
        self, monkeypatch, name, before, character
    ):
        """libpq would take the text after the character for a host, port or database, and show it in an error."""
        for after in ("pass-marker", "pass-marker@b:1/c?d=e", "host=pass-marker"):
            (line,) = refused(monkeypatch, DATABASE | KEYS | {name: f"postgresql://u:{before}{character}{after}@h/db"})
            assert line.startswith(f"{name} cannot be read")

    @pytest.mark.parametrize(
        "address",
        [
            "postgres://u:p%40ss@h:6543/postgres?sslmode=require",
            "postgresql://u@h1:5432,h2:5432/db",
            "postgresql:///db?host=/tmp/socket",
            "postgresql://u@[::1]:5432/db",
            "postgresql://u:a:b&c=d+e,f;g!$*(h)@h/db",
            "postgresql://u@%2Fcloudsql%2Fa-project-with-a-long-name-in-a-region%3Aeurope-central2%3Adatabase/db",
            f"postgresql://u:p@{'a' * 40},{'b' * 40}/db",
            "postgresql://u:p@h/db?sslrootcert=/etc/ca@prod.crt",
            "postgresql:///db?host=h&user=u@tenant",
        ],
    )
    def test_a_url_that_libpq_accepts_is_accepted(self, monkeypatch, address):
        settings = load(monkeypatch, KEYS | {"DATABASE_URL": address})
        assert settings.database_url.get_secret_value() == address


class TestOldNames:
    """For one release, a renamed setting is also read by its old name."""

    @pytest.mark.parametrize("name", ["WORKER_NAME", *OLD_NAMES])
    def test_new_names_are_read_without_a_warning(self, monkeypatch, capsys, name):
        load(monkeypatch, DATABASE | KEYS | {name: "7"})
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("name", OLD_NAMES)
    @pytest.mark.parametrize("place", ["environment", ".env"])
    def test_an_old_name_is_read_and_the_warning_names_the_new_one(self, monkeypatch, tmp_path, capsys, name, place):
        old_name = OLD_NAMES[name]
        if place == ".env":
            (tmp_path / ".env").write_text(f"{old_name}=7\n")
        settings = load(monkeypatch, DATABASE | KEYS | ({old_name: "7"} if place == "environment" else {}))
        assert 7.0 in (settings.max_affinity_wait_s, settings.checkpoint_every_s)
        (warning,) = capsys.readouterr().err.splitlines()
        assert warning.startswith(f"Warning: {old_name} was renamed {name};")

    @pytest.mark.parametrize("name", OLD_NAMES)
    def test_both_names_with_one_value_are_accepted(self, monkeypatch, name):
        settings = load(monkeypatch, DATABASE | KEYS | {name: "7", OLD_NAMES[name]: "7"})
        assert 7.0 in (settings.max_affinity_wait_s, settings.checkpoint_every_s)

    @pytest.mark.parametrize("name", OLD_NAMES)
    def test_both_names_with_different_values_are_refused(self, monkeypatch, tmp_path, name):
        """Also when one is in .env and the other in the environment, which overrides .env."""
        (tmp_path / ".env").write_text(f"{name}=8\n")
        (line,) = refused(monkeypatch, DATABASE | KEYS | {OLD_NAMES[name]: "7"})
        assert (
            line
            == f"{OLD_NAMES[name]} and {name} have different values; remove {OLD_NAMES[name]}, which is the old name"
        )

    @pytest.mark.parametrize("name", OLD_NAMES)
    def test_a_malformed_value_is_refused_with_the_warning_that_explains_the_name(self, monkeypatch, capsys, name):
        (line,) = refused(monkeypatch, DATABASE | KEYS | {OLD_NAMES[name]: "soon"})
        assert line.startswith(f"{name} is invalid: ")
        assert f"{OLD_NAMES[name]} was renamed {name}" in capsys.readouterr().err


class TestExample:
    def test_the_committed_file_is_the_generated_one(self):
        command = "python -c 'import worker.settings as s; print(s.env_example(), end=\"\")' > .env.example"
        assert (ROOT / ".env.example").read_text() == env_example(), f"run: {command}"

    def test_every_setting_is_in_it(self):
        assert env_example().count("=") == len(Settings.model_fields)

    def test_it_can_be_used_unchanged(self, tmp_path):
        shutil.copy(ROOT / ".env.example", tmp_path / ".env")
        assert Settings.load().store_config.region == "eu-central-1"

    def test_its_optional_lines_can_be_used(self, tmp_path):
        text = env_example().replace("\n#", "\n").replace("\n ", "\n# ")
        (tmp_path / ".env").write_text(text)
        assert Settings.load().worker_kinds == {"training", "generation"}


def test_importing_the_settings_imports_no_slow_modules():
    code = (
        "import sys, worker.settings;"
        "print({'boto3', 'botocore', 'torch', 'diffusers', 'psycopg', 'structlog'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.stdout.strip() == "set()"


class TestTextAroundValues:
    """`docker run --env-file`, dashboards and copied pages keep quotes, comments and white space."""

    @pytest.mark.parametrize("around", ['"{}"', "'{}'", " {}\t", '" {} "', "\"'{}'\"", "{}\r\n", "\ufeff{}", "“{}”"])
    def test_quotes_and_white_space_around_any_value_are_removed(self, monkeypatch, around):
        plain = DATABASE | KEYS | LEGACY | OTHERS
        clean = load(monkeypatch, plain).model_dump()
        assert load(monkeypatch, {name: around.format(value) for name, value in plain.items()}).model_dump() == clean

    def test_so_they_are_around_the_values_of_the_file(self, monkeypatch, tmp_path):
        lines = [f"{name}='\"{value} \"'" for name, value in (DATABASE | KEYS | OTHERS).items()]
        (tmp_path / ".env").write_text("\n".join(lines))
        assert Settings.load().model_dump() == load(monkeypatch, DATABASE | KEYS | OTHERS).model_dump()

    @pytest.mark.parametrize("empty", ["", "  ", '""', "' '", "\n"])
    def test_an_empty_value_in_any_spelling_counts_as_not_set(self, monkeypatch, empty):
        variables = DATABASE | KEYS | dict.fromkeys(OTHERS, empty) | {"SUPABASE_URL": empty}
        settings = load(monkeypatch, variables | {"NEXT_PUBLIC_SUPABASE_URL": LEGACY["SUPABASE_URL"]})
        assert settings.supabase_url == LEGACY["SUPABASE_URL"], "it hides neither another name nor the file"
        assert (settings.models_max_gb, settings.worker_kinds, settings.log_format) == (None, frozenset(), "auto")
        assert refused(monkeypatch, {"DATABASE_URL": empty})[0].startswith("DATABASE_URL is missing")

    @pytest.mark.parametrize(
        "name", [line.lstrip("#").split("=")[0] for line in env_example().splitlines() if "=" in line]
    )
    @pytest.mark.parametrize(
        ("spoilt", "complaint"),
        [("{}\n{}", "line break"), ("{} # mine", "a comment"), ('"{}', "a quote at one end")],
        ids=["line break", "comment", "one quote"],
    )
    def test_what_cannot_be_meant_is_refused_by_name(self, monkeypatch, name, spoilt, complaint):
        value = (DATABASE | KEYS | LEGACY | OTHERS)[name]
        lines = refused(monkeypatch, DATABASE | KEYS | {name: spoilt.format(value, value)})
        assert any(
            line.startswith(f"{name} ") and (complaint in line or name in ("WORKER_KINDS", "FETCH_PRIVATE_HOSTS"))
            for line in lines
        )

    @pytest.mark.parametrize(
        "name",
        [
            *("S3_REGION", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "HF_TOKEN", "DATABASE_URL"),
            *("MODELS_S3_BUCKET", "MODELS_S3_REGION"),
        ],
    )
    def test_keys_and_addresses_contain_no_white_space(self, monkeypatch, name):
        value = (DATABASE | KEYS | LEGACY | OTHERS)[name]
        for space in " \u00a0\u200b":
            (line,) = refused(monkeypatch, DATABASE | KEYS | {name: value[:-2] + space + value[-2:]})
            assert line.startswith(f"{name} contains white space")

    def test_each_item_of_a_list_may_be_quoted(self, monkeypatch):
        assert load(monkeypatch, DATABASE | KEYS | {"WORKER_KINDS": '"training", "generation"'}).worker_kinds == {
            "training",
            "generation",
        }

    @pytest.mark.parametrize("password", ["a\nb", "a b", "a@b", "a#b", "a/b", "a?b", "a%b", "a%zz", "a\tb", "a[b"])
    def test_a_password_that_is_not_encoded_never_becomes_another_part_of_the_address(self, monkeypatch, password):
        (line,) = refused(
            monkeypatch, DATABASE | KEYS | {"DATABASE_URL": f"postgresql://u:{password}@db.example.com/x"}
        )
        assert line.startswith("DATABASE_URL c")
        assert password not in line
