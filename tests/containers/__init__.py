"""Tests of compose.yaml with real containers: `make test-containers`."""
