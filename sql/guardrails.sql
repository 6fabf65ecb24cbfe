-- Prompts that an INSERT refuses: early feedback for the app. The barrier is worker/guard/screening.py, which screens every
-- job before anything is loaded and recognises disguises. It also refuses everything that is refused here: a text that this
-- file might read differently is left to it. The words are in screened_terms.sql.

-- NFD and not NFKD: a newer Unicode makes letters of characters that the worker's may leave alone.
create or replace function worker.fold_prompt(p_text text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  -- Without diacritics, apostrophes and emoji joiners. Collation "C" lowers A to Z alone, in any locale.
  v_plain text := lower(regexp_replace(normalize(translate(p_text, 'łŁ', 'll'), NFD),
    E'[\\u0300-\\u036f\\u200d\\ufe0f''`\\u2018\\u2019\\u201b]', '', 'g') collate "C");
begin
  -- ASCII, common punctuation, emoji; without I and l that may stand for each other, "chiId".
  if v_plain ~ E'[^\\x01-\\x7f\\u00a0«°·»×\\u2010-\\u2027\\u2600-\\u27bf\\U0001f300-\\U0001faff]' or p_text ~ '[a-z]I|[A-Z]l[A-Z]' then
    return null;
  end if;
  return btrim(regexp_replace(
    regexp_replace(v_plain, E'[^a-z0-9]*[^-_a-z0-9 \\t\\n\\r\\f\\v\\u00a0\\u2010-\\u2015\\u2017][^a-z0-9]*', ', ', 'g'),
    '[^a-z0-9,]+|(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=[a-z])', ' ', 'g'), ' ,');
end $$;
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

create or replace function worker.sequences_of_words(p_folded text) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_word text;
  -- The last words so far, without spaces: one word, two words, and so on.
  v_one text := '';
  v_two text := '';
  v_three text := '';
  v_four text := '';
  v_five text := '';
  v_six text := '';
  v_sequences text[] := '{}';
begin
  foreach v_word in array string_to_array(replace(p_folded, ',', ''), ' ') loop
    v_six := v_five || v_word;
    v_five := v_four || v_word;
    v_four := v_three || v_word;
    v_three := v_two || v_word;
    v_two := v_one || v_word;
    v_one := v_word;
    v_sequences := v_sequences || array[v_one, v_two, v_three, v_four, v_five, v_six];
  end loop;
  return v_sequences;
end $$;
comment on function worker.sequences_of_words is 'Return the letters of every one to six words of a folded text that follow each other.';

create or replace function worker.matching_term_rule(p_folded text, p_screens text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_words text[] := string_to_array(p_folded, ' ');
  v_letters text;
  v_rule_id text;
begin
  -- Most texts hold no listed term at all, and one look-up says so. The sub-select hides the words from the planner, which
  -- would otherwise plan anew for each text.
  if p_folded is null or p_folded = '' or not exists (
    select from worker.screened_terms where screens = p_screens and letters = any ((select worker.sequences_of_words(p_folded))::text[])) then
    return null;
  end if;
  for v_first in 1 .. cardinality(v_words) loop
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
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return worker.matching_term_rule(worker.fold_prompt(p_text), p_screens);
end $$;
comment on function worker.find_violation is 'Return the first rule that a text breaks in plain words, or NULL.';
