-- An INSERT looks for plain words and phrases. Disguises and ages are found by the worker, before a job loads anything.

drop function if exists
  worker.broken_rule(text, text),
  worker.broken_term(text, text),
  worker.names_a_minors_age(text),
  worker.finds_age(text, text, worker.prompt_folding),
  worker.is_allowed(text[], integer, integer, text),
  worker.is_whole(text, integer, text, boolean),
  worker.part_words(text),
  worker.fold_breaks(text);
drop table worker.prompt_folding;
alter table worker.screened_terms drop column skeleton;
comment on column worker.screened_terms.is_phrase is 'True for several words, which a text may write together or apart.';
