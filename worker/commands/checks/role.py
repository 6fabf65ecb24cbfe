"""The rights of DATABASE_URL's login: all that a pod needs, and no more."""

from __future__ import annotations

from typing import Any

from worker.commands.checks.report import CheckWarning, Report
from worker.database.pool import Database
from worker.errors import SettingsError, truncate_list

CONNECTIONS_A_POD = 5
"""Two in the pool, one session, and one for each of two convenience copies."""

FUNCTIONS = """
    begin_renewal claim_deletable_objects claim_look complete_job consent_error deregister_pod fail_job
    find_result finish_renewal heartbeat installation_error is_alive judge_markers lock_lora_copy lora_to_copy
    mark_objects_deleted memory_requirement next_due_s note_markers peek pod_heartbeat pod_lock_key queued_routes
    reap redirect_error register_pod release_job report_job required_capabilities required_vram_gib run_housekeeping
    save_checkpoint schema_major set_aside_job stage_objects start_job starved_routes storage_hold take_over timing
    base_can base_of_route base_serves guides_of_route guides_vram_gib usable_routes weights_slug why_stranded
    fits_memory garbage_gone leave_pod subject_lock_key take_garbage tick
"""
"""Functions that a pod calls in schema worker, last those of release 0.1.0. It calls none in public."""

TABLES = """
    base_models config guides job_kinds kind_versions pgqueuer pgqueuer_log pgqueuer_schedules pgqueuer_statistics pods
    queue_depth schema_versions stranded_jobs
"""
"""Tables and views that a pod reads in schema worker. It reads none in public."""

_LOGIN = """
    select current_user::text as login, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolconnlimit,
           pg_has_role(current_user, (select nspowner from pg_namespace where nspname = 'worker'), 'usage') as owner,
           pg_has_role(current_user, 'likeness_worker', 'usage') as member
    from pg_roles where rolname = current_user"""

_MAY_CALL = """
    select n.nspname || '.' || p.proname as what, n.nspname = 'worker' and p.proname = any (%s) as needed,
           has_function_privilege(p.oid, 'execute') as may
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'worker' and not exists (
            select from worker.job_kinds where package is not null and starts_with(p.proname, kind || '_'))
       or n.nspname = 'public' and p.proname in (
            'cancel_job', 'retry_job', 'grant_consent', 'revoke_consent', 'reject_consent')
    order by 1"""
"""What a package grants on functions of its own is its business."""

_MAY_READ = """
    select n.nspname || '.' || c.relname as what, n.nspname = 'worker' and c.relname = any (%s) as needed,
           has_any_column_privilege(c.oid, 'select') as may
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v') and (n.nspname = 'worker' or n.nspname || '.' || c.relname in (
            'public.subjects', 'public.subject_photos', 'public.subjects_models', 'public.presets', 'auth.users',
            'storage.objects')
       or n.nspname || '.' || c.relname in (select table_name from worker.job_kinds))
    order by 1"""


async def check_role(report: Report, database: Database) -> None:
    """Check that this login is a pod's."""
    await report.check("role", _role(database))


async def _role(database: Database) -> str:
    (login,) = await database.fetch(_LOGIN)
    name = login["login"]
    if login["owner"] or login["rolsuper"]:
        raise CheckWarning(
            f"{name} owns the schema or is a superuser: right for `worker migrate`, but not for a pod",
            "create a login for pods: worker role likeness_pod",
        )
    if not login["member"]:
        raise SettingsError(
            f"{name} is not a member of likeness_worker", f"as the database owner: grant likeness_worker to {name}"
        )
    rights = await database.fetch(_MAY_CALL, [FUNCTIONS.split()]) + await database.fetch(_MAY_READ, [TABLES.split()])
    missing = [right["what"] for right in rights if right["needed"] and not right["may"]]
    if missing:
        raise SettingsError(
            f"permission denied to {name}: {truncate_list(missing)}",
            "as the database owner: worker migrate --repair",
        )
    excess = _powers(login) + [right["what"] for right in rights if right["may"] and not right["needed"]]
    if excess:
        raise SettingsError(
            f"{name} has rights that a pod must not have: {truncate_list(excess)}",
            "give the pod a login that is a member of likeness_worker only: worker role likeness_pod",
        )
    if 0 <= login["rolconnlimit"] < CONNECTIONS_A_POD:
        raise SettingsError(
            f"{name} may open {login['rolconnlimit']} connections, but a pod needs {CONNECTIONS_A_POD}",
            f"as the database owner: alter role {name} connection limit {CONNECTIONS_A_POD}",
        )
    return f"{name} is a member of likeness_worker and has the rights of a pod, no more"


def _powers(login: dict[str, Any]) -> list[str]:
    words = {"rolcreaterole": "createrole", "rolcreatedb": "createdb", "rolbypassrls": "bypassrls"}
    return [word for column, word in words.items() if login[column]]
