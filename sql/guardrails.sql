-- What may not be asked for, when a job is inserted. The words stand in screened_terms.sql. worker/guard/screening.py finds them
-- the same way and screens every job again when it starts; it sees repeated letters and photographs' captions too.

create or replace function worker.fold_breaks(p_text text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select btrim(regexp_replace(p_text, '(?: ,|, )[, ]*', ', ', 'g'), ' ,')
$$;
comment on function worker.fold_breaks is 'Punctuation that does not touch both sides as ", ", and none at the ends.';

-- Not by lower(): what that does to ł and to I depends on the database's locale.
create or replace function worker.fold_prompt(p_text text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_folding worker.prompt_folding;
  v_text text;
begin
  select * into v_folding from worker.prompt_folding;
  -- Looks come first: NFKD makes a sigma of what looks like a c (U+03F2).
  v_text := regexp_replace(p_text, '(?<=[a-z])I|(?<=[A-Z])l(?=[A-Z])', '|', 'g');  -- "chiId", "CHlLD"
  v_text := normalize(translate(v_text, v_folding.look_alikes, v_folding.letters), NFKD);
  v_text := translate(regexp_replace(v_text, v_folding.ignored, '', 'g'), v_folding.look_alikes, v_folding.letters);
  v_text := regexp_replace(v_text, '[-_ \t\n\r\f\v\u2010-\u2015]+', ' ', 'g');
  return worker.fold_breaks(regexp_replace(v_text, '[^a-z0-9 ' || v_folding.symbols || ']+', ',', 'g'));
end $$;
comment on function worker.fold_prompt is
  'Lower-case letters, digits and the symbols that stand for letters. Between words stands one space, "," for punctuation that touches both sides, and ", " for other punctuation.';

create or replace function worker.part_words(p_folded text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select worker.fold_breaks(regexp_replace(
    regexp_replace(p_folded, '[^a-z0-9 ]+', ',', 'g'),
    '(?<![a-z])([a-z])[ ,]*[0-9]+[ ,]*(?=[a-z](?![a-z]))', '\1 ', 'g'))
$$;
comment on function worker.part_words is
  'A folded text as if its signs, and digits between single letters, stood between words: "n|u|d|e" is "n,u,d,e".';

-- Digits in a word that go on beside it, up to a letter, are a serial number ("ohwx0b00b2"), and a lone one belongs to no
-- word ("top 5 ex-models"); punctuation parts letters, and words of a phrase, but no word ("crop top, less contrast").
create or replace function worker.is_whole(p_folded text, p_start integer, p_words text, p_is_phrase boolean) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select left(p_folded, p_start - 1) !~ case when p_words ~ '[0-9]' then '[a-z][0-9]*$' else '[a-z]$' end
    and substr(p_folded, p_start + length(p_words)) !~ case when p_words ~ '[0-9]' then '^[0-9]*[a-z]' else '^[a-z]' end
    and (p_words !~ '(^|[ ,])[^a-z ,]+([ ,]|$)' and (p_is_phrase or strpos(p_words, ', ') = 0) or p_words ~ '^[^ ,]([ ,]+[^ ,])*$')
$$;
comment on function worker.is_whole is 'Whether a stretch of a folded text is a word or phrase of its own, perhaps in a disguise.';

create or replace function worker.is_allowed(p_pieces text[], p_first integer, p_last integer, p_screens text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from worker.prompt_folding
    cross join generate_series(greatest(1, p_last - longest_phrase + 1), p_first) begins
    cross join generate_series(p_last, least(cardinality(p_pieces), begins + longest_phrase - 1)) ends
    -- One at a time, by the index: a join goes through the whole list where Postgres doesn't know yet how long it is.
    cross join lateral (
      select from worker.allowed_phrases
      where screens = p_screens and phrase = ltrim(array_to_string(p_pieces[begins : ends], ''), ' ,') limit 1) allowed)
$$;
comment on function worker.is_allowed is 'Whether an innocent phrase covers these pieces of a text.';

-- A term is found wherever consecutive pieces of a text (runs of letters, runs of digits, single symbols) spell it. Terms
-- are looked up in their order, so that a stretch that begins none of them is left at once: no set of all stretches.
create or replace function worker.broken_term(p_folded text, p_screens text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_folding worker.prompt_folding;
  v_pieces text[];
  v_start integer := 1;
  v_words text;
  v_signs text;
  v_letters text;
  v_skeleton text;
  v_next text;
  v_rule_id text;
begin
  select * into v_folding from worker.prompt_folding;
  v_pieces := array(
    select part[1] from regexp_matches(p_folded, '([ ,]*(?:[a-z]+|[0-9]+|[' || v_folding.symbols || ']))', 'g') with ordinality as matched (part, position)
    order by position);
  v_signs := v_folding.signs || v_folding.i_or_l;
  v_letters := v_folding.sign_letters || repeat('i', length(v_folding.i_or_l));
  for v_first in 1 .. cardinality(v_pieces) loop
    v_words := '';
    for v_last in v_first .. cardinality(v_pieces) loop
      v_words := ltrim(v_words || v_pieces[v_last], ' ,');
      v_skeleton := translate(v_words, v_signs || 'l ,', v_letters || 'i');
      select skeleton into v_next from worker.screened_terms
      where screens = p_screens and skeleton >= v_skeleton order by skeleton limit 1;
      exit when v_next is null or not starts_with(v_next, v_skeleton);
      if v_next = v_skeleton then
        select rule_id into v_rule_id from worker.screened_terms
        where screens = p_screens and skeleton = v_skeleton and (v_words ~ '[^0-9 ,].*[^0-9 ,]' or length(letters) = 1)
          and letters like translate(translate(v_words, v_folding.i_or_l, '___'), v_signs || ' ,', v_letters)
          and worker.is_whole(p_folded, v_start + length(v_pieces[v_first]) - length(ltrim(v_pieces[v_first], ' ,')), v_words, is_phrase);
        if found and not worker.is_allowed(v_pieces, v_first, v_last, p_screens) then
          return v_rule_id;
        end if;
      end if;
    end loop;
    v_start := v_start + length(v_pieces[v_first]);
  end loop;
  return null;
end $$;
comment on function worker.broken_term is 'The rule of the first screened term in a folded text, or NULL.';

comment on column worker.prompt_folding.larger_numbers is 'A regular expression: numbers that end in a small one, such as twenty one, and those that only count.';

create or replace function worker.finds_age(p_reading text, p_edge text, p_folding worker.prompt_folding) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_text text;
begin
  v_text := regexp_replace(p_reading, p_edge || '(?:' || p_folding.larger_numbers || ')' || p_edge, '', 'g');
  v_text := regexp_replace(v_text, '(?<![0-9])' || p_edge || '(?:' || p_folding.numbers || ')' || p_edge || '(?![0-9])', 'N', 'g');
  -- Spelled words have lost their punctuation, where what is innocent ends.
  return v_text ~ (p_edge || '(?:' || p_folding.ages || ')' || p_edge)
    and (p_edge = '' or regexp_replace(v_text, p_edge || '(?:' || p_folding.innocent_ages || ')' || p_edge, '', 'g') ~ (p_edge || '(?:' || p_folding.ages || ')' || p_edge));
end $$;
comment on function worker.finds_age is 'Whether the age patterns are found between two edges: of words, or anywhere.';

-- "14yo" is "14 yo", "l4 ye4rs 0ld" is "14 years old", "a 14 y e a r s o l d" is "14yearsold"; l is i in all of them, because
-- which of the two 1 and | stand for is never known. Letters after a number are years, months, weeks, days or "lat", unless the
-- number is one too: "5ixteen".
create or replace function worker.names_a_minors_age(p_folded text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_folding worker.prompt_folding;
  v_as_numbers text := replace(regexp_replace(p_folded, '([0-9](?=[a-z])|[a-z](?=[0-9]{2} ?y)|(?<![^ ,])aged?(?=[0-9]))', '\1 ', 'g'), 'l', 'i');
  v_as_letters text;
  v_spelled text;
begin
  select * into v_folding from worker.prompt_folding;
  select string_agg(
    case when part[1] ~ '^[0-9]+$' then part[1]
      when part[1] ~ '^([lio][0-9]|1[lio])$' then translate(part[1], 'lio', '110')
      else translate(part[1], v_folding.signs || v_folding.i_or_l || 'l', v_folding.sign_letters || repeat('i', length(v_folding.i_or_l) + 1))
    end || part[2], '' order by place)
  into v_as_letters
  from regexp_matches(regexp_replace(p_folded, '(?<![^ ,])((?:[lio][0-9]|1[lio])(?=y)|[1-9][0-9]?(?=[ymwd]|l[^ ,]))', '\1 ', 'g'), '([^ ,]+)([ ,]*)', 'g') with ordinality as words (part, place);
  select replace(string_agg(replace(run[1], ' ', ''), ' ' order by place), 'l', 'i')
  into v_spelled
  from regexp_matches(regexp_replace(p_folded, '[ ,]+', ' ', 'g'), '(?<![^ ])(?:[^ ]+ |(?:[0-9] ){0,2})(?:[^ 0-9] ){2,}[^ ]*', 'g') with ordinality as runs (run, place);
  return worker.finds_age(v_as_numbers, '\y', v_folding)
    or (v_as_letters <> v_as_numbers and worker.finds_age(v_as_letters, '\y', v_folding))
    or (v_spelled is not null and worker.finds_age(v_spelled, '', v_folding));
end $$;
comment on function worker.names_a_minors_age is
  'Whether a folded text, with its digits as numbers, with those in words as letters, or spelled, says that somebody is younger than 18.';

create or replace function worker.broken_rule(p_text text, p_screens text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_folded text := worker.fold_prompt(p_text);
  v_parted text := nullif(worker.part_words(v_folded), v_folded);
begin
  return coalesce(
    worker.broken_term(v_folded, p_screens),
    worker.broken_term(v_parted, p_screens),
    case when p_screens = 'prompt' and (worker.names_a_minors_age(v_folded) or worker.names_a_minors_age(v_parted))
      then (select age_rule_id from worker.prompt_folding) end);
end $$;
comment on function worker.broken_rule is 'The first rule that a text breaks, or NULL.';
