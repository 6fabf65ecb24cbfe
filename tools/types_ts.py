"""Writes `examples/types.ts`: the schema `public` as supabase-js wants it described, read from the catalog.

The layout is that of `supabase gen types typescript` (supabase/postgres-meta, src/server/templates/typescript.ts), so
that an app may use either file. Run `make types` after a migration; a test compares.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from worker.database.schema import migrate
from worker.demo.servers import EmbeddedPostgres

TARGET = Path(__file__).parent.parent / "examples" / "types.ts"
WIDTH = 80
"""Where Supabase's formatter breaks a line."""

TS_TYPES = {
    "bool": "boolean",
    **dict.fromkeys(("int2", "int4", "int8", "float4", "float8", "numeric"), "number"),
    **dict.fromkeys(("text", "uuid", "timestamptz", "interval", "date"), "string"),
    "jsonb": "Json",
    "void": "undefined",
}

COLUMNS: LiteralString = """
select c.relname as table_name, a.attname as name, t.typname as type, not a.attnotnull as nullable,
       a.atthasdef or a.attidentity <> '' as filled_in, a.attidentity = 'a' as read_only
from pg_attribute a
join pg_class c on c.oid = a.attrelid and c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
join pg_type t on t.oid = a.atttypid
where a.attnum > 0 and not a.attisdropped
order by c.relname collate "C", a.attname collate "C" """

# Only within the schema: supabase-js can embed nothing else.
RELATIONSHIPS: LiteralString = """
select k.conname as name, c.relname as table_name, target.relname as referenced,
       array(select attname::text from unnest(k.conkey) with ordinality as key (number, place)
             join pg_attribute on attrelid = k.conrelid and attnum = number order by place) as columns,
       array(select attname::text from unnest(k.confkey) with ordinality as key (number, place)
             join pg_attribute on attrelid = k.confrelid and attnum = number order by place) as referenced_columns,
       exists (select from pg_constraint u where u.conrelid = k.conrelid and u.contype in ('p', 'u')
               and u.conkey @> k.conkey and u.conkey <@ k.conkey) as one_to_one
from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_class target on target.oid = k.confrelid
where k.contype = 'f' and c.relnamespace = 'public'::regnamespace and target.relnamespace = 'public'::regnamespace
order by k.conname collate "C" """

FUNCTIONS: LiteralString = """
select p.proname as name, result.typname as returns, p.proretset as returns_set,
       array(select jsonb_build_object('name', p.proargnames[place], 'type', typname,
                                       'optional', place > p.pronargs - p.pronargdefaults)
             from unnest(p.proargtypes) with ordinality as argument (type, place) join pg_type t on t.oid = type
             order by p.proargnames[place] collate "C") as arguments
from pg_proc p join pg_type result on result.oid = p.prorettype
where p.pronamespace = 'public'::regnamespace and result.typname <> 'trigger'
order by p.proname collate "C" """

# What this schema has none of, and this file does not describe.
UNKNOWN: LiteralString = """
select 'view ' || relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('v', 'm', 'f', 'p')
union all select 'type ' || typname from pg_type t
  where typnamespace = 'public'::regnamespace
    and (typtype in ('e', 'd') or exists (select from pg_class where oid = typrelid and relkind = 'c'))
union all select 'overloaded function ' || proname from pg_proc where pronamespace = 'public'::regnamespace
  group by proname having count(*) > 1"""

HEAD = """\
// Made from the catalog by `make types`, laid out as `supabase gen types typescript` does.

export type Json =
  | string
  | number
  | boolean
  | null
  | { [key: string]: Json | undefined }
  | Json[]

export type Database = {
  public: {
    Tables: {
"""

BETWEEN = """\
    }
    Views: {
      [_ in never]: never
    }
    Functions: {
"""

TAIL = """\
    }
    Enums: {
      [_ in never]: never
    }
    CompositeTypes: {
      [_ in never]: never
    }
  }
}

type Public = Database["public"]

export type Tables<Name extends keyof Public["Tables"]> =
  Public["Tables"][Name]["Row"]

export type TablesInsert<Name extends keyof Public["Tables"]> =
  Public["Tables"][Name]["Insert"]

export type TablesUpdate<Name extends keyof Public["Tables"]> =
  Public["Tables"][Name]["Update"]
"""


@dataclass(frozen=True)
class Property:
    """One line of an object type."""

    name: str
    type: str
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.name}{'?' if self.optional else ''}: {self.type}"


def types_ts(database_url: str) -> str:
    """The file's text for a migrated database.

    Raises ValueError when `public` holds something that this file cannot describe.
    """
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        unknown = [next(iter(row.values())) for row in connection.execute(UNKNOWN).fetchall()]
        if unknown:
            raise ValueError(f"tools/types_ts.py cannot describe {', '.join(unknown)}: teach it to, after its source")
        columns = connection.execute(COLUMNS).fetchall()
        relationships = connection.execute(RELATIONSHIPS).fetchall()
        functions = connection.execute(FUNCTIONS).fetchall()
    lines = []
    for table in dict.fromkeys(row["table_name"] for row in columns):
        lines += _table(
            table,
            [row for row in columns if row["table_name"] == table],
            [row for row in relationships if row["table_name"] == table],
        )
    text = HEAD + "".join(f"{line}\n" for line in lines) + BETWEEN
    return text + "".join(f"{line}\n" for row in functions for line in _function(row)) + TAIL


def ts_type(name: str) -> str:
    """The TypeScript of a Postgres type, by its `typname`; arrays begin with `_` there."""
    return f"{TS_TYPES[name[1:]]}[]" if name.startswith("_") else TS_TYPES[name]


def _table(name: str, columns: list[dict[str, Any]], relationships: list[dict[str, Any]]) -> list[str]:
    def written(column: dict[str, Any], *, optional: bool) -> Property:
        if column["read_only"]:
            return Property(column["name"], "never", optional=True)
        return Property(column["name"], _column_type(column), optional)

    row = [Property(column["name"], _column_type(column)) for column in columns]
    insert = [written(column, optional=column["nullable"] or column["filled_in"]) for column in columns]
    update = [written(column, optional=True) for column in columns]
    lines = [f"      {name}: {{"]
    for title, properties in (("Row", row), ("Insert", insert), ("Update", update)):
        lines += [f"        {title}: {{", *(f"          {item}" for item in properties), "        }"]
    if not relationships:
        return [*lines, "        Relationships: []", "      }"]
    lines.append("        Relationships: [")
    for relationship in relationships:
        lines += [
            "          {",
            f'            foreignKeyName: "{relationship["name"]}"',
            f"            columns: {_strings(relationship['columns'])}",
            f"            isOneToOne: {str(relationship['one_to_one']).lower()}",
            f'            referencedRelation: "{relationship["referenced"]}"',
            f"            referencedColumns: {_strings(relationship['referenced_columns'])}",
            "          },",
        ]
    return [*lines, "        ]", "      }"]


def _column_type(column: dict[str, Any]) -> str:
    return ts_type(column["type"]) + (" | null" if column["nullable"] else "")


def _function(row: dict[str, Any]) -> list[str]:
    arguments = [Property(item["name"], ts_type(item["type"]), item["optional"]) for item in row["arguments"]]
    returns = ts_type(row["returns"]) + ("[]" if row["returns_set"] else "")
    short_arguments = f"{{ {'; '.join(map(str, arguments))} }}" if arguments else "never"
    one_line = f"      {row['name']}: {{ Args: {short_arguments}; Returns: {returns} }}"
    if len(one_line) <= WIDTH:
        return [one_line]
    args = [f"        Args: {short_arguments}"]
    if len(args[0]) > WIDTH:
        args = ["        Args: {", *(f"          {item}" for item in arguments), "        }"]
    return [f"      {row['name']}: {{", *args, f"        Returns: {returns}", "      }"]


def _strings(names: list[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def main() -> None:
    """Migrate an embedded database and write the file."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres", fast=True) as server:
        migrate.install_supabase_stubs(server.url())
        migrate.migrate(server.url())
        TARGET.write_text(types_ts(server.url()))


if __name__ == "__main__":
    main()
