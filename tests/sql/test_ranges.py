"""Ranges of request columns: the error names the column and its limits."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.sql.tables import ABLE_BASE, AppTables

RANGES: dict[tuple[str, str], tuple[list[object], str]] = {
    ("generation", "steps"): ([0, 101], "steps_between_1_and_100"),
    ("generation", "guidance"): ([-0.1, 30.5, float("nan")], "guidance_between_0_and_30"),
    ("generation", "width"): ([48, 2064, 100], "width_between_64_and_2048_in_16s"),
    ("generation", "height"): ([48, 2064, 100], "height_between_64_and_2048_in_16s"),
    ("generation", "seed"): ([-1, 2**32], "seed_between_0_and_4294967295"),
    ("generation", "num_images"): ([0, 17], "num_images_between_1_and_16"),
    ("generation", "upscale"): ([1, 3, 8], "upscale_is_2_or_4"),
    ("generation", "quality"): ([0, 101], "quality_between_1_and_100"),
    ("generation", "output_format"): (["gif", "PNG"], "output_format_is_png_jpeg_or_webp"),
    ("generation", "prompt"): (["x" * 2001], "prompt_up_to_2000_characters"),
    ("generation", "negative_prompt"): (["x" * 2001], "negative_prompt_up_to_2000_characters"),
    ("generation", "reference_scale"): ([-0.1, 2.1], "reference_scale_between_0_and_2"),
    ("generation", "control_scale"): ([-0.1, 2.1], "control_scale_between_0_and_2"),
    ("generation", "control_from"): (["video", "Photo"], "control_from_is_map_or_photo"),
    ("generation", "control_kind"): (["pose"], "control_path_and_kind_together"),
    ("generation", "lora_scales"): ([[1.0]], "lora_scales_match_model_ids"),
    ("training", "steps"): ([0, 10001], "steps_between_1_and_10000"),
    ("training", "rank"): ([0, 129], "rank_between_1_and_128"),
    ("training", "learning_rate"): ([0.0, 1.1, float("nan")], "learning_rate_above_0_up_to_1"),
    ("training", "resolution"): ([63, 2049], "resolution_between_64_and_2048"),
    ("training", "seed"): ([-1, 2**32], "seed_between_0_and_4294967295"),
    ("training", "class_name"): (
        ["", "a person, naked", " a dog", "a" * 41],
        "class_name_is_a_phrase_of_up_to_40_characters",
    ),
    ("training", "trigger_word"): (["two words", "x", "dog;"], "trigger_word_is_one_word"),
}


def test_the_error_for_a_value_out_of_range_names_column_and_limits(db: AppTables) -> None:
    subject = db.add_subject()
    db.add_photos(subject)
    with db.acting_as("authenticated", db.owner) as connection:
        for (kind, column), (values, limits) in RANGES.items():
            columns = {"subject_id": subject, "base": ABLE_BASE} | ({"prompt": "x"} if kind == "generation" else {})
            for value in values:
                chosen = columns | {column: value}
                statement = sql.SQL("insert into {} ({}) values ({})").format(
                    sql.Identifier(f"{kind}_jobs"),
                    sql.SQL(", ").join(map(sql.Identifier, chosen)),
                    sql.SQL(", ").join(sql.Placeholder() * len(chosen)),
                )
                with pytest.raises(psycopg.errors.CheckViolation) as caught:
                    connection.execute(statement, list(chosen.values()))
                assert caught.value.diag.constraint_name == f"{kind}_jobs_{limits}", (column, value)
    assert db.one("select count(*) from worker.pgqueuer") == 0


def test_lists_have_limits_too(db: AppTables) -> None:
    subject = db.add_subject()
    photos, model = db.add_photos(subject, 5), db.add_lora(subject)
    lists: list[tuple[str, dict[str, Any], str]] = [
        ("training", {"sample_paths": photos * 41}, "training_jobs_sample_paths_3_to_200"),
        ("generation", {"reference_paths": photos}, "generation_jobs_reference_paths_1_to_4"),
        ("generation", {"model_ids": [model] * 5}, "generation_jobs_model_ids_up_to_4"),
        (
            "generation",
            {"model_ids": [model], "lora_scales": [2.5]},
            "generation_jobs_lora_scales_between_minus_2_and_2",
        ),
    ]
    prompt = {"generation": {"prompt": "x"}, "training": {}}
    for kind, columns, constraint in lists:
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            db.request(kind, subject_id=subject, base=ABLE_BASE, **prompt[kind], **columns)
        assert caught.value.diag.constraint_name == constraint
