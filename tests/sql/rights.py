"""The expected rights of every role, compared with the catalog by `test_rights.py`.

A new table, column, function or sequence fails the tests until it is listed here.
"""

from __future__ import annotations

ROLES = ("public", "anon", "authenticated", "service_role", "likeness_worker")
"""`public` stands for all roles, also those of other applications. Neither it nor `anon` has any right below."""

SCHEMAS = {"worker": {"USAGE": "authenticated service_role likeness_worker"}}

EXECUTE = {
    # called by apps
    "public.cancel_job": "authenticated service_role",
    "public.retry_job": "authenticated service_role",
    "public.grant_consent": "authenticated service_role",
    "public.revoke_consent": "authenticated service_role",
    "public.reject_consent": "service_role",
    # called by the functions above
    "worker.cancel_job_as_owner": "authenticated",
    "worker.retry_job_as_owner": "authenticated",
    "worker.grant_consent_as_owner": "authenticated",
    "worker.revoke_consent_as_owner": "authenticated",
    "worker.cancel_job_as_service": "service_role",
    "worker.retry_job_as_service": "service_role",
    "worker.grant_consent_as_service": "service_role",
    "worker.revoke_consent_as_service": "service_role",
    "worker.reject_consent_as_service": "service_role",
    # called by policies on storage.objects
    "worker.my_published_objects": "authenticated",
    "worker.uploads_bucket": "authenticated",
    # called by pods
    "worker.complete_job": "likeness_worker",
    "worker.consent_error": "likeness_worker",
    "worker.fail_job": "likeness_worker",
    "worker.is_alive": "likeness_worker",
    "worker.begin_renewal": "likeness_worker",
    "worker.claim_deletable_objects": "likeness_worker",
    "worker.claim_look": "likeness_worker",
    "worker.deregister_pod": "likeness_worker",
    "worker.finish_renewal": "likeness_worker",
    "worker.heartbeat": "likeness_worker",
    "worker.installation_error": "likeness_worker",
    "worker.judge_markers": "likeness_worker",
    "worker.pod_heartbeat": "likeness_worker",
    "worker.mark_objects_deleted": "likeness_worker",
    "worker.lock_lora_copy": "likeness_worker",
    "worker.lora_to_copy": "likeness_worker",
    "worker.memory_requirement": "likeness_worker",
    "worker.note_markers": "likeness_worker",
    "worker.next_due_s": "likeness_worker",
    "worker.peek": "likeness_worker",
    "worker.pod_lock_key": "likeness_worker",
    "worker.queued_routes": "likeness_worker",
    "worker.reap": "likeness_worker",
    "worker.register_pod": "likeness_worker",
    "worker.release_job": "likeness_worker",
    "worker.report_job": "likeness_worker",
    "worker.required_capabilities": "likeness_worker",
    "worker.required_vram_gib": "likeness_worker",
    "worker.run_housekeeping": "likeness_worker",
    "worker.save_checkpoint": "likeness_worker",
    "worker.schema_major": "likeness_worker",
    "worker.set_aside_job": "likeness_worker",
    "worker.stage_objects": "likeness_worker",
    "worker.start_job": "likeness_worker",
    "worker.starved_routes": "likeness_worker",
    "worker.storage_hold": "likeness_worker",
    "worker.take_over": "likeness_worker",
    "worker.timing": "likeness_worker",
    "worker.usable_routes": "likeness_worker",
    "worker.base_can": "likeness_worker",
    "worker.base_serves": "likeness_worker",
    "worker.weights_slug": "likeness_worker",
    "worker.find_result": "likeness_worker",
    "worker.redirect_error": "likeness_worker",
    "worker.base_of_route": "likeness_worker",
    "worker.guides_of_route": "likeness_worker",
    "worker.guides_vram_gib": "likeness_worker",
    "worker.why_stranded": "likeness_worker",
    # called by pods of release 0.1.0
    "worker.fits_memory": "likeness_worker",
    "worker.garbage_gone": "likeness_worker",
    "worker.leave_pod": "likeness_worker",
    "worker.subject_lock_key": "likeness_worker",
    "worker.take_garbage": "likeness_worker",
    "worker.tick": "likeness_worker",
}

OWNER_ONLY = """
    account_is_deleted actor add_queue_rows add_to_turn adopt_installation after_job_insert after_order_update
    after_subject_update alter_job_tables app_functions apply_package_file backoff backoff_after_lost_pod base_error
    before_job_insert before_job_update begin_lora_import call_hook capabilities catalog_damage catalog_faults
    catalog_objects changing_columns charge_failure check_account check_columns check_grant check_hooks
    check_job_owner check_kinds check_life_cycle check_quota check_registration check_request check_slot
    clamp_deferred_jobs clamp_future_times clamp_pod_times column_defaults consent_refusal count_again count_jobs
    count_ledger_refusals current_home declare_grant decoded_url declare_policy default_base defaults_for_nulls
    deletable_buckets delete_queue_rows dequeue_row discard_staged_objects earlier_objects end_attempt
    end_failed_attempt enqueue enqueue_rows ensure_kind_policies ensure_policy expire_consent explain_waiting
    fail_stranded_jobs fill_defaults find_violation finish_job finish_stopped_job first_marker fn_pgqueuer_changed
    fold_prompt foreign_change generation_detects generation_guides generation_loras generation_references_error
    give_back grant_declared_rights grant_job_table guide_for guide_serves guided_by guides_in_route has_hook
    held_state hook hook_error hook_failure hook_signatures inputs_error is_allowed is_cold is_dead is_detected
    is_fault_of_pod is_rejected is_retried is_settled is_ticker is_transient items job_consent_error key_error
    key_subject keys_error late_sequences lease_state left_open listed_by_hook live_kinds lock_account lock_is_free
    lock_job lock_lease log_event log_refusal lora_of make_first_nonce make_job_table make_job_views marker_problem
    marker_state matching_term_rule may_be_served may_renew models_error models_of move_installation named_keys
    new_era newest_checkpoint note_catalog note_cold_start note_missing_tables note_subjects on_photo_write
    on_subject_insert on_subject_update own_functions own_grants own_objects own_relations own_table_parts
    owner_of_request payload personal_buckets photos_of plain_columns policy_in_catalog prefetch prefix
    preset_columns preset_error prompt_error prune publish publish_changes publish_lora_import publish_training
    queue_row queue_time realtime_tables reconcile record_catalog
    record_progress refusal refuse_change register_job_table release_unheld_jobs repair_catalog request_columns
    request_error request_stop requeue result_error result_keys revoke_for_deleted_accounts route routes_digest
    run_package_file sequences_of_words set_consent settle settle_stopped sorts staging_prefix start_delay
    start_payload stop_jobs_of subjects_of table_of take_turn texts training_min_photos training_photos try_lock_job
    undeclared_columns unsettled_for url_error usable_bases wanted_guides

    generation__capabilities generation__default_base generation__guided_by generation__inputs_error
    generation__named_keys generation__payload generation__plain_columns generation__prefetch
    generation__request_error generation__result_error generation__result_keys generation__texts
    mesh__capabilities mesh__default_base mesh__named_keys mesh__plain_columns mesh__prefetch mesh__publish
    mesh__request_error mesh__result_error mesh__result_keys
    publish_lora__plain_columns training__capabilities training__inputs_error training__insert_error
    training__named_keys training__payload training__prefetch training__prefix training__publish
    training__result_error training__result_keys training__texts
"""
"""Functions of schema `worker` that only the owner and functions with the owner's rights can call; hooks last."""

TABLES = {
    "public.generation_jobs": {"SELECT": "authenticated service_role"},
    "public.mesh_jobs": {"SELECT": "authenticated service_role"},
    "public.presets": {
        "SELECT": "authenticated service_role",
        "INSERT": "service_role",
        "UPDATE": "service_role",
        "DELETE": "authenticated service_role",
    },
    "public.subject_photos": {
        "SELECT": "authenticated service_role",
        "INSERT": "service_role",
        "UPDATE": "service_role",
        "DELETE": "authenticated service_role",
    },
    "public.subjects": {"SELECT": "authenticated service_role"},
    "public.subjects_models": {"SELECT": "authenticated service_role"},
    "public.training_jobs": {"SELECT": "authenticated service_role"},
    "worker.allowed_phrases": {},
    "worker.base_models": {"SELECT": "service_role likeness_worker"},
    "worker.guides": {"SELECT": "service_role likeness_worker"},
    "worker.bucket_markers": {},
    "worker.clock": {},
    "worker.config": {"SELECT": "service_role likeness_worker"},
    "worker.consent_events": {"SELECT": "service_role"},
    "worker.installation": {},
    "worker.expected_objects": {},
    "worker.housekeeping": {},
    "worker.internal_jobs": {},
    "worker.job_details": {},
    "worker.job_events": {"SELECT": "service_role"},
    "worker.job_kinds": {"SELECT": "service_role likeness_worker"},
    "worker.job_subjects": {},
    "worker.jobs": {},
    "worker.kind_grants": {},
    "worker.kind_policies": {},
    "worker.kind_versions": {"SELECT": "likeness_worker"},
    "worker.life_cycle": {},
    "worker.lora_copies": {},
    "worker.package_objects": {},
    "worker.pgqueuer": dict.fromkeys(("SELECT", "INSERT", "UPDATE", "DELETE"), "likeness_worker"),
    "worker.pgqueuer_log": dict.fromkeys(("SELECT", "INSERT", "UPDATE", "DELETE"), "likeness_worker"),
    "worker.pgqueuer_schedules": dict.fromkeys(("SELECT", "INSERT", "UPDATE", "DELETE"), "likeness_worker"),
    "worker.pgqueuer_statistics": dict.fromkeys(("SELECT", "INSERT", "UPDATE", "DELETE"), "likeness_worker"),
    "worker.pods": {"SELECT": "service_role likeness_worker"},
    "worker.policies": {},
    "worker.queue_depth": {"SELECT": "likeness_worker"},
    "worker.quota_turns": {},
    "worker.schema_versions": {"SELECT": "likeness_worker"},
    "worker.screened_terms": {},
    "worker.screening_rules": {},
    "worker.staged_objects": {},
    "worker.stranded_jobs": {"SELECT": "likeness_worker"},
}
"""Rights on whole tables and views. COLUMNS has the rights that are granted column by column."""

_LIFE_CYCLE = (
    "status attempt failures progress phase cancel_requested_at cancel_code error_code error result metrics "
    "gpu_seconds pod_id preset guides fingerprint created_at started_at finished_at"
)
_ADMINISTRATORS = "priority run_after max_failures max_runtime"
_TRAINING = (
    "id owner_id subject_id base preset_id sample_paths trigger_word class_name "
    "steps rank learning_rate resolution seed"
)
_GENERATION = (
    "id owner_id subject_id base preset_id prompt negative_prompt model_ids lora_scales reference_paths "
    "reference_scale control_path control_kind control_from control_scale control_start control_end sampler "
    "clip_skip width height steps guidance seed num_images upscale quality output_format reference_urls cache"
)
_MESH = "id owner_id subject_id base image_urls image_paths quality format texture max_faces metadata"

COLUMNS: dict[str, dict[tuple[str, str], str]] = {
    "public.subjects": {
        ("authenticated", "INSERT"): "id name trigger_word subject_is_adult",
        ("authenticated", "UPDATE"): "name trigger_word",
        ("service_role", "INSERT"): "id owner_id name trigger_word subject_is_adult",
        ("service_role", "UPDATE"): "name trigger_word",
    },
    "public.subject_photos": {
        ("authenticated", "INSERT"): "id subject_id path caption",
        ("authenticated", "UPDATE"): "caption",
    },
    "public.subjects_models": {("service_role", "UPDATE"): "retired_at"},
    "public.presets": {
        ("authenticated", "INSERT"): "id name kind prompt negative_prompt settings",
        ("authenticated", "UPDATE"): "name prompt negative_prompt settings",
    },
    "public.training_jobs": {
        ("authenticated", "INSERT"): _TRAINING,
        ("service_role", "INSERT"): f"{_TRAINING} {_ADMINISTRATORS}",
        ("service_role", "UPDATE"): _ADMINISTRATORS,
    },
    "public.generation_jobs": {
        ("authenticated", "INSERT"): _GENERATION,
        ("service_role", "INSERT"): f"{_GENERATION} {_ADMINISTRATORS}",
        ("service_role", "UPDATE"): _ADMINISTRATORS,
    },
    "public.mesh_jobs": {
        ("authenticated", "INSERT"): _MESH,
        ("service_role", "INSERT"): f"{_MESH} {_ADMINISTRATORS}",
        ("service_role", "UPDATE"): _ADMINISTRATORS,
    },
}
"""Columns that a role can write without the right to write the whole table."""

READABLE = {
    "public.subjects": "id owner_id name trigger_word subject_is_adult consent_status consent_purposes "
    "consent_expires_at erased_at created_at",
    "public.subject_photos": "id subject_id path caption status reason prepared_path width height face sha256 phash "
    "created_at",
    "public.subjects_models": "id subject_id job_id version base family path sha256 rank trigger_word metrics "
    "created_at retired_at",
    "public.presets": "id owner_id name kind prompt negative_prompt settings created_at",
    "public.training_jobs": f"{_TRAINING} {_ADMINISTRATORS} {_LIFE_CYCLE}",
    "public.generation_jobs": f"{_GENERATION} {_ADMINISTRATORS} {_LIFE_CYCLE}",
    "public.mesh_jobs": f"{_MESH} {_ADMINISTRATORS} {_LIFE_CYCLE}",
    "worker.base_models": "slug family train_base capabilities sizes defaults min_vram_gib licence commercial_use "
    "min_training_vram_gib only_for weights_of",
    "worker.config": "singleton consent_mode default_base open_jobs_per_owner bucket_uploads bucket_models "
    "bucket_meshes "
    "keep_logs_for",
    "worker.consent_events": "id subject_id event purposes expires_at reason evidence_digest job_kind job_id actor at",
    "worker.guides": "slug family capabilities vram_gib licence commercial_use bases",
    "worker.job_events": "id kind job_id attempt at event detail",
    "worker.job_kinds": "kind table_name purpose subject_required slot max_runtime paused package hooks "
    "uses_base table_missing_since needs_marked_buckets",
    "worker.kind_versions": "package name checksum applied_at",
    "worker.pods": "id name routes vram_gib models_present has_lock version registered_at last_heartbeat "
    "lock_free_since",
    "worker.queue_depth": "route waiting oldest running pods",
    "worker.schema_versions": "name checksum applied_at",
    "worker.stranded_jobs": "kind id route since why",
}
"""Every column that clients or pods can read. A new column of these tables is visible to them."""

PGQUEUER = "worker.pgqueuer"
"""Tables with this prefix belong to pgqueuer, and are compared with its package."""

SEQUENCES = {
    "worker.consent_events_id_seq": {},
    "worker.job_events_id_seq": {},
    "worker.pgqueuer_id_seq": {"USAGE": "likeness_worker"},
    "worker.pgqueuer_log_id_seq": {"USAGE": "likeness_worker"},
    "worker.pgqueuer_schedules_id_seq": {"USAGE": "likeness_worker"},
    "worker.pgqueuer_statistics_id_seq": {"USAGE": "likeness_worker"},
    "worker.staged_objects_id_seq": {},
}
