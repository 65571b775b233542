# It needs make, Python 3.11 or newer, and its module venv. The rest is installed into .venv, and for
# test-lowest into .venv-lowest. To choose another Python: make demo PYTHON=python3.12.

PYTHON ?= python3
ARGS ?=

VENV := .venv
LOWEST := .venv-lowest
# A foreign identity server of the tests, which runs on Node.
OIDC := tests/foreign/servers/oidc_provider
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
# Named for the Python that made it: another Python makes a new one.
MADE := $(VENV)/made-by-$(subst /,-,$(PYTHON))

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-lowest simulate torture mutants bench lint clean

help:
	@echo 'make demo     run xots against a simulated Xero, logged in; Ctrl-C stops it'
	@echo '              options: make demo ARGS="--port 6001 --access-token-life 30"'
	@echo 'make test     run the tests'
	@echo '              some of them: make test ARGS="tests/house/test_floors.py -v"'
	@echo 'make test-all run these, and those that need more: the documents, foreign software, Chromium'
	@echo 'make test-lowest'
	@echo '              run them with the lowest versions of the libraries that setup.cfg permits'
	@echo 'make simulate run the keepers against a simulated store, Xero and clock'
	@echo '              options: make simulate ARGS="--seeds 1..1000 --jobs 2"; --help lists all'
	@echo 'make torture  crash and disturb real processes and stores; without ARGS it lists the ways'
	@echo '              one of them: make torture ARGS="kills --store file --forked 1000"'
	@echo 'make mutants  run the tests of the core on random mutants of it, and print the score'
	@echo '              options: make mutants ARGS="--count 300 --seed 5 --jobs 2 --minutes 40"'
	@echo 'make bench    measure the speed, beside nginx and a plain Tornado handler'
	@echo '              in two minutes: make bench ARGS="--quick"; --help lists the experiments'
	@echo 'make lint     check style and types'
	@echo 'make clean    remove all that these commands made'
	@echo
	@echo 'They use $(PYTHON); choose another Python with PYTHON=python3.12.'

# A Ctrl-C in the terminal reaches xots too, which ends with status 0. A script sends its signal to
# the xots process, not to make.
demo: $(VENV)/installed
	@exec $(VENV)/bin/xots demo $(ARGS)

test: $(VENV)/installed-dev
	@tests/debian-packages
	@exec $(VENV)/bin/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

test-all: test $(VENV)/installed-all $(VENV)/installed-node
	@tests/debian-packages all
	@exec $(VENV)/bin/python -m pytest tests/documents tests/foreign tests/browser tests/load

# Style and types are checked with the newest libraries only: the hints of older ones differ. The
# blocking client of redis-py 5, which only tests use, leaves a socket open when it cannot connect.
test-lowest: $(LOWEST)/installed $(VENV)/installed-node
	@tests/debian-packages all
	@$(LOWEST)/bin/python -m pytest --ignore=tests/house/test_quality.py \
	  -W default::pytest.PytestUnraisableExceptionWarning $(ARGS)
	@exec $(LOWEST)/bin/python -m pytest tests/documents tests/foreign tests/browser tests/load

simulate: $(VENV)/installed-dev
	@PYTHONPATH=tests exec $(VENV)/bin/python -m simulation $(ARGS)

torture: $(VENV)/installed-dev
	@tests/debian-packages
	@PYTHONPATH=tests exec $(VENV)/bin/python -m torture $(ARGS)

mutants: $(VENV)/installed-dev
	@PYTHONPATH=tests exec $(VENV)/bin/python -m torture mutants $(ARGS)

bench: $(VENV)/installed-bench
	@exec $(VENV)/bin/python -m benchmarks $(ARGS)

lint: $(VENV)/installed-dev
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy --strict

clean:
	rm -rf $(VENV) $(LOWEST) $(OIDC)/node_modules bench-results build dist *.egg-info
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE): setup.cfg pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo 'xots: there is no $(PYTHON) on this machine; install it (apt-get install python3 python3-venv),' \
	    'or name another with PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "xots: Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	    'install a newer one, and name it with PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "xots: $(PYTHON) can't make a virtual environment; install the package python3-venv" \
	    "(apt-get install python3-venv), or the one of your Python, such as python3.12-venv" >&2; exit 1; }
	@echo 'making $(VENV); the first time takes a minute'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(MADE)
	@$(PIP) install -e .
	@touch $@

# This includes the installation without the tools of development.
$(VENV)/installed-dev: $(MADE)
	@$(PIP) install -e '.[dev]'
	@touch $(VENV)/installed $@

$(VENV)/installed-bench: $(MADE)
	@$(PIP) install -e '.[bench]'
	@touch $(VENV)/installed $@

# This includes what the tests of documents, foreign software and Chromium need.
$(VENV)/installed-all: $(MADE)
	@$(PIP) install -e '.[all]'
	@touch $(VENV)/installed $(VENV)/installed-dev $@

# npm ci installs what the lock file names, and runs no program of these packages.
$(VENV)/installed-node: $(MADE) $(OIDC)/package.json $(OIDC)/package-lock.json
	@tests/debian-packages all
	@cd $(OIDC) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(LOWEST)/installed: $(MADE) tests/install-lowest
	@echo 'making $(LOWEST); it takes a minute'
	@rm -rf $(LOWEST)
	@$(PYTHON) -m venv $(LOWEST)
	@tests/install-lowest $(LOWEST)/bin/python
	@touch $@
