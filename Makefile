# Two commands for a newcomer: `make demo` and `make test`. Both set up what they need.
EXAMPLE ?= service
PYTHON = .venv/bin/python

.PHONY: help demo image test cover lint bench clean

help:  ## Show what there is
	@grep -hE '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 10

demo:  ## Stock a mirror for an example, build its image, and check it without a network
	@sh .ci/prepare demo
	@$(PYTHON) examples/demo.py $(EXAMPLE)

image:  ## Build the container image of lockstock itself
	@sh .ci/prepare demo
	@$(PYTHON) examples/lockstock/build.py

test:  ## Run the linters and all tests
	@sh .ci/prepare test
	@$(MAKE) --no-print-directory lint
	@# Indexes, engines and clocks of a busy machine get one more try, which is shown.
	$(PYTHON) -m pytest -n 2 --dist loadscope --reruns 1 $(ARGS)

cover:  ## Run all tests and show what they leave out
	@$(MAKE) --no-print-directory test ARGS="--cov --cov-report=term:skip-covered $(ARGS)"

lint:  ## Check style and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

bench:  ## Measure against peers (minutes; needs the network)
	@sh .ci/prepare test
	$(PYTHON) -m benchmarks.refresh
	$(PYTHON) -m benchmarks.fill
	$(PYTHON) -m benchmarks.parse
	$(PYTHON) -m benchmarks.scale
	$(PYTHON) -m benchmarks.build
	$(PYTHON) -m benchmarks.bytecode
	$(PYTHON) -m benchmarks.npm
	@# Last, for these need Debian's squid and tinyproxy, which nothing else does.
	$(PYTHON) -m benchmarks.serve
	$(PYTHON) -m benchmarks.gate

clean:  ## Remove the environment and the examples' mirrors
	rm -rf .venv examples/*/.lockstock examples/*/dist .coverage* .mypy_cache .pytest_cache .ruff_cache
