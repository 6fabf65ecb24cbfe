-- Prompts that an INSERT refuses: early feedback for the app. The barrier is worker/guard/screening.py, which screens every
-- job before anything is loaded and recognises disguises. It also refuses everything that is refused here: a text that this
-- file might read differently is left to it. The words are in screened_terms.sql.

-- NFD and not NFKD: a newer Unicode makes letters of characters that the worker's may leave alone.
create or replace function worker.fold_prompt(p_text text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select btrim(regexp_replace(
    regexp_replace(plain, '[^a-z0-9]*[^-_a-z0-9 \t\n\r\f\v\u00a0\u2010-\u2015\u2017][^a-z0-9]*', ', ', 'g'),
    '[^a-z0-9,]+|(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=[a-z])', ' ', 'g'), ' ,')
  from (
    -- Without diacritics, apostrophes and emoji joiners. Collation "C" lowers A to Z alone, in any locale.
    select lower(regexp_replace(normalize(translate(p_text, 'łŁ', 'll'), NFD),
      '[\u0300-\u036f\u200d\ufe0f''`\u2018\u2019\u201b]', '', 'g') collate "C") as plain
  ) stripped
  -- ASCII, common punctuation, emoji; without I and l that may stand for each other, "chiId".
  where plain !~ '[^\x01-\x7f\u00a0«°·»×\u2010-\u2027\u2600-\u27bf\U0001f300-\U0001faff]' and p_text !~ '[a-z]I|[A-Z]l[A-Z]'
$$;
comment on function worker.fold_prompt is
  'Return a text as lower-case words and numbers, one space apart, with "," after a word that punctuation follows; NULL for a text that only the worker screens, for example with letters of other scripts.';

create or replace function worker.is_allowed(p_words text[], p_first integer, p_last integer, p_screens text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from generate_series(greatest(1, p_last - 5), p_first) begins
    cross join generate_series(p_last, least(begins + 5, cardinality(p_words))) ends
    -- One at a time, by the index: a join reads the whole list while Postgres has no statistics about it.
    cross join lateral (
      select from worker.allowed_phrases
      where screens = p_screens and phrase = rtrim(array_to_string(p_words[begins : ends], ' '), ',') limit 1) allowed)
$$;
comment on function worker.is_allowed is 'Return true if an innocent phrase covers these words of a text.';

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
comment on function worker.matching_term_rule is 'Return the rule of the first screened word or phrase in a folded text, or NULL.';

create or replace function worker.find_violation(p_text text, p_screens text) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select worker.matching_term_rule(worker.fold_prompt(p_text), p_screens)
$$;
comment on function worker.find_violation is 'Return the first rule that a text breaks in plain words, or NULL.';
