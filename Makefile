# `make demo` and `make test` set up what they need by themselves; `make help` lists everything.
SHELL := /bin/bash
PYTHON ?= python3
ROS_SOURCED := $(shell [ -n "$$ROS_DISTRO" ] && $(PYTHON) -c "import rclpy" 2>/dev/null && echo yes)

# With a ROS 2 environment sourced its rclpy is used; otherwise the ROS 2 wheels, in a venv of their own.
ifeq ($(ROS_SOURCED),yes)
VENV := $(CURDIR)/.venv-$(ROS_DISTRO)
VENV_OPTIONS := --system-site-packages
RUN_REQUIREMENTS := requirements/robot.txt requirements/demo.txt
# rclpy was built against the system's NumPy; rosdep brings these three (package.xml).
FROM_ROS := numpy|opencv-python-headless|PyYAML
else
VENV := $(CURDIR)/.venv
VENV_OPTIONS :=
RUN_REQUIREMENTS := requirements/robot.txt requirements/ros.txt requirements/demo.txt
FROM_ROS := -
export AMENT_PREFIX_PATH := $(VENV)
endif
TRAIN_REQUIREMENTS := requirements/train.txt
DEV_REQUIREMENTS := requirements/dev.txt requirements/ray.txt
ENGINE_REQUIREMENTS := requirements/engines.txt
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

INPUT ?=
CAMERA_INFO ?=
TRUTH ?=
TRUTH_SCALE ?=
MODEL ?=
ENGINE ?=
RATE ?=
TOPIC ?=
OUT ?=
option = $(if $($(1)),--$(2) "$($(1))")

.DEFAULT_GOAL := help
.PHONY: help setup setup-train setup-dev setup-engines demo test check model clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(VENV)/.run-ready  ## Virtual environment with everything the node and the demo need (no torch)

setup-train: $(VENV)/.train-ready  ## The same, and what training needs (torch)

setup-dev: $(VENV)/.dev-ready

setup-engines: $(VENV)/.engines-ready  ## OpenVINO, TensorRT-RTX and what builds an engine, beside ONNX Runtime

demo: setup  ## Camera stream -> depth: INPUT= CAMERA_INFO= TRUTH= TRUTH_SCALE=256 MODEL=models/default RATE=10 OUT=out/demo
	@$(VENV)/bin/python -m depth_ros.tools.demo \
	  $(call option,INPUT,input) $(call option,CAMERA_INFO,camera-info) $(call option,TRUTH,truth) \
	  $(call option,TRUTH_SCALE,truth-scale) $(call option,MODEL,model) $(call option,ENGINE,engine) \
	  $(call option,RATE,rate) $(call option,TOPIC,topic) $(call option,OUT,out)

PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest
ARGS ?=

# Two files at a time, in their order (else the longest comes last); those with real nodes alone: a busy machine disturbs them.
test: check setup-train setup-engines  ## Style, types and the whole test suite, or what ARGS= says to pytest
	$(if $(ARGS),$(PYTEST) $(ARGS),$(PYTEST) --numprocesses 2 --dist loadfile --no-loadscope-reorder --ignore tests/ros)
	$(if $(ARGS),,$(PYTEST) tests/ros)

check: setup setup-dev  ## Style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

DATA ?= ../shared/data
TRAIN = OMP_NUM_THREADS=$(THREADS) $(VENV)/bin/python -m training.train --set data.root=$(DATA)
THREADS ?= 1

model: setup-train  ## Train models/default again: DATA= (goes on where it was stopped)
	$(TRAIN) config/train/street.yaml
	$(TRAIN) config/train/default_teacher.yaml
	$(TRAIN) config/train/default.yaml
	$(VENV)/bin/python -m training.export runs/default/best.ckpt models/default --calibrate $(DATA)/kitti2015_stereo \
	  --trained-on "KITTI odometry 00, frames 0-899, and rendered streets; ImageNet weights" \
	  --licence "CC BY-NC-SA 3.0, non-commercial (KITTI: Geiger et al., CVPR 2012)"

clean:  ## Remove what was built and written, and the virtual environment
	rm -rf .venv .venv-* out build install log .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); depth_ros needs Python 3.10 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV_OPTIONS) $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo '*' > $(VENV)/.gitignore

# Stamps: a set of packages is installed again when its list has changed.
$(VENV)/.run-ready: $(RUN_REQUIREMENTS) | $(VENV)/bin/python
	@echo "installing $(RUN_REQUIREMENTS)"
	@sed -E '/^($(FROM_ROS))==/d' $(RUN_REQUIREMENTS) | $(PIP_INSTALL) -r /dev/stdin
	@touch $@

$(VENV)/.train-ready: $(TRAIN_REQUIREMENTS) $(VENV)/.run-ready
	@echo "installing $(TRAIN_REQUIREMENTS)"
	@$(PIP_INSTALL) $(addprefix -r ,$(TRAIN_REQUIREMENTS))
	@touch $@

$(VENV)/.dev-ready: $(DEV_REQUIREMENTS) $(VENV)/.run-ready
	@echo "installing $(DEV_REQUIREMENTS)"
	@$(PIP_INSTALL) $(addprefix -r ,$(DEV_REQUIREMENTS))
	@touch $@

$(VENV)/.engines-ready: $(ENGINE_REQUIREMENTS) $(VENV)/.run-ready
	@echo "installing $(ENGINE_REQUIREMENTS)"
	@$(PIP_INSTALL) $(addprefix -r ,$(ENGINE_REQUIREMENTS))
	@touch $@
