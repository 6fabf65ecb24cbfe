"""Rules that the whole schema keeps, as questions to the catalog: those of Supabase's linter, then this project's own.

Each rule comes with a breach of it, so that a rule that finds nothing is known to look.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import psycopg
import pytest
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.domain.settings import DBSettings

from tests.conftest import Databases
from worker.migrate import numbered_files, repeatable_files

OURS = "('public'::regnamespace, 'worker'::regnamespace)"


@dataclass(frozen=True)
class Rule:
    """`query` gives what breaks the rule; `breach` is SQL that breaks it."""

    query: str
    breach: str


LINTER = {
    "tables that clients reach have row-level security": Rule(
        "select oid::regclass from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relrowsecurity",
        "alter table public.presets disable row level security",
    ),
    "where there is row-level security there is a policy": Rule(
        "select oid::regclass from pg_class where relnamespace = 'public'::regnamespace and relrowsecurity and not exists (select from pg_policy where polrelid = pg_class.oid)",
        'drop policy "users can view LoRAs of their own subjects" on public.subjects_models',
    ),
    "where there is a policy it is in force": Rule(
        "select polrelid::regclass from pg_policy join pg_class on pg_class.oid = polrelid where not relrowsecurity",
        "alter table public.presets disable row level security",
    ),
    "no two permissive policies for the same table, command and role": Rule(
        """select polrelid::regclass from (
             select polrelid, unnest(case polcmd when '*' then '{r,a,w,d}'::"char"[] else array[polcmd] end) as command, unnest(polroles) as role
             from pg_policy where polpermissive) each
           group by polrelid, command, role having count(*) > 1""",
        "create policy more on public.presets for all to authenticated using (owner_id = (select auth.uid()))",
    ),
    "every policy names the roles it is for": Rule(
        "select polname from pg_policy where 0 = any (polroles)",
        "create policy loose on public.presets for select using (owner_id is null)",
    ),
    "policies ask who is signed in once a statement, not once a row": Rule(
        r"""select polname from pg_policy cross join lateral (values (pg_get_expr(polqual, polrelid)), (pg_get_expr(polwithcheck, polrelid))) as part (text)
            where regexp_replace(text, '\( SELECT auth\.uid\(\) AS \w+\)', '', 'g') ~ 'auth\.|current_setting'""",
        "create policy slow on public.presets for select to anon using (owner_id = auth.uid())",
    ),
    "policies ask functions of ours once a statement, not once a row": Rule(
        r"""select polname from pg_policy cross join lateral (values (pg_get_expr(polqual, polrelid)), (pg_get_expr(polwithcheck, polrelid))) as part (text)
            where regexp_replace(text, '(SELECT|FROM) worker\.\w+\(\)', '', 'g') ~ '\mworker\.'""",
        "create policy slow on public.presets for select to anon using (name = worker.uploads_bucket())",
    ),
    "no policy lets everything through": Rule(
        "select polname from pg_policy where pg_get_expr(polqual, polrelid) = 'true' or pg_get_expr(polwithcheck, polrelid) = 'true'",
        "create policy wide on public.presets for insert to authenticated with check (true)",
    ),
    "no policy trusts what users write about themselves": Rule(
        r"select polname from pg_policy where concat(pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) ~ 'user_metadata|app_metadata|auth\.jwt'",
        "create policy vain on public.presets for select to anon using (current_setting('user_metadata') = 'x')",
    ),
    "functions look names up nowhere but where they say": Rule(
        f"select oid::regproc from pg_proc where pronamespace in {OURS} and not coalesce(proconfig @> array['search_path=\"\"'], false)",
        "alter function worker.actor reset search_path",
    ),
    "no function in reach of clients runs as its owner": Rule(
        "select oid::regproc from pg_proc where pronamespace = 'public'::regnamespace and prosecdef",
        "alter function public.cancel_job security definer",
    ),
    "views show what their reader may see": Rule(
        f"select oid::regclass from pg_class where relnamespace in {OURS} and relkind = 'v' and not coalesce(reloptions @> '{{security_invoker=true}}', false)",
        "create view public.everything as select * from public.subjects",
    ),
    "neither views, materialized views nor foreign tables are in reach of clients": Rule(
        "select oid::regclass from pg_class where relnamespace = 'public'::regnamespace and relkind in ('v', 'm', 'f')",
        "create materialized view public.everything as select 1 as one",
    ),
    "no extension lives in public": Rule(
        "select extname from pg_extension where extnamespace = 'public'::regnamespace",
        "create extension vector schema public",
    ),
    "no two indexes are the same": Rule(
        f"""select min(indexrelid::regclass::text) from pg_index join pg_class on pg_class.oid = indrelid where relnamespace in {OURS}
            group by indrelid, regexp_replace(pg_get_indexdef(indexrelid), ' INDEX .* ON ', ' ON ') having count(*) > 1""",
        "create index once_more on public.subjects (owner_id)",
    ),
    "every foreign key has an index": Rule(
        f"""select conrelid::regclass || '.' || conname from pg_constraint where contype = 'f' and connamespace in {OURS} and not exists (
              select from pg_index where indrelid = conrelid and indpred is null
                and (indkey::smallint[])[0 : cardinality(conkey) - 1] @> conkey)""",
        "drop index public.training_jobs_preset_id",
    ),
    "every table has a primary key": Rule(
        f"select oid::regclass from pg_class where relnamespace in {OURS} and relkind = 'r' and not exists (select from pg_constraint where conrelid = pg_class.oid and contype = 'p')",
        "create table worker.heap (x int)",
    ),
    "no foreign key to auth.users makes a user's row unique": Rule(
        """select conname from pg_constraint fk where confrelid = 'auth.users'::regclass and exists (
             select from pg_constraint where conrelid = fk.conrelid and contype in ('u', 'p') and conkey = fk.conkey)""",
        "alter table public.presets add unique (owner_id)",
    ),
    "no client or pod reads the table of users": Rule(
        """select oid::regclass from pg_class where relkind in ('v', 'm') and relnamespace = 'public'::regnamespace and pg_get_viewdef(oid) ~ 'auth\\.users'
           union all select oid::regclass from pg_class where oid = 'auth.users'::regclass and has_table_privilege('likeness_worker', oid, 'select')""",
        "grant select on auth.users to likeness_worker",
    ),
}

HOUSE = {
    "every table, view and function says what it is": Rule(
        f"""select oid::regclass::text from pg_class where relnamespace in {OURS} and relkind in ('r', 'p', 'v', 'm') and obj_description(oid, 'pg_class') is null
            union all select oid::regproc::text from pg_proc where pronamespace in {OURS} and obj_description(oid, 'pg_proc') is null""",
        "comment on function worker.actor is null",
    ),
    "every limit has a name that says it": Rule(
        f"select conrelid::regclass || '.' || conname from pg_constraint where contype = 'c' and connamespace in {OURS} and conname ~ '_check[0-9]*$'",
        "alter table public.presets add check (name <> 'x')",
    ),
    "moments carry their time zone": Rule(
        f"select attrelid::regclass || '.' || attname from pg_attribute join pg_class on pg_class.oid = attrelid where relnamespace in {OURS} and relkind = 'r' and atttypid = 'timestamp'::regtype",
        "alter table public.presets add at timestamp",
    ),
    "a function promises no more than those it calls": Rule(
        rf"""select caller.proname || ' calls ' || callee.proname from pg_proc caller
             cross join lateral regexp_matches(caller.prosrc, '\mworker\.(\w+)\(', 'g') as called (name)
             join pg_proc callee on callee.proname = called.name[1] and callee.pronamespace = 'worker'::regnamespace
             where caller.pronamespace in {OURS} and strpos('isv', caller.provolatile::text) < strpos('isv', callee.provolatile::text)""",
        "alter function worker.items volatile",
    ),
    "only functions that somebody is meant to call, and triggers, run as their owner": Rule(
        """select oid::regproc from pg_proc where pronamespace = 'worker'::regnamespace and prosecdef and prorettype <> 'trigger'::regtype
             and not exists (select from aclexplode(proacl) where grantee <> proowner)""",
        "alter function worker.settle security definer",
    ),
    "triggers of ours are numbered, because they fire in the order of their names": Rule(
        f"""select tgrelid::regclass || '.' || tgname from pg_trigger join pg_class on pg_class.oid = tgrelid
            where relnamespace in {OURS} and not tgisinternal and tgname !~ '^_[0-9]{{3}}_' and tgname <> 'tg_pgqueuer_changed'""",
        "create trigger late before insert on public.subjects for each row execute function worker.on_subject_insert()",
    ),
    "no trigger is switched off": Rule(
        "select tgname from pg_trigger where not tgisinternal and tgenabled <> 'O'",
        "alter table public.subjects disable trigger user",
    ),
    "every constraint is in force for the rows that are there": Rule(
        f"select conname from pg_constraint where connamespace in {OURS} and not convalidated",
        "alter table public.presets add constraint late check (name <> 'x') not valid",
    ),
}


@pytest.fixture(scope="module")
def connection(databases: Databases) -> Iterator[psycopg.Connection[Any]]:
    name = databases.create()
    with psycopg.connect(databases.server.url(name), autocommit=True) as opened:
        yield opened
    databases.drop(name)


RULES = [pytest.param(rule, id=name) for name, rule in {**LINTER, **HOUSE}.items()]


@pytest.mark.parametrize("rule", RULES)
def test_the_schema_keeps_the_rule(connection: psycopg.Connection[Any], rule: Rule) -> None:
    assert [row[0] for row in connection.execute(rule.query).fetchall()] == []  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
def test_a_breach_of_the_rule_is_found(connection: psycopg.Connection[Any], rule: Rule) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute(rule.breach)  # type: ignore[arg-type]
        assert connection.execute(rule.query).fetchall() != []  # type: ignore[arg-type]


def test_every_function_states_its_volatility_and_its_search_path() -> None:
    """The default, VOLATILE, cannot be told in the catalog from a word that was forgotten."""
    headers = [
        header
        for file in [*numbered_files()[1:], *repeatable_files()]
        for header in re.findall(r"create (?:or replace )?function (.+?)\s+as \$\$", file.text, re.DOTALL)
    ]
    assert len(headers) > 80
    for header in headers:
        assert re.search(
            r"\blanguage (sql|plpgsql) (volatile|stable|immutable)\b.* set search_path = ''$", header, re.DOTALL
        ), header


def test_the_first_migration_is_the_install_sql_of_the_pinned_pgqueuer() -> None:
    installed = QueryBuilderEnvironment(DBSettings(db_schema="worker")).build_install_query(create_schema=False)
    note, _, text = numbered_files()[0].text.partition("\n")
    assert f"pgqueuer {version('pgqueuer')}" in note
    assert text.strip() == installed.strip()
