"""`examples/types.ts` matches the migrated catalog."""

from __future__ import annotations

import psycopg
import pytest

from tools.types_ts import TARGET, types_ts


def test_the_file_matches_the_catalog(database_url: str) -> None:
    assert TARGET.read_text() == types_ts(database_url), "examples/types.ts is out of date: run `make types`"


def test_a_new_column_and_an_identity_appear(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("create table public.notes (number bigint generated always as identity, about uuid[] not null)")
        owner.execute(
            "alter table public.notes add column subject_id uuid unique "
            "constraint notes_subject_id_fkey references public.subjects (id)"
        )
    notes = """\
      notes: {
        Row: {
          about: string[]
          number: number
          subject_id: string | null
        }
        Insert: {
          about: string[]
          number?: never
          subject_id?: string | null
        }
        Update: {
          about?: string[]
          number?: never
          subject_id?: string | null
        }
        Relationships: [
          {
            foreignKeyName: "notes_subject_id_fkey"
            columns: ["subject_id"]
            isOneToOne: true
            referencedRelation: "subjects"
            referencedColumns: ["id"]
          },
        ]
      }
"""
    assert notes in types_ts(database_url)


def test_unsupported_objects_are_reported_by_name(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("create view public.people as select name from public.subjects")
        owner.execute("create type public.mood as enum ('calm')")
    with pytest.raises(ValueError, match="view people, type mood"):
        types_ts(database_url)
