"""Rules for the whole schema, as queries of the catalog: those of Supabase's linter, then this project's own.

Each rule has a violation, which proves that its query finds one.
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
from worker.database.schema.sql_files import numbered_files, repeatable_files

# The queries below read these views: the objects of this project's schemas, and all policies.
VIEWS = """
create temp view relations as
  select *, oid::regclass::text as name, relnamespace::regnamespace::text as schema from pg_class
  where relnamespace in ('public'::regnamespace, 'worker'::regnamespace);
create temp view tables as select * from relations where relkind in ('r', 'p');
create temp view columns as
  select name || '.' || attname as column_name, atttypid from pg_attribute join tables on tables.oid = attrelid
  where attnum > 0 and not attisdropped;
create temp view functions as
  select *, oid::regproc::text as name, pronamespace::regnamespace::text as schema from pg_proc
  where pronamespace in ('public'::regnamespace, 'worker'::regnamespace);
create temp view constraints as
  select pg_constraint.*, name || '.' || conname as constraint_name
  from pg_constraint join tables on tables.oid = conrelid;
create temp view indexes as
  select pg_index.*, indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as definition
  from pg_index join tables on tables.oid = indrelid;
create temp view triggers as
  select pg_trigger.*, name || '.' || tgname as trigger_name from pg_trigger join relations on relations.oid = tgrelid
  where not tgisinternal;
create temp view policies as
  select *, concat(pg_get_expr(polqual, polrelid), ' / ', pg_get_expr(polwithcheck, polrelid)) as text from pg_policy;
"""


@dataclass(frozen=True)
class Rule:
    """`query` returns what violates the rule; `violation` is SQL that violates it."""

    query: str
    violation: str


LINTER = {
    "tables that clients reach have row-level security": Rule(
        "select name from tables where schema = 'public' and not relrowsecurity",
        "alter table public.presets disable row level security",
    ),
    "where there is row-level security there is a policy": Rule(
        """select name from tables
           where relrowsecurity and not exists (select from pg_policy where polrelid = tables.oid)""",
        'drop policy "users can view LoRAs of their own subjects" on public.subjects_models',
    ),
    "where there is a policy it is in force": Rule(
        "select polname from policies join pg_class on pg_class.oid = polrelid where not relrowsecurity",
        "alter table public.presets disable row level security",
    ),
    "no two permissive policies for the same table, command and role": Rule(
        """select polrelid::regclass from (
             select polrelid, unnest(case polcmd when '*' then '{r,a,w,d}'::"char"[] else array[polcmd] end) as command,
                    unnest(polroles) as role
             from policies where polpermissive) each
           group by polrelid, command, role having count(*) > 1""",
        "create policy more on public.presets for all to authenticated using (owner_id = (select auth.uid()))",
    ),
    "every policy names the roles it is for": Rule(
        "select polname from policies where 0 = any (polroles)",
        "create policy loose on public.presets for select using (owner_id is null)",
    ),
    "policies ask who is signed in once a statement, not once a row": Rule(
        r"""select polname from policies
            where regexp_replace(text, '\( SELECT auth\.uid\(\) AS \w+\)', '', 'g') ~ 'auth\.|current_setting'""",
        "create policy slow on public.presets for select to anon using (owner_id = auth.uid())",
    ),
    "policies ask functions of ours once a statement, not once a row": Rule(
        r"""select polname from policies
            where regexp_replace(text, '(SELECT|FROM) worker\.\w+\(\)', '', 'g') ~ '\mworker\.'""",
        "create policy slow on public.presets for select to anon using (name = worker.uploads_bucket())",
    ),
    "no policy lets everything through": Rule(
        """select polname from policies
           where 'true' in (pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))""",
        "create policy wide on public.presets for insert to authenticated with check (true)",
    ),
    "no policy trusts what users write about themselves": Rule(
        r"select polname from policies where text ~ 'user_metadata|app_metadata|auth\.jwt'",
        "create policy vain on public.presets for select to anon using (current_setting('user_metadata') = 'x')",
    ),
    "every function has the fixed search_path": Rule(
        """select name from functions
           where not coalesce(proconfig @> array['search_path=pg_catalog, pg_temp'], false)""",
        "alter function worker.actor reset search_path",
    ),
    "no function that clients can call directly runs as its owner": Rule(
        "select name from functions where schema = 'public' and prosecdef",
        "alter function public.cancel_job security definer",
    ),
    "views apply the rights of their reader": Rule(
        """select name from relations
           where relkind = 'v' and not coalesce(reloptions @> '{security_invoker=true}', false)""",
        "create view public.everything as select * from public.subjects",
    ),
    "clients reach no views, materialized views or foreign tables": Rule(
        "select name from relations where schema = 'public' and relkind in ('v', 'm', 'f')",
        "create materialized view public.everything as select 1 as one",
    ),
    "no extension is installed in public": Rule(
        "select extname from pg_extension where extnamespace = 'public'::regnamespace",
        "create extension vector schema public",
    ),
    "no two indexes are the same": Rule(
        """select min(name) from indexes
           group by indrelid, regexp_replace(definition, ' INDEX .* ON ', ' ON ') having count(*) > 1""",
        "create index once_more on public.subjects (owner_id)",
    ),
    "every foreign key has an index": Rule(
        """select constraint_name from constraints where contype = 'f' and not exists (
             select from indexes where indrelid = conrelid and indpred is null
               and (indkey::smallint[])[0 : cardinality(conkey) - 1] @> conkey)""",
        "drop index public.training_jobs_base",
    ),
    "every table has a primary key": Rule(
        """select name from tables
           where not exists (select from pg_constraint where conrelid = tables.oid and contype = 'p')""",
        "create table worker.heap (x int)",
    ),
    "no foreign key to auth.users makes a user's row unique": Rule(
        """select constraint_name from constraints fk where confrelid = 'auth.users'::regclass and exists (
             select from pg_constraint
             where conrelid = fk.conrelid and contype in ('u', 'p') and conkey = fk.conkey)""",
        "alter table public.presets add unique (owner_id)",
    ),
    "no client reads the users through a view": Rule(
        r"select name from relations where relkind in ('v', 'm') and pg_get_viewdef(oid) ~ 'auth\.users'",
        "create view public.accounts as select id from auth.users",
    ),
}

HOUSE = {
    "every table, view and function has a comment": Rule(
        """select name from relations
           where relkind in ('r', 'p', 'v', 'm') and obj_description(oid, 'pg_class') is null
           union all select name from functions where obj_description(oid, 'pg_proc') is null""",
        "comment on function worker.actor is null",
    ),
    "every column has a comment": Rule(
        """select name || '.' || attname from relations join pg_attribute on attrelid = relations.oid
           where relkind in ('r', 'p', 'v') and name !~ '^worker.pgqueuer' and attnum > 0 and not attisdropped
             and col_description(attrelid, attnum) is null""",
        "comment on column public.presets.name is null",
    ),
    "every check constraint has a telling name": Rule(
        "select constraint_name from constraints where contype = 'c' and conname ~ '_check[0-9]*$'",
        "alter table public.presets add check (name <> 'x')",
    ),
    "timestamps have a time zone": Rule(
        "select column_name from columns where atttypid = 'timestamp'::regtype",
        "alter table public.presets add at timestamp",
    ),
    "no function is stricter in volatility than those it calls": Rule(
        r"""select caller.name || ' calls ' || callee.name from functions caller
            cross join lateral regexp_matches(caller.prosrc, '\mworker\.(\w+)\(', 'g') as called (name)
            join functions callee on callee.proname = called.name[1] and callee.schema = 'worker'
            where strpos('isv', caller.provolatile::text) < strpos('isv', callee.provolatile::text)""",
        "alter function worker.items volatile",
    ),
    "only granted functions and triggers run as their owner": Rule(
        """select name from functions where schema = 'worker' and prosecdef and prorettype <> 'trigger'::regtype
             and not exists (select from aclexplode(proacl) where grantee <> proowner)""",
        "alter function worker.finish_job security definer",
    ),
    "our triggers have numbers, because they fire in the order of their names": Rule(
        "select trigger_name from triggers where tgname !~ '^_[0-9]{3}_' and tgname <> 'tg_pgqueuer_changed'",
        "create trigger late before insert on public.subjects for each row execute function worker.on_subject_insert()",
    ),
    "no trigger is disabled": Rule(
        "select trigger_name from triggers where tgenabled <> 'O'",
        "alter table public.subjects disable trigger user",
    ),
    "every constraint is validated for existing rows": Rule(
        "select constraint_name from constraints where not convalidated",
        "alter table public.presets add constraint late check (name <> 'x') not valid",
    ),
}


@pytest.fixture(scope="module")
def connection(databases: Databases) -> Iterator[psycopg.Connection[Any]]:
    with databases.fresh() as url, psycopg.connect(url, autocommit=True) as opened:
        opened.execute(VIEWS)
        yield opened


RULES = [pytest.param(rule, id=name) for name, rule in {**LINTER, **HOUSE}.items()]


@pytest.mark.parametrize("rule", RULES)
def test_the_schema_keeps_the_rule_and_a_violation_is_found(connection: psycopg.Connection[Any], rule: Rule) -> None:
    assert [row[0] for row in connection.execute(rule.query).fetchall()] == []  # type: ignore[arg-type]
    with connection.transaction(force_rollback=True):
        connection.execute(rule.violation)  # type: ignore[arg-type]
        assert connection.execute(rule.query).fetchall() != []  # type: ignore[arg-type]


def test_every_function_states_its_volatility_and_its_search_path() -> None:
    """In the catalog, a forgotten volatility looks like an explicit VOLATILE."""
    headers = [
        header
        for file in [*numbered_files()[1:], *repeatable_files()]
        for header in re.findall(r"create (?:or replace )?function (.+?)\s+as \$\$", file.text, re.DOTALL)
    ]
    assert len(headers) > 80
    for header in headers:
        assert re.search(r"\blanguage (sql|plpgsql) (volatile|stable|immutable)\b", header), header
        assert re.search(r" set search_path = pg_catalog, pg_temp(\s|$)", header), header


def test_the_first_migration_is_the_install_sql_of_the_pinned_pgqueuer() -> None:
    installed = QueryBuilderEnvironment(DBSettings(db_schema="worker")).build_install_query(create_schema=False)
    note, _, text = numbered_files()[0].text.partition("\n")
    assert f"pgqueuer {version('pgqueuer')}" in note
    assert text.strip() == installed.strip()
