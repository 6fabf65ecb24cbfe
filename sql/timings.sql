-- Every timeout and interval of the SQL half, by name. docs/timeouts.md lists them beside those of the pods.

create or replace function worker.timing(p_name text) returns interval
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  case p_name
    -- pods
    when 'pod_silent' then return interval '30 seconds';           -- a pod without a heartbeat for this long is considered dead
    when 'pod_lock_free' then return interval '1.5 seconds';       -- so is one whose advisory lock has been free for this long
    when 'ticker_heartbeat' then return interval '20 seconds';     -- only a pod with a newer heartbeat runs the housekeeping
    when 'tick_gap' then return interval '5 seconds';              -- after a longer gap from tick to tick, every grace period starts again
    when 'housekeeping_every' then return interval '10 seconds';   -- the housekeeping that does not take over is done again after this
    when 'claim_unnamed' then return interval '30 seconds';        -- a claim that its pod has not named for this long is requeued
    when 'consent_overlap' then return interval '1 minute';        -- a heartbeat repeats this much of the ledger, whose rows are stamped before they commit
    -- jobs
    when 'paused_kind' then return interval '30 seconds';          -- a job of a paused kind is offered again after this
    when 'queue_row_missing' then return interval '10 seconds';    -- a queued job without a queue row gets one after this
    when 'refusals_counted' then return interval '1 hour';         -- refused requests of an owner are counted over this period
    when 'quota_turn' then return interval '2 seconds';            -- an INSERT waits this long for another open one of the same owner
    -- markers of buckets
    when 'marker_period' then return interval '5 minutes';         -- pods renew the markers of the buckets this often
    when 'cold_start' then return interval '1 minute';             -- without a tick for this long, this may be a fresh copy of the database
    when 'start_refused' then return interval '1 minute';          -- a job that may not start, because of whose the buckets are, is offered again
    -- objects to delete in storage
    when 'deletion_unconfirmed' then return interval '1 minute';   -- offered again when no pod confirmed the deletion
    when 'second_deletion' then return interval '15 minutes';      -- longer than any upload may take: a late PUT is deleted too
    when 'third_deletion' then return interval '1 hour';
    when 'last_deletion' then return interval '1 day';
    when 'lora_import' then return interval '1 hour';              -- an imported LoRA that is not published by then is deleted
  end case;
end $$;
comment on function worker.timing is 'Return a timeout or interval of the SQL half by its name; an unknown name raises an error.';
