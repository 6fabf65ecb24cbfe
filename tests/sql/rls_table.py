"""The RLS table: the outcome of each statement for each of the five actors. `test_rls.py` runs it.

An outcome is `row` (one row read or written), `none` (no visible row), `refused` (SQLSTATE 42501) or another SQLSTATE.
"""

from __future__ import annotations

ACTORS = ("owner", "other", "anon", "service_role", "likeness_worker")
"""The columns of the table: the rows' owner, another user (both `authenticated`), and three roles."""

_READ = "row none refused row refused"
_SERVICE_ONLY = "refused refused refused row refused"
_REFUSED = "refused refused refused refused refused"
_OWN_ROWS = "row row refused row refused"

TABLES = {
    "public.subjects": {
        "select": ("select from public.subjects where id = %(subject)s", _READ),
        "insert one's own": ("insert into public.subjects (name) values ('new')", _OWN_ROWS),
        "insert for another": ("insert into public.subjects (name, owner_id) values ('new', %(other)s)", _SERVICE_ONLY),
        "insert with consent": (
            "insert into public.subjects (name, consent_status) values ('new', 'approved')",
            _REFUSED,
        ),
        "update name": ("update public.subjects set name = 'renamed' where id = %(subject)s", _READ),
        "update consent": ("update public.subjects set consent_status = 'approved' where id = %(pending)s", _REFUSED),
        "update adult": ("update public.subjects set subject_is_adult = true where id = %(subject)s", _REFUSED),
        "update owner": ("update public.subjects set owner_id = %(other)s where id = %(subject)s", _REFUSED),
        "delete": ("delete from public.subjects where id = %(pending)s", _REFUSED),
    },
    "public.subject_photos": {
        "select": ("select from public.subject_photos where id = %(photo)s", _READ),
        "insert": (
            "insert into public.subject_photos (subject_id, path) values (%(subject)s, %(folder)s || 'new.jpg')",
            "row refused refused row refused",
        ),
        "insert for another": (
            "insert into public.subject_photos (subject_id, path) "
            "values (%(other_subject)s, %(other_folder)s || 'new.jpg')",
            "refused row refused row refused",
        ),
        "insert accepted": (
            "insert into public.subject_photos (subject_id, path, status) "
            "values (%(subject)s, %(folder)s || 'new.jpg', 'accepted')",
            _SERVICE_ONLY,
        ),
        "update caption": ("update public.subject_photos set caption = 'at the sea' where id = %(photo)s", _READ),
        "update path": (
            "update public.subject_photos set path = %(folder)s || 'moved.jpg' where id = %(photo)s",
            _SERVICE_ONLY,
        ),
        "update status": ("update public.subject_photos set status = 'accepted' where id = %(photo)s", _SERVICE_ONLY),
        "delete": ("delete from public.subject_photos where id = %(photo)s", _READ),
    },
    "public.subjects_models": {
        "select": ("select from public.subjects_models where id = %(model)s", _READ),
        "insert": (
            "insert into public.subjects_models (subject_id, version, base, family, path, sha256, rank) "
            "values (%(subject)s, 9, 'tiny-flux', 'flux', 'x', repeat('0', 64), 4)",
            _REFUSED,
        ),
        "update retired_at": (
            "update public.subjects_models set retired_at = now() where id = %(model)s",
            _SERVICE_ONLY,
        ),
        "update path": ("update public.subjects_models set path = 'elsewhere' where id = %(model)s", _REFUSED),
        "delete": ("delete from public.subjects_models where id = %(model)s", _REFUSED),
    },
    "public.presets": {
        "select": ("select from public.presets where id = %(preset)s", _READ),
        "select shared": ("select from public.presets where id = %(shared_preset)s", _OWN_ROWS),
        "insert": ("insert into public.presets (name, kind) values ('new', 'generation')", _OWN_ROWS),
        "insert shared": (
            "insert into public.presets (name, kind, owner_id) values ('new', 'generation', null)",
            _SERVICE_ONLY,
        ),
        "update": ("update public.presets set prompt = 'in oil' where id = %(preset)s", _READ),
        "update shared": (
            "update public.presets set prompt = 'in oil' where id = %(shared_preset)s",
            "none none refused row refused",
        ),
        "update owner": ("update public.presets set owner_id = %(other)s where id = %(preset)s", _SERVICE_ONLY),
        "delete": ("delete from public.presets where id = %(preset)s", _READ),
        "delete shared": (
            "delete from public.presets where id = %(shared_preset)s",
            "none none refused row refused",
        ),
    },
    "public.training_jobs": {
        "select": ("select from public.training_jobs where id = %(training)s", _READ),
        "insert": (
            "insert into public.training_jobs (subject_id) values (%(subject)s)",
            "row refused refused row refused",
        ),
        "insert for another": (
            "insert into public.training_jobs (subject_id, owner_id) values (%(other_subject)s, %(owner)s)",
            "refused row refused row refused",
        ),
        "insert refused": (
            "insert into public.training_jobs (subject_id) values (%(pending)s)",
            "row refused refused row refused",
        ),
        "insert first in line": (
            "insert into public.training_jobs (subject_id, priority) values (%(subject)s, 9)",
            _SERVICE_ONLY,
        ),
        "insert ended": (
            "insert into public.training_jobs (subject_id, status) values (%(subject)s, 'completed')",
            _REFUSED,
        ),
        "update priority": ("update public.training_jobs set priority = 9 where id = %(training)s", _SERVICE_ONLY),
        "update status": ("update public.training_jobs set status = 'completed' where id = %(training)s", _REFUSED),
        "update request": ("update public.training_jobs set steps = 1 where id = %(training)s", _REFUSED),
        "delete": ("delete from public.training_jobs where id = %(training)s", _REFUSED),
    },
    "public.generation_jobs": {
        "select": ("select from public.generation_jobs where id = %(generation)s", _READ),
        "insert": (
            "insert into public.generation_jobs (subject_id, prompt) values (%(subject)s, 'at the sea')",
            "row refused refused row refused",
        ),
        "insert without a subject": (
            "insert into public.generation_jobs (prompt) values ('the sea')",
            "row row refused 23502 refused",
        ),
        "insert for another": (
            "insert into public.generation_jobs (owner_id, subject_id, prompt) "
            "values (%(owner)s, %(other_subject)s, 'x')",
            "refused row refused row refused",
        ),
        "insert another's LoRA": (
            "insert into public.generation_jobs (subject_id, prompt, model_ids) "
            "values (%(other_subject)s, 'x', array[%(model)s]::uuid[])",
            "refused 22023 refused 22023 refused",
        ),
        "insert first in line": (
            "insert into public.generation_jobs (subject_id, prompt, priority) values (%(subject)s, 'x', 9)",
            _SERVICE_ONLY,
        ),
        "insert with a result": (
            """insert into public.generation_jobs (subject_id, prompt, result) values (%(subject)s, 'x', '{}')""",
            _REFUSED,
        ),
        "update priority": ("update public.generation_jobs set priority = 9 where id = %(generation)s", _SERVICE_ONLY),
        "update result": ("update public.generation_jobs set result = '{}' where id = %(generation)s", _REFUSED),
        "update request": ("update public.generation_jobs set prompt = 'other' where id = %(generation)s", _REFUSED),
        "delete": ("delete from public.generation_jobs where id = %(generation)s", _REFUSED),
    },
    "public.mesh_jobs": {
        "select": ("select from public.mesh_jobs where id = %(mesh)s", _READ),
        "insert": (
            "insert into public.mesh_jobs (image_urls) values ('{https://shop.example/mug.png}')",
            "row row refused 23502 refused",
        ),
        "insert for another": (
            "insert into public.mesh_jobs (owner_id, subject_id, image_urls) "
            "values (%(owner)s, %(other_subject)s, '{https://shop.example/mug.png}')",
            "refused row refused row refused",
        ),
        "insert another's picture": (
            "insert into public.mesh_jobs (subject_id, image_paths) "
            "values (%(other_subject)s, array[%(folder)s || '0.jpg'])",
            "refused 22023 refused 22023 refused",
        ),
        "update priority": ("update public.mesh_jobs set priority = 9 where id = %(mesh)s", _SERVICE_ONLY),
        "update result": ("update public.mesh_jobs set result = '{}' where id = %(mesh)s", _REFUSED),
        "update request": ("update public.mesh_jobs set max_faces = 500 where id = %(mesh)s", _REFUSED),
        "delete": ("delete from public.mesh_jobs where id = %(mesh)s", _REFUSED),
    },
}

FUNCTIONS = {
    "public.cancel_job": {
        "training": ("select public.cancel_job('training', %(training)s)", "row refused refused row refused"),
        "internal": ("select public.cancel_job('publish_lora', %(internal)s)", _SERVICE_ONLY),
        "unknown": ("select public.cancel_job('training', gen_random_uuid())", _REFUSED),
    },
    "public.retry_job": {
        "training": ("select public.retry_job('training', %(cancelled)s)", "row refused refused row refused"),
        "internal": (
            "select public.retry_job('publish_lora', %(internal)s)",
            "refused refused refused 22023 refused",
        ),
    },
    "public.grant_consent": {
        "by an administrator": ("select public.grant_consent(%(pending)s, adult => true)", _SERVICE_ONLY),
        "stated by the owner, in mode admin": (
            "select public.grant_consent(%(pending)s, confirmed => true, adult => true)",
            _SERVICE_ONLY,
        ),
    },
    "public.reject_consent": {"": ("select public.reject_consent(%(subject)s)", _SERVICE_ONLY)},
    "public.revoke_consent": {
        "": ("select public.revoke_consent(%(subject)s, 'no more')", "row refused refused row refused"),
    },
    "worker.cancel_job_as_owner": {
        "": ("select worker.cancel_job_as_owner('training', %(training)s)", "row refused refused refused refused"),
    },
    "worker.cancel_job_as_service": {
        "": ("select worker.cancel_job_as_service('training', %(training)s)", _SERVICE_ONLY),
    },
    "worker.retry_job_as_owner": {
        "": ("select worker.retry_job_as_owner('training', %(cancelled)s)", "row refused refused refused refused"),
    },
    "worker.retry_job_as_service": {
        "": ("select worker.retry_job_as_service('training', %(cancelled)s)", _SERVICE_ONLY),
    },
    "worker.grant_consent_as_owner": {
        "in mode admin": (
            "select worker.grant_consent_as_owner(%(pending)s, '{training}', null, null, true, true)",
            _REFUSED,
        ),
    },
    "worker.grant_consent_as_service": {
        "": (
            "select worker.grant_consent_as_service(%(pending)s, '{training}', null, null, true, true)",
            _SERVICE_ONLY,
        ),
    },
    "worker.revoke_consent_as_owner": {
        "": ("select worker.revoke_consent_as_owner(%(subject)s, null)", "row refused refused refused refused"),
    },
    "worker.revoke_consent_as_service": {
        "": ("select worker.revoke_consent_as_service(%(subject)s, null)", _SERVICE_ONLY),
    },
    "worker.reject_consent_as_service": {
        "": ("select worker.reject_consent_as_service(%(subject)s, null)", _SERVICE_ONLY),
    },
    "worker.my_published_objects": {
        "": ("select from worker.my_published_objects()", "row none refused refused refused"),
    },
    "worker.uploads_bucket": {"": ("select worker.uploads_bucket()", "row row refused refused refused")},
}
"""Every function that clients can call. Other tests call the functions of pods; test_rights.py has the denials."""
