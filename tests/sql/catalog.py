"""Snapshots of a database from its catalog: two databases with equal snapshots behave alike."""

from __future__ import annotations

import psycopg

# Each query gives (name, description). ACLs are sorted: the order of grants means nothing.
_OBJECTS = {
    "schema": """
        select nspname, concat_ws(' | ', nspowner::regrole, acl(nspacl), obj_description(oid, 'pg_namespace'))
        from pg_namespace where nspname !~ '^pg_|^information_schema$'""",
    "relation": """
        select oid::regclass::text, concat_ws(' | ', relkind, relpersistence, relowner::regrole, relrowsecurity,
          relforcerowsecurity, relreplident, acl(relacl), reloptions, obj_description(oid, 'pg_class'))
        from pg_class where ours(relnamespace) and relkind in ('r', 'p', 'v', 'm', 'S', 'f')""",
    "column": """
        select attrelid::regclass || '.' || attname, concat_ws(' | ', format_type(atttypid, atttypmod), attnotnull,
          attidentity, attgenerated, pg_get_expr(adbin, adrelid), acl(attacl), col_description(attrelid, attnum))
        from pg_attribute join pg_class on pg_class.oid = attrelid
        left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where ours(relnamespace) and relkind in ('r', 'p', 'v', 'm', 'f') and attnum > 0 and not attisdropped""",
    "constraint": """
        select conrelid::regclass || '.' || conname,
          concat_ws(' | ', pg_get_constraintdef(oid), convalidated, obj_description(oid, 'pg_constraint'))
        from pg_constraint where ours(connamespace) and conrelid <> 0""",
    "index": """
        select indexrelid::regclass::text, concat_ws(' | ', pg_get_indexdef(indexrelid), indisvalid)
        from pg_index join pg_class on pg_class.oid = indexrelid where ours(relnamespace)""",
    "trigger": """
        select tgrelid::regclass || '.' || tgname, concat_ws(' | ', pg_get_triggerdef(pg_trigger.oid), tgenabled)
        from pg_trigger join pg_class on pg_class.oid = tgrelid
        where (ours(relnamespace) or relnamespace::regnamespace::text in ('auth', 'storage')) and not tgisinternal""",
    "function": """
        select oid::regprocedure::text,
          concat_ws(' | ', pg_get_functiondef(oid), proowner::regrole, acl(proacl), obj_description(oid, 'pg_proc'))
        from pg_proc where ours(pronamespace) and prokind = 'f'""",
    "view": """
        select oid::regclass::text, pg_get_viewdef(oid) from pg_class
        where ours(relnamespace) and relkind in ('v', 'm')""",
    "policy": """
        select schemaname || '.' || tablename || '.' || policyname,
          concat_ws(' | ', permissive, roles, cmd, qual, with_check)
        from pg_policies where schemaname in ('public', 'worker', 'storage', 'auth')""",
    "type": """
        select pg_type.oid::regtype::text, concat_ws(' | ', acl(typacl),
          (select string_agg(enumlabel, ',' order by enumsortorder) from pg_enum where enumtypid = pg_type.oid))
        from pg_type where ours(typnamespace) and typtype in ('e', 'd', 'r')""",
    "published": "select pubname || ' ' || schemaname || '.' || tablename, '' from pg_publication_tables",
    "extension": "select extname, extnamespace::regnamespace::text from pg_extension",
    "default privileges": """
        select concat_ws(' ', defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype), acl(defaclacl)
        from pg_default_acl""",
    "member of likeness_worker": """
        select member::regrole::text, '' from pg_auth_members where roleid = to_regrole('likeness_worker')""",
}

# The rows that a migration writes, without the times at which files were applied.
_ROWS = {
    "worker.schema_versions": "select name, checksum from worker.schema_versions",
    "worker.policies": """
        select concat_ws('.', schema_name, table_name, policy_name), definition || catalog_definition
        from worker.policies""",
    "worker.job_kinds": "select kind, to_jsonb(job_kinds)::text from worker.job_kinds",
    "worker.base_models": "select slug, to_jsonb(base_models)::text from worker.base_models",
    "worker.config": "select 'config', to_jsonb(config)::text from worker.config",
}

_SHORTHAND = """
create function pg_temp.acl(aclitem[]) returns text language sql
  as 'select coalesce(array_to_string(array(select unnest($1)::text order by 1), '' ''), ''default'')';
create function pg_temp.ours(oid) returns boolean language sql
  as 'select $1::regnamespace::text in (''public'', ''worker'')';
"""


def snapshot(url: str) -> dict[str, str]:
    """Describe every object of `public` and `worker` with its rights, every policy, and the rows of a migration."""
    found: dict[str, str] = {}
    with psycopg.connect(url) as connection:
        connection.execute("set search_path = ''")
        connection.execute(_SHORTHAND)
        for kind, query in _OBJECTS.items():
            query = query.replace("acl(", "pg_temp.acl(").replace("ours(", "pg_temp.ours(")
            found |= {f"{kind} {name}": text for name, text in connection.execute(query).fetchall()}
        if connection.execute("select to_regclass('worker.config')").fetchone() != (None,):
            for table, query in _ROWS.items():
                found |= {f"row of {table} {name}": text for name, text in connection.execute(query).fetchall()}
        connection.rollback()
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return what differs between two snapshots, by name."""
    return {
        name: (before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def policy_oids(url: str) -> dict[str, int]:
    """Return the oid of every policy by table and name: the same oid means that it was not recreated."""
    with psycopg.connect(url) as connection:
        return dict(connection.execute("select polrelid::regclass || '.' || polname, oid from pg_policy").fetchall())
