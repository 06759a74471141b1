"""Trying policies without a running proxy: one question, files of cases, recorded decisions."""
