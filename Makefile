# capecam: `make demo` and `make test` each work as the first command on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo

.PHONY: help setup demo test thorough check bench docs viewer plugin nightly clean

help:
	@echo "make demo    draw a sample city, explain it, compare with the truth, leave pictures and a report"
	@echo "make test    the tests that a newcomer runs (minutes)"
	@echo "make thorough the longer tests, which CI runs, too (minutes)"
	@echo "make check   lint, format and types"
	@echo "make nightly CONFIG=FILE   run and verify what is new; a log in OUT/logs (cron, systemd)"
	@echo "make bench   the engine beside other libraries; memory at full size (an hour)"
	@echo "make docs    the documentation as a site, in site/index.html"
	@echo "make viewer  the page of capecam view from its sources in viewer/; needs node and npm"
	@echo "make plugin  the QGIS plugin as a zip, in dist/"
	@echo "make setup   .venv with everything that these need"

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

demo: setup
	rm -rf $(DEMO)
	$(BIN)/capecam demo $(DEMO)
	$(BIN)/capecam run --config $(DEMO)/demo.yaml
	$(BIN)/capecam evaluate $(DEMO)/out --truth $(DEMO)/truth.gpkg --steps
	$(BIN)/capecam panel $(DEMO)/out --top 3
	$(BIN)/capecam report $(DEMO)/out

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

thorough: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m thorough

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

nightly: setup
	@$(BIN)/python scripts/nightly.py $(CONFIG)

bench: setup
	$(BIN)/capecam bench
	$(BIN)/python benchmarks/memory.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

viewer:
	cd viewer && npm ci --ignore-scripts && npm run build

plugin:
	$(PYTHON) scripts/plugin_zip.py

clean:
	rm -rf .venv $(DEMO)
