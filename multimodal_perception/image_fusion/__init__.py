"""Visible and thermal images made one."""
