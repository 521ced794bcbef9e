# make demo   asks Python's own documentation a few questions
# make quick  runs the tests that take less than some seconds each
# make test   runs every test
# make check  runs linter, type checker and every test
# make frameworks  installs LangChain, LlamaIndex, Haystack and DSPy too, and runs their tests (Python 3.11)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo quick test frameworks lint types check clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) with all extras: some minutes, about 3.3 GB, and several more on Linux,"
	@echo "where torch comes with CUDA. README says how to install less."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -c constraints.txt \
		-e '.[cpu,offline,parquet,train,eval,mteb,plots,serve,lancedb,qdrant,milvus,ray,onnx,dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/fastlane demo

quick: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto

test: $(VENV)/.installed
	$(BIN)/python -m pytest

frameworks: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[langchain,llama-index,haystack,dspy]' langchain-tests
	$(BIN)/python -m pytest tests/integrations

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) build *.egg-info
