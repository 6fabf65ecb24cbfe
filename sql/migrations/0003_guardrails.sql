-- What may not be asked for, in the form in which an INSERT is screened. The rows come from worker/guardrails.toml.

create table worker.screening_rules (
  id text primary key,
  screens text not null constraint screening_rules_screens_is_known check (screens in ('prompt', 'negative_prompt')),
  asks text not null
);
comment on table worker.screening_rules is 'What may not be asked for.';
comment on column worker.screening_rules.id is 'Category and number; an error message names it.';
comment on column worker.screening_rules.screens is 'A negative prompt has rules of its own: what it names is driven away.';
comment on column worker.screening_rules.asks is 'What it is, in words that quote nobody.';

create table worker.screened_terms (
  screens text not null,
  letters text not null,
  is_phrase boolean not null,
  skeleton text collate "C" not null generated always as (translate(letters, 'l', 'i')) stored,
  rule_id text not null references worker.screening_rules (id),
  primary key (screens, letters)
);
comment on table worker.screened_terms is 'Words and phrases that may not be asked for.';
comment on column worker.screened_terms.screens is 'As in its rule.';
comment on column worker.screened_terms.letters is 'Folded, without spaces.';
comment on column worker.screened_terms.is_phrase is 'Of several words: punctuation may stand between them.';
comment on column worker.screened_terms.skeleton is 'For looking up: 1 stands for i and for l, so that all three are i here.';
comment on column worker.screened_terms.rule_id is 'The rule that it breaks.';
create index screened_terms_skeleton on worker.screened_terms (screens, skeleton);
create index screened_terms_rule_id on worker.screened_terms (rule_id);

create table worker.allowed_phrases (
  screens text not null,
  phrase text not null,
  primary key (screens, phrase)
);
comment on table worker.allowed_phrases is 'Innocent phrases: inside one of them a screened term counts for nothing.';
comment on column worker.allowed_phrases.screens is 'In which kind of prompt: prompt or negative_prompt.';
comment on column worker.allowed_phrases.phrase is 'Folded.';

create table worker.prompt_folding (
  singleton boolean primary key default true constraint prompt_folding_is_one_row check (singleton),
  ignored text not null,
  look_alikes text not null,
  letters text not null,
  symbols text not null,
  signs text not null,
  sign_letters text not null,
  i_or_l text not null,
  longest_phrase integer not null,
  larger_numbers text not null,
  numbers text not null,
  innocent_ages text not null,
  ages text not null,
  age_rule_id text not null references worker.screening_rules (id)
);
comment on table worker.prompt_folding is 'One row: what is taken away from a text before it is compared, and how ages are written.';
comment on column worker.prompt_folding.singleton is 'There is one row.';
comment on column worker.prompt_folding.ignored is 'A set of a regular expression: combining marks, invisible characters, apostrophes.';
comment on column worker.prompt_folding.look_alikes is 'Upper case, and characters that look like a letter. Common ones that stay come first: that is faster.';
comment on column worker.prompt_folding.letters is 'The letter of each of look_alikes.';
comment on column worker.prompt_folding.symbols is 'What may be part of a word beside letters and digits.';
comment on column worker.prompt_folding.signs is 'Digits and symbols that stand for one letter each.';
comment on column worker.prompt_folding.sign_letters is 'The letter of each of signs.';
comment on column worker.prompt_folding.i_or_l is 'Signs that stand for i or for l.';
comment on column worker.prompt_folding.longest_phrase is 'Pieces of the longest innocent phrase.';
comment on column worker.prompt_folding.larger_numbers is 'A regular expression: numbers that end in a small one, such as twenty one.';
comment on column worker.prompt_folding.numbers is 'A regular expression: numbers below 18. They are written N then.';
comment on column worker.prompt_folding.innocent_ages is 'A regular expression: what is taken out before ages are looked for.';
comment on column worker.prompt_folding.ages is 'A regular expression: where N is somebody''s age.';
comment on column worker.prompt_folding.age_rule_id is 'The rule that such an age breaks.';
create index prompt_folding_age_rule_id on worker.prompt_folding (age_rule_id);
