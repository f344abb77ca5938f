# What a change has to pass before it is committed; the whole suite is the README's test command.
.PHONY: check test site kills killed speed

check:  ## layout, lint, types, fast tests: about a minute
	ruff format --check nbs
	ruff check nbs llmforge
	mypy
	pytest -q -n auto -m "not slow"

test:  ## everything, as CI runs it
	pytest -n auto

site:  ## the pages, in _site
	llmforge site

kills:  ## a campaign of kills of server, worker, Redis and PostgreSQL: its table, a quarter of an hour
	python nbs/tests/kills.py

killed:  ## 500 kills of a run, an index, a migration, a study, an export, an import: its table, a quarter of an hour
	python nbs/tests/killed.py

speed:  ## the server's pages at a team's size: CPU time of each
	python nbs/tests/speed.py
