"""Tests; named like what they test."""
