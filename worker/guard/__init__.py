"""Protection of people: consent is checked again before anything is loaded, and prompts are screened."""
