-- What an INSERT refuses because of its words: early feedback for the app. The barrier is worker/guard/screening.py, which
-- screens every job before anything is loaded and sees through disguises. What is refused here, it refuses too: a text that
-- this file might read in another way is left to it. The words are in screened_terms.sql.

-- NFD and not NFKD: a newer Unicode makes letters of characters that the worker's may leave alone.
create or replace function worker.fold_prompt(p_text text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select btrim(regexp_replace(
    regexp_replace(plain, '[^a-z0-9]*[^-_a-z0-9 \t\n\r\f\v\u00a0\u2010-\u2015\u2017][^a-z0-9]*', ', ', 'g'),
    '[^a-z0-9,]+|(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=[a-z])', ' ', 'g'), ' ,')
  from (
    -- Without diacritics, apostrophes and what joins emoji. Collation "C" lowers A to Z alone, in any locale.
    select lower(regexp_replace(normalize(translate(p_text, 'łŁ', 'll'), NFD),
      '[\u0300-\u036f\u200d\ufe0f''`\u2018\u2019\u201b]', '', 'g') collate "C") as plain
  ) stripped
  -- ASCII, common punctuation, emoji; no I and l that may stand for each other, "chiId".
  where plain !~ '[^\x01-\x7f\u00a0«°·»×\u2010-\u2027\u2600-\u27bf\U0001f300-\U0001faff]' and p_text !~ '[a-z]I|[A-Z]l[A-Z]'
$$;
comment on function worker.fold_prompt is
  'A text as lower-case words and numbers, one space apart, with "," after one that punctuation follows; NULL for a text that only the worker reads, with letters of other scripts for example.';

create or replace function worker.is_allowed(p_words text[], p_first integer, p_last integer, p_screens text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from generate_series(greatest(1, p_last - 5), p_first) begins
    cross join generate_series(p_last, least(begins + 5, cardinality(p_words))) ends
    -- One at a time, by the index: a join reads the whole list where Postgres does not know yet how long it is.
    cross join lateral (
      select from worker.allowed_phrases
      where screens = p_screens and phrase = rtrim(array_to_string(p_words[begins : ends], ' '), ',') limit 1) allowed)
$$;
comment on function worker.is_allowed is 'Whether an innocent phrase covers these words of a text.';

create or replace function worker.matching_term_rule(p_folded text, p_screens text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_words text[] := string_to_array(p_folded, ' ');
  v_letters text;
  v_rule_id text;
begin
  for v_first in 1 .. coalesce(cardinality(v_words), 0) loop
    v_letters := '';
    for v_last in v_first .. least(v_first + 5, cardinality(v_words)) loop
      v_letters := v_letters || rtrim(v_words[v_last], ',');
      select rule_id into v_rule_id from worker.screened_terms
      where screens = p_screens and letters = v_letters and (is_phrase or v_first = v_last);
      if found and not worker.is_allowed(v_words, v_first, v_last, p_screens) then
        return v_rule_id;
      end if;
    end loop;
  end loop;
  return null;
end $$;
comment on function worker.matching_term_rule is 'The rule of the first screened word or phrase in a folded text, or NULL.';

create or replace function worker.find_violation(p_text text, p_screens text) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select worker.matching_term_rule(worker.fold_prompt(p_text), p_screens)
$$;
comment on function worker.find_violation is 'The first rule that a text breaks in plain words, or NULL.';

-- The request's prompt in its preset, with the trigger words, as the worker merges them.
create or replace function worker.merged_prompt(p_job jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(', ', triggers, replace(
    case when template like '%{prompt}%' then replace(template, '{prompt}', prompt) else concat_ws(', ', prompt, template) end,
    '{trigger}', coalesce(triggers, '')))
  from (
    select coalesce(p_job ->> 'prompt', '') as prompt, coalesce(nullif(p_job -> 'preset' ->> 'prompt', ''), '{prompt}') as template,
      (select string_agg(model ->> 'trigger_word', ' and ') from jsonb_array_elements(worker.models_of(p_job - 'lora_scales')) model) as triggers
  ) parts
$$;
comment on function worker.merged_prompt is 'The request''s prompt in its preset, with the trigger words.';

-- Why a job's words may not be drawn or learned, or NULL. It names the rule and never quotes.
create or replace function worker.prompt_error(p_job jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select format('%s asks for %s (rule %s); change it and insert another job', said.what, rule.asks, rule.id)
  from (
    select 1 as place, 'the prompt' as what, worker.merged_prompt(p_job) as words, 'prompt' as screens where p_job ? 'prompt'
    union all select 2, 'the trigger word', coalesce(p_job ->> 'trigger_word',
      (select trigger_word from public.subjects where id = (p_job ->> 'subject_id')::uuid)), 'prompt' where p_job ? 'trigger_word'
    union all select 3, 'the class name', p_job ->> 'class_name', 'prompt'
    union all select 4, 'the negative prompt', concat_ws(', ', p_job ->> 'negative_prompt', p_job -> 'preset' ->> 'negative_prompt'), 'negative_prompt'
  ) said
  join worker.screening_rules rule on rule.id = worker.find_violation(said.words, said.screens)
  order by said.place limit 1
$$;
comment on function worker.prompt_error is 'Why a job''s words may not be drawn or learned, or NULL.';
